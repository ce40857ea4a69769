"""The tables of a study: numbers for programs in `data`, text for people in `display`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from analysis.convergence import Arrival, Threshold, kaplan_meier_median
from analysis.statistics import Summary, paired_difference, summarize

METRIC_NAMES = {
    "test_auroc": "AUROC",
    "test_auprc": "AUPRC",
    "test_accuracy": "accuracy",
    "test_f1": "F1",
    "test_f1_micro": "micro F1",
    "test_kappa": "kappa",
    "test_loss": "loss",
}
CLASS_METRICS = {"auroc": "AUROC", "f1": "F1"}
MEASURE_NAMES = {"svcca": "SVCCA", "mean_cca": "mean CCA", "linear_cka": "linear CKA"}
ABSENT = "–"


class PlannedCell(Protocol):
    """One line of a study's plan.

    Attributes:
        label: what people call the cell or trial.
        state: done, partial, failed, to run, waiting, excluded.
        reason: why it is in that state; may be empty.
    """

    @property
    def label(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True)
class Table:
    """A table in two forms.

    Attributes:
        name: of its files.
        note: what a reader must know to read it.
        data: tidy numbers, NaN where there is none.
        display: text, the columns as people read them.
    """

    name: str
    title: str
    note: str
    data: pd.DataFrame
    display: pd.DataFrame


def performance_table(finished: pd.DataFrame, *, baseline: str, primary: str) -> Table:
    """Average every test metric over the seeds of a cell, and compare with the baseline of its setting.

    Args:
        finished: rows of finished trials.
        baseline: label or kind of an initialization.
        primary: the metric whose difference is displayed; `data` holds those of all metrics.
    """
    metrics = [metric for metric in METRIC_NAMES if metric in finished]
    shown = [metric for metric in metrics if metric != "test_loss" or primary == metric]
    difference_column = f"{METRIC_NAMES[primary]} − {baseline} [95 % interval]"
    data, display = [], []
    for (setting, init), rows in _by_cell(finished):
        base = baseline_rows(finished[finished["setting"] == setting], baseline)
        line = {"setting": setting, "initialization": init, "seeds": str(len(rows))}
        for metric in metrics:
            summary = summarize(rows[metric])
            difference = _difference(rows, base, metric)
            data.append(_performance_row(setting, init, metric, summary, difference))
            if metric in shown:
                line[METRIC_NAMES[metric]] = mean_and_sd(summary)
            if metric == primary:
                is_baseline = not base.empty and init in set(base["init"])
                line[difference_column] = "baseline" if is_baseline else with_interval(difference)
        display.append(line)
    columns = ["setting", "initialization", "seeds", *(METRIC_NAMES[m] for m in shown), difference_column]
    note = (
        "Test split, weights of the best validation step. Mean ± standard deviation over seeds. "
        f"The difference to {baseline} is paired by seed, with Student's t interval; intervals are not "
        "corrected for the number of comparisons."
    )
    return Table(
        "performance", "Performance", note, pd.DataFrame(data), pd.DataFrame(display, columns=columns)
    )


def class_table(finished: pd.DataFrame, metric: str) -> Table:
    """Average a test metric of single classes (or labels) over the seeds of a cell.

    Args:
        metric: an entry of CLASS_METRICS.
    """
    prefix = f"test_{metric}/"
    data, display = [], []
    for (setting, init), rows in _by_cell(finished):
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


def convergence_table(
    finished: pd.DataFrame, measured: pd.DataFrame, thresholds: Mapping[str, Threshold], *, metric: str
) -> Table:
    """Count who reached the threshold and when, per cell."""
    joined = finished.merge(measured, on="trial_id", how="inner")
    sign = "≤" if metric.endswith("loss") else "≥"
    data, display = [], []
    for (setting, init), rows in _by_cell(joined):
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


def similarity_table(similarity: pd.DataFrame) -> Table:
    """Average the similarities over seeds or pairs; the noise floor stands beside each."""
    computed = similarity[similarity["value"].notna()]
    keys = ["kind", "setting", "init_x", "init_y", "stage"]
    data, display = [], []
    for key, rows in computed.groupby(keys, sort=False):
        kind, setting, init_x, init_y, stage = map(str, key)
        n_samples = rows["n_samples"].max()
        line = {
            "compared": kind,
            "setting": setting,
            "initialization": init_x if init_x == init_y else f"{init_x}, {init_y}",
            "stage": stage,
            "samples": ABSENT if pd.isna(n_samples) else f"{int(n_samples):,}",
        }
        for measure, values in rows.groupby("measure", sort=False):
            summary = summarize(values["value"])
            floor = float(values["noise_floor"].mean())
            line[MEASURE_NAMES[str(measure)]] = f"{mean_and_sd(summary, digits=2)} (floor {floor:.2f})"
            line["pairs"] = str(summary.n)
            data.append(
                dict(zip(keys, key, strict=True))
                | {"measure": measure, "n_pairs": summary.n, "mean": summary.mean, "sd": summary.sd}
                | {"noise_floor": floor, "n_samples": n_samples}
                | {side: values[side].mean() for side in ("directions_x", "directions_y")}
            )
        display.append(line)
    columns = ["compared", "setting", "initialization", "stage", "pairs", "samples", *MEASURE_NAMES.values()]
    note = (
        "1 is identical. The floor is what unrelated activations of the same size give: only what stands "
        "above it is similarity. “top two” is the mean over the last two backbone stages."
    )
    text = pd.DataFrame(display, columns=columns).astype(object)
    text = text.where(text.notna(), ABSENT)
    return Table("similarity", "Similarity of representations", note, pd.DataFrame(data), text)


def missing_table(trials: pd.DataFrame, planned: Sequence[PlannedCell], similarity: pd.DataFrame) -> Table:
    """List what the study lacks: planned cells that are not done, failed trials, missing comparisons."""
    lines = [(cell.label, cell.state, cell.reason) for cell in planned if cell.state != "done"]
    listed = {label for label, _, _ in lines}
    for trial in trials[trials["status"] != "finished"].to_dict("records"):
        if not listed & {trial["label"], trial["label"].rpartition(" · seed ")[0]}:
            lines.append((trial["label"], trial["status"], trial["cause"]))
    without_value = similarity[similarity["reason"] != ""]
    for key, rows in without_value.groupby(["kind", "setting", "init_x", "reason"], sort=False):
        kind, setting, init, reason = map(str, key)
        seeds = ", ".join(map(str, sorted(set(rows["seed_x"]))))
        lines.append((f"{kind} similarity · {setting} · {init} · seed {seeds}", "not computed", reason))
    frame = pd.DataFrame(lines, columns=["what", "state", "reason"])
    note = "Planned trials without a finished trial, trials that failed, comparisons that could not be made."
    return Table("missing", "What is missing", note, frame, frame.replace("", ABSENT))


def sources_table(trials: pd.DataFrame) -> Table:
    """List the trainings that only serve as a source of weights."""
    rows = trials[trials["is_source"]]
    metrics = [metric for metric in METRIC_NAMES if metric in rows and metric != "test_loss"]
    display = pd.DataFrame(
        [
            {"training": row["label"], "state": row["status"]}
            | {METRIC_NAMES[metric]: _number(row[metric]) for metric in metrics}
            for row in rows.to_dict("records")
        ],
        columns=["training", "state", *(METRIC_NAMES[metric] for metric in metrics)],
    )
    note = "Their weights are what the pretrained networks start from. Test split of the source dataset."
    return Table(
        "sources", "Source trainings", note, rows[["trial_id", "label", "status", *metrics]], display
    )


def baseline_rows(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the trials of the baseline: one initialization, named by its label, or the first of its kind."""
    by_label = rows[rows["init"] == baseline]
    if not by_label.empty:
        return by_label
    of_kind = rows[rows["init_kind"] == baseline]
    return of_kind[of_kind["init"] == of_kind["init"].iloc[0]] if not of_kind.empty else of_kind


