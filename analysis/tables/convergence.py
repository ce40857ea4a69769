"""How soon the cells of a study get to their threshold."""

from collections.abc import Mapping

import pandas as pd

from analysis.convergence import Arrival, Threshold, kaplan_meier_median
from analysis.numerics.statistics import summarize
from analysis.tables.cells import by_cell
from analysis.tables.table import Table, mean_and_sd


def convergence_table(
    finished: pd.DataFrame, measured: pd.DataFrame, thresholds: Mapping[str, Threshold], *, metric: str
) -> Table:
    """Count who reached the threshold and when, per cell."""
    joined = finished.merge(measured, on="trial_id", how="inner")
    sign = "≤" if metric.endswith("loss") else "≥"
    data, display = [], []
    for (setting, init), rows in by_cell(joined):
        arrivals = [Arrival(int(s), bool(r)) for s, r in zip(rows["steps"], rows["reached"], strict=True)]
        median = kaplan_meier_median(arrivals)
        area = summarize(rows["curve_area"])
        threshold = thresholds[str(rows["dataset"].iloc[0])]
        n_reached = sum(arrival.reached for arrival in arrivals)
        data.append(
            {
                "setting": setting,
                "init": init,
                "metric": metric,
                "threshold": threshold.value,
                "threshold_origin": threshold.origin,
                "n_reached": n_reached,
                "n_trials": len(arrivals),
                "median_steps": median,
                "curve_area_mean": area.mean,
                "curve_area_sd": area.sd,
            }
        )
        longest = max(arrival.step for arrival in arrivals)
        display.append(
            {
                "setting": setting,
                "initialization": init,
                "threshold": f"{sign} {threshold.value:.4f}",
                "reached": f"{n_reached} of {len(arrivals)}",
                "median steps": f"{median:,}" if median is not None else f"> {longest:,}",
                "area under curve": mean_and_sd(area),
            }
        )
    columns = ["setting", "initialization", "threshold", "reached", "median steps", "area under curve"]
    origins = "; ".join(f"{dataset}: {t.value:.4f}, {t.origin}" for dataset, t in sorted(thresholds.items()))
    note = (
        f"Optimizer steps until {metric} reaches the threshold at an evaluation. Thresholds: "
        f"{origins or 'none'}. The median is Kaplan–Meier's: a seed that never arrives counts as later "
        f"than its last step. The area is the mean of {metric} over log(1 + step)."
    )
    frame = pd.DataFrame(data)
    return Table("convergence", "Convergence", note, frame, pd.DataFrame(display, columns=columns))
