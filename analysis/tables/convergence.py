"""How soon the cells of a study get to their threshold, and what every further transfused stage adds."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from analysis.convergence import AREA_FROM_SHARE, SPENT, Arrival, Threshold, kaplan_meier_median
from analysis.numerics.statistics import Summary, paired_difference, summarize
from analysis.tables.cells import by_cell, by_seed
from analysis.tables.table import ABSENT, Table, mean_and_sd, with_interval


def convergence_table(
    finished: pd.DataFrame, measured: pd.DataFrame, thresholds: Mapping[str, Threshold], *, metric: str
) -> Table:
    """Count who reached the threshold and when, per cell, in steps, images and seconds of training."""
    joined = finished.merge(measured, on="trial_id", how="inner")
    sign = "≤" if metric.endswith("loss") else "≥"
    data, display = [], []
    for (setting, init), rows in by_cell(joined):
        median = _median(rows, "steps")
        spent = {name: _median(rows, name) for name in SPENT}
        area = summarize(rows["curve_area"])
        threshold = thresholds[str(rows["dataset"].iloc[0])]
        n_reached = int(rows["reached"].sum())
        data.append(
            {
                "setting": setting,
                "init": init,
                "metric": metric,
                "threshold": threshold.value,
                "threshold_origin": threshold.origin,
                "n_reached": n_reached,
                "n_trials": len(rows),
                "median_steps": median,
                "median_images": spent["images"],
                "median_seconds": spent["training_seconds"],
                "curve_area_mean": area.mean,
                "curve_area_sd": area.sd,
            }
        )
        display.append(
            {
                "setting": setting,
                "initialization": init,
                "threshold": f"{sign} {threshold.value:.4f}",
                "reached": f"{n_reached} of {len(rows)}",
                "median steps": _or_later(median, rows["steps"]),
                "images": _or_later(spent["images"], rows["images"]),
                "seconds": _or_later(spent["training_seconds"], rows["training_seconds"]),
                "area under curve": mean_and_sd(area),
            }
        )
    columns = [
        "setting", "initialization", "threshold", "reached", "median steps", "images", "seconds",
        "area under curve",
    ]  # fmt: skip
    origins = "; ".join(f"{dataset}: {t.value:.4f}, {t.origin}" for dataset, t in sorted(thresholds.items()))
    note = (
        f"Optimizer steps, training images and seconds until {metric} reaches the threshold at an "
        f"evaluation. Thresholds: {origins or 'none'}. The median is Kaplan–Meier's: a seed that never "
        f"arrives counts as later than its last step. Seconds are those of the machines that trained, "
        f"whatever else ran there. The area is the mean of {metric} over log(1 + step), from "
        f"{AREA_FROM_SHARE:.0%} of the training on; mean ± standard deviation over seeds."
    )
    frame = pd.DataFrame(data)
    return Table("convergence", "Convergence", note, frame, pd.DataFrame(display, columns=columns))


def marginal_gain_table(finished: pd.DataFrame, measured: pd.DataFrame, *, primary: str, name: str) -> Table:
    """Say what each further transfused stage adds to the area under the learning curve and to the test score.

    Args:
        primary: the test metric; `name` is what people call it.
    """
    joined = finished.merge(measured[["trial_id", "curve_area"]], on="trial_id", how="inner")
    joined = joined[joined["depth"].notna()]
    data, display = [], []
    for setting, rows in joined.groupby("setting", sort=False):
        for (source, rest), series in _series(rows):
            depths = sorted(set(series["depth"]))
            for lower, upper in pairwise(depths):
                pair = series[series["depth"] == lower], series[series["depth"] == upper]
                gains = {metric: _gain(*pair, metric) for metric in ("curve_area", primary)}
                facts = {"setting": setting, "source": source, "rest": rest}
                data.append(facts | {"from_depth": lower, "to_depth": upper} | _columns(gains))
                display.append(
                    {
                        "setting": setting,
                        "other stages": rest,
                        "from": str(pair[0]["init"].iloc[0]),
                        "to": str(pair[1]["init"].iloc[0]),
                        "pairs": str(gains["curve_area"].n),
                        "area under curve": with_interval(gains["curve_area"]),
                        name: with_interval(gains[primary]),
                    }
                )
    columns = ["setting", "other stages", "from", "to", "pairs", "area under curve", name]
    note = (
        "Gain of each step in depth over the one before, paired by seed, with Student's t interval (95 %), "
        "not corrected for the number of comparisons."
    )
    shown = pd.DataFrame(display, columns=columns)
    return Table("marginal_gain", "Marginal gain per transfused stage", note, pd.DataFrame(data), shown)


def _series(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Split transfusions by source and by what fills the other stages; the ends belong to every series."""
    transfused = rows[rows["init_kind"] == "transfusion"]
    series = []
    for (source, rest), middle in transfused.groupby(["source", "rest"], sort=False):
        start = rows[rows["init_kind"] == "random"] if rest == "random" else rows.iloc[:0]
        full = rows[(rows["init_kind"] == "pretrained") & (rows["source"] == source)]
        series.append(((str(source), str(rest)), pd.concat([start, middle, full])))
    return series


def _gain(lower: pd.DataFrame, upper: pd.DataFrame, metric: str) -> Summary:
    return paired_difference(by_seed(upper, metric), by_seed(lower, metric))


def _columns(gains: Mapping[str, Summary]) -> dict[str, Any]:
    return {
        f"{metric}_{field}": getattr(gain, field)
        for metric, gain in gains.items()
        for field in ("mean", "low", "high", "n")
    }


def _median(rows: pd.DataFrame, column: str) -> float | None:
    known = rows[rows[column].notna()]
    arrivals = [Arrival(v, bool(r)) for v, r in zip(known[column], known["reached"], strict=True)]
    return kaplan_meier_median(arrivals) if arrivals else None


def _or_later(median: float | None, values: pd.Series) -> str:
    """Write a median; where half of the seeds never arrive, that it is beyond what they spent."""
    if values.isna().all():
        return ABSENT
    return f"{round(median):,}" if median is not None else f"> {round(values.max()):,}"
