"""How well the cells of a study do, over all classes and by class."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.numerics.statistics import Summary, summarize
from analysis.searches import Searches
from analysis.tables.cells import baseline_rows, by_cell, paired_by_seed
from analysis.tables.table import ABSENT, CLASS_METRICS, METRIC_NAMES, Table, mean_and_sd, with_interval

TRIED, BEST = "settings tried", "best setting"


def performance_table(
    finished: pd.DataFrame, *, baseline: str, primary: str, searches: Searches | None = None
) -> Table:
    """Average every test metric over the seeds of a cell, and compare with the baseline of its setting.

    Args:
        finished: rows of finished trials.
        baseline: label or kind of an initialization.
        primary: the metric whose difference is displayed; `data` holds those of all metrics.
        searches: of cells whose settings were searched: how many each tried is told beside its seeds.
    """
    metrics = [metric for metric in METRIC_NAMES if metric in finished]
    shown = [metric for metric in metrics if metric != "test_loss" or primary == metric]
    if "test_f1_micro" in shown and np.allclose(
        finished["test_f1_micro"], finished["test_accuracy"], equal_nan=True
    ):
        shown.remove("test_f1_micro")  # of single labels it is the accuracy
    shown.sort(key=lambda metric: metric != primary)
    difference_column = f"{METRIC_NAMES[primary]} − {baseline} [95 % interval]"
    data, display = [], []
    for (setting, init), rows in by_cell(finished):
        base = baseline_rows(finished[finished["setting"] == setting], baseline)
        search = (searches or {}).get((setting, init))
        line = {"setting": setting, "initialization": init, "seeds": _seeds(rows, primary)}
        if search is not None:
            line |= {TRIED: str(len(search.tried)), BEST: search.best_in_words}
        for metric in metrics:
            summary = summarize(rows[metric])
            difference = paired_by_seed(rows, base, metric)
            data.append(_performance_row(setting, init, metric, summary, difference))
            if search is not None:
                data[-1] |= {"settings_tried": len(search.tried), "best_setting": search.best_in_words}
            if metric in shown:
                line[METRIC_NAMES[metric]] = mean_and_sd(summary)
            if metric == primary:
                is_baseline = not base.empty and init in set(base["init"])
                line[difference_column] = "baseline" if is_baseline else with_interval(difference)
        display.append(line)
    names = [METRIC_NAMES[metric] for metric in shown]
    columns = ["setting", "initialization", "seeds", *names[:1], difference_column, *names[1:]]
    if searches:
        columns = [*columns[:3], TRIED, *columns[3:], BEST]
    note = (
        "Test split, weights of the best validation step. Mean ± standard deviation over seeds. "
        f"The difference to {baseline} is paired by seed, with Student's t interval; intervals are not "
        "corrected for the number of comparisons."
    )
    if searches:
        note += (
            " Each cell is at the best of the settings that were tried in it, chosen on the validation "
            "split, with which it was trained anew."
        )
    return Table(
        "performance", "Performance", note, pd.DataFrame(data), pd.DataFrame(display, columns=columns)
    )


def _seeds(rows: pd.DataFrame, metric: str) -> str:
    """Count the seeds that have the metric; of how many, where some lack it."""
    n_known = int(rows[metric].notna().sum()) if metric in rows else 0
    return str(len(rows)) if n_known == len(rows) else f"{n_known} of {len(rows)}"


def class_table(finished: pd.DataFrame, metric: str) -> Table:
    """Average a test metric of single classes (or labels) over the seeds of a cell.

    Args:
        metric: an entry of CLASS_METRICS.
    """
    prefix = f"test_{metric}/"
    data, display = [], []
    for (setting, init), rows in by_cell(finished):
        line = {"setting": setting, "initialization": init, "seeds": str(len(rows))}
        columns = [name for name in rows if str(name).startswith(prefix) and rows[name].notna().any()]
        if metric == "auroc" and len(columns) == 2 and np.allclose(rows[columns[0]], rows[columns[1]]):
            continue  # of two classes, unlike two labels, both have the area of the whole
        for column in columns:
            summary = summarize(rows[column])
            name = str(column).removeprefix(prefix)
            line[name] = mean_and_sd(summary, digits=3)
            facts = {"setting": setting, "init": init, "class": name, "metric": metric}
            data.append({**facts, "n_seeds": summary.n, "mean": summary.mean, "sd": summary.sd})
        display.append(line)
    name = CLASS_METRICS[metric]
    note = f"{name} of every class (or label), test split, weights of the best validation step; mean ± sd."
    frame = pd.DataFrame(data, columns=["setting", "init", "class", "metric", "n_seeds", "mean", "sd"])
    shown = pd.DataFrame(display).astype(object) if data else pd.DataFrame()
    return Table(f"{metric}_by_class", f"{name} by class", note, frame, shown.where(shown.notna(), ABSENT))


def _performance_row(
    setting: str, init: str, metric: str, summary: Summary, difference: Summary
) -> dict[str, Any]:
    return {
        "setting": setting,
        "init": init,
        "metric": metric,
        "n_seeds": summary.n,
        "mean": summary.mean,
        "sd": summary.sd,
        "low": summary.low,
        "high": summary.high,
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "n_pairs": difference.n,
    }