def mean_and_sd(summary: Summary, *, digits: int = 4) -> str:
    """`0.9731 ± 0.0021`; without ± for one seed."""
    if summary.n == 0:
        return ABSENT
    if summary.n == 1:
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f} ± {summary.sd:.{digits}f}"


def signed(value: float, *, digits: int = 4) -> str:
    """`+0.0120` or `−0.0120`, with a true minus sign; no sign where all digits are 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def with_interval(difference: Summary) -> str:
    """`+0.0120 [−0.0031, +0.0271]`; without the interval for one pair."""
    if difference.n == 0:
        return ABSENT
    if difference.n == 1:
        return f"{signed(difference.mean)} [one pair]"
    return f"{signed(difference.mean)} [{signed(difference.low)}, {signed(difference.high)}]"


def by_seed(rows: pd.DataFrame, metric: str) -> dict[int, float]:
    """Return a metric of one cell by seed.

    Raises:
        ValueError: a seed comes twice: the rows are of several cells.
    """
    if rows["seed"].duplicated().any():
        raise ValueError(f"expected the trials of one cell, got seeds {sorted(rows['seed'])}")
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows[metric], strict=True)}


def _by_cell(rows: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return rows.groupby(["setting", "init"], sort=False)


def _difference(rows: pd.DataFrame, base: pd.DataFrame, metric: str) -> Summary:
    return paired_difference(by_seed(rows, metric), by_seed(base, metric))


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


def _number(value: float) -> str:
    return ABSENT if pd.isna(value) else f"{value:.4f}"
