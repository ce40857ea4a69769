"""Averages over seeds and differences between cells, with their uncertainty."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """The values of one cell.

    Attributes:
        n: how many values are numbers; NaN values are left out and not counted.
        mean: NaN without a value.
        sd: with n - 1 in the denominator; NaN for fewer than two values.
        low, high: Student's t interval of the mean; NaN for fewer than two values.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def summarize(values: Iterable[float], *, confidence: float = 0.95) -> Summary:
    """Summarise repeated measurements that are assumed independent and roughly normal."""
    numbers = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if numbers.size == 0:
        return Summary(0, math.nan, math.nan, math.nan, math.nan)
    mean = float(numbers.mean())
    if numbers.size == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    sd = float(numbers.std(ddof=1))
    half_width = float(stats.t.ppf((1 + confidence) / 2, numbers.size - 1)) * sd / math.sqrt(numbers.size)
    return Summary(numbers.size, mean, sd, mean - half_width, mean + half_width)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], *, confidence: float = 0.95
) -> Summary:
    """Summarise value - baseline over the seeds both have.

    Trials of one seed share their split and the order of their batches, so pairing removes what these
    add to both.

    Args:
        values: by seed.
        baseline: by seed.
    """
    shared = sorted(set(values) & set(baseline))
    return summarize((values[seed] - baseline[seed] for seed in shared), confidence=confidence)
