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
    return summarize(_differences(values, baseline), confidence=confidence)


@dataclass(frozen=True)
class PairedTest:
    """Student's two-sided t test of paired differences against 0.

    Attributes:
        n: pairs whose difference is a number.
        t, p: NaN for fewer than two pairs, and where all differences are equal up to rounding: without any
            spread there is nothing to test against.
    """

    n: int
    t: float
    p: float


def paired_test(values: Mapping[int, float], baseline: Mapping[int, float]) -> PairedTest:
    """Test whether values differ from the baseline on average, over the seeds both have."""
    difference = summarize(_differences(values, baseline))
    scale = max((abs(v) for v in (*values.values(), *baseline.values()) if not math.isnan(v)), default=0.0)
    if difference.n < 2 or difference.sd <= 8 * np.finfo(float).eps * scale:
        return PairedTest(difference.n, math.nan, math.nan)
    t = difference.mean / (difference.sd / math.sqrt(difference.n))
    return PairedTest(difference.n, t, 2 * float(stats.t.sf(abs(t), difference.n - 1)))


def bootstrap_interval(
    values: Iterable[float], *, confidence: float = 0.95, n_replicates: int = 2000, seed: int = 0
) -> Summary:
    """Summarise like `summarize`, with the percentile bootstrap interval of the mean (Efron 1979).

    It assumes no shape, but for few seeds it is too narrow: it takes the sd with n in the denominator and
    normal instead of t quantiles, so that of three normal values about 75 % of the 95 % intervals hold the
    true mean. Below some ten values, prefer `summarize`. A bootstrap-t interval would be no way out: with
    three values one resample in nine has no spread to divide by.
    """
    numbers = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    plain = summarize(numbers, confidence=confidence)
    if plain.n < 2:
        return plain
    drawn = np.random.default_rng(seed).integers(plain.n, size=(n_replicates, plain.n))
    low, high = np.quantile(numbers[drawn].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Summary(plain.n, plain.mean, plain.sd, float(low), float(high))


MOST_SEEDS = 1_000_000


def seeds_needed(
    sd_of_differences: float, effect: float, *, confidence: float = 0.95, power: float = 0.8
) -> float:
    """Return how many seeds a paired t test needs to find a difference of this size.

    The smallest n whose power, by the noncentral t distribution (not its normal approximation), reaches
    `power`. An sd that was itself estimated from three seeds is known to a factor of about 6 only: read the
    result as an order of magnitude.

    Args:
        effect: the true difference; its sign does not matter.

    Returns:
        A whole number of at least 2. Infinite for no effect, or above MOST_SEEDS; NaN where an argument is
        NaN, or without any spread, as the test is then not defined.

    Raises:
        ValueError: the sd is negative, or the power is not above the error rate and below 1.
    """
    if sd_of_differences < 0:
        raise ValueError(f"a standard deviation is at least 0, got {sd_of_differences}")
    if not 1 - confidence < power < 1:
        raise ValueError(f"power must lie between {1 - confidence:.3g} and 1, got {power}")
    if math.isnan(sd_of_differences) or math.isnan(effect) or sd_of_differences == 0:
        return math.nan
    ratio = abs(effect) / sd_of_differences
    if paired_power(MOST_SEEDS, ratio, confidence=confidence) < power:
        return math.inf
    too_few, enough = 1, 2
    while paired_power(enough, ratio, confidence=confidence) < power:
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if paired_power(middle, ratio, confidence=confidence) < power:
            too_few = middle
        else:
            enough = middle
    return float(enough)


def paired_power(n: int, effect_in_sd: float, *, confidence: float = 0.95) -> float:
    """Return how often a two-sided paired t test of n differences finds an effect given in their sd."""
    noncentrality = abs(effect_in_sd) * math.sqrt(n)
    critical = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    # The tail on the wrong side is below 1e-20 beyond 10, where scipy may give NaN.
    wrong_side = float(stats.nct.cdf(-critical, n - 1, noncentrality)) if noncentrality < 10 else 0.0
    return float(stats.nct.sf(critical, n - 1, noncentrality)) + wrong_side


def _differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    return [values[seed] - baseline[seed] for seed in sorted(set(values) & set(baseline))]
