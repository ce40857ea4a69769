"""How fast trainings get there: steps to a threshold, with the trainings that never reach it censored.

A trial that ends below the threshold is no missing value: it says "more than N steps". Its cell's median
is therefore a Kaplan–Meier estimate, and the table counts how many trials arrived.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd

DEFAULT_SHARE_OF_BEST = 0.99

AREA_FROM_SHARE = 0.03
"""Share of the training after which the area under the curve begins: before it a score is mostly that of an
untrained head, and the logarithm would give its luck much weight."""

SPENT = {"images": "images_seen", "training_seconds": "train_seconds"}
"""What a trial has spent by a step -> the metric that recorded it."""


@dataclass(frozen=True)
class Threshold:
    """The value to reach on one dataset, and where it comes from (for people)."""

    value: float
    origin: str


@dataclass(frozen=True)
class Arrival:
    """When one trial reached the threshold.

    Attributes:
        step: of the first evaluation at or beyond the threshold, or of the last one if there is none; a
            count of images or seconds may stand for the step.
        reached: False for a censored trial.
    """

    step: float
    reached: bool


def larger_is_better(metric: str) -> bool:
    """Say which way a metric improves: all of this project but the losses grow."""
    return not metric.endswith("loss")


def arrival(
    steps: Sequence[int], values: Sequence[float], *, threshold: float, rising: bool = True
) -> Arrival:
    """Find the first evaluation that reaches the threshold.

    Args:
        steps: ascending optimizer steps of the evaluations.
        values: of the metric; NaN reaches nothing.
        rising: whether larger values are better.

    Raises:
        ValueError: there is no evaluation at all.
    """
    if len(steps) == 0:
        raise ValueError("steps to a threshold need at least one evaluation, got none")
    measured = np.asarray(values, dtype=float)
    arrived = measured >= threshold if rising else measured <= threshold
    if arrived.any():
        return Arrival(int(steps[int(arrived.argmax())]), True)
    return Arrival(int(steps[-1]), False)


def kaplan_meier_median(arrivals: Sequence[Arrival]) -> float | None:
    """Return the step by which half of the trials have arrived, or None if that is never seen.

    When exactly half are waiting between two arrivals, it is the middle between them, so that without
    censoring it is the ordinary median. A trial that arrives at the step at which another is censored is
    counted before it.
    """
    half = Fraction(1, 2)
    waiting, halved_at = Fraction(1), None
    for step in sorted({a.step for a in arrivals if a.reached}):
        if halved_at is not None:
            return (halved_at + step) / 2
        at_risk = sum(a.step >= step for a in arrivals)
        arriving = sum(a.step == step and a.reached for a in arrivals)
        waiting *= 1 - Fraction(arriving, at_risk)
        if waiting < half:
            return step
        if waiting == half:
            halved_at = step
    return halved_at


def area_under_learning_curve(
    steps: Sequence[int], values: Sequence[float], *, from_step: float = 0
) -> float:
    """Return the mean of the metric over training, with log(1 + step) as the axis.

    Evaluations before `from_step` are left out.

    The logarithm gives the early steps, where initializations differ, their weight. The result has the
    metric's unit. NaN values are left out; fewer than two values give NaN.
    """
    axis, measured = np.log1p(np.asarray(steps, dtype=float)), np.asarray(values, dtype=float)
    kept = ~np.isnan(measured) & (np.asarray(steps, dtype=float) >= from_step)
    axis, measured = axis[kept], measured[kept]
    if axis.size < 2:
        return float("nan")
    return float(np.trapezoid(measured, axis) / (axis[-1] - axis[0]))


def choose_thresholds(
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    *,
    metric: str,
    baseline: str,
    given: Mapping[str, float],
) -> dict[str, Threshold]:
    """Return the threshold of every dataset: the given one, or 99 % of what the baseline reaches.

    Without a baseline trial on a dataset, all its trials stand in for the baseline; the origin says so.

    Args:
        trials: of `analysis.load.load_trials`.
        histories: long table with trial_id, metric, step, value.
        baseline: label or kind of an initialization.
        given: by dataset label.
    """
    rising = larger_is_better(metric)
    values = histories[histories["metric"] == metric].groupby("trial_id")["value"]
    best = values.max() if rising else values.min()
    thresholds = {}
    for dataset, rows in trials.groupby("dataset"):
        label = str(dataset)
        if label in given:
            thresholds[label] = Threshold(float(given[label]), "given in the study file")
            continue
        is_baseline = (rows["init"] == baseline) | (rows["init_kind"] == baseline)
        chosen, who = (rows[is_baseline], baseline) if is_baseline.any() else (rows, "all cells")
        mean_best = best.reindex(chosen["trial_id"]).mean()
        if np.isnan(mean_best):
            continue
        share = DEFAULT_SHARE_OF_BEST if rising else 1 / DEFAULT_SHARE_OF_BEST
        origin = f"{share:.3g} × the mean best {metric} of {who}"
        thresholds[label] = Threshold(float(share * mean_best), origin)
    return thresholds


def measure_convergence(
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    *,
    metric: str,
    thresholds: Mapping[str, Threshold],
) -> pd.DataFrame:
    """Return one row per trial with a history.

    Columns: trial_id, threshold, steps, reached, images, training_seconds, curve_area.

    `images` and `training_seconds` are those seen and spent by the step of arrival; NaN where a trial did
    not record them. Only finished trials belong here: a failed one stopped for another reason than its
    learning.
    """
    curves = dict(list(histories.groupby(["trial_id", "metric"])))
    rows = []
    for trial in trials.to_dict("records"):
        threshold = thresholds.get(trial["dataset"])
        curve = curves.get((trial["trial_id"], metric))
        if threshold is None or curve is None:
            continue
        steps, values = curve["step"].tolist(), curve["value"].tolist()
        came = arrival(steps, values, threshold=threshold.value, rising=larger_is_better(metric))
        spent = {
            name: _at_step(curves.get((trial["trial_id"], recorded)), came.step)
            for name, recorded in SPENT.items()
        }
        area = area_under_learning_curve(steps, values, from_step=AREA_FROM_SHARE * steps[-1])
        rows.append(
            {"trial_id": trial["trial_id"], "threshold": threshold.value, "steps": came.step}
            | {"reached": came.reached, **spent, "curve_area": area}
        )
    return pd.DataFrame(rows, columns=["trial_id", "threshold", "steps", "reached", *SPENT, "curve_area"])


def _at_step(curve: pd.DataFrame | None, step: float) -> float:
    values = curve[curve["step"] == step]["value"] if curve is not None else pd.Series(dtype=float)
    return float(values.iloc[0]) if len(values) else float("nan")
