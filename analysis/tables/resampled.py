"""How sure the metrics of cells and their differences are, given the patients in the test split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.numerics.delong import auroc_interval
from analysis.numerics.resampling import (
    Interval,
    Replicates,
    draw_weights,
    percentile_interval,
    resample_metrics,
)
from analysis.predictions import Predictions, align, decided_columns, ensemble, ranked_columns
from analysis.tables.cells import baseline_rows, by_cell
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, signed

RESAMPLED = ("auroc", "auprc", "f1")
ENSEMBLE, MEAN_OF_SEEDS = "ensemble", "mean of seeds"

_COLUMNS = (
    "setting", "init", "of", "metric", "n_seeds", "n_samples", "n_groups", "estimate", "low", "high",
    "n_replicates", "n_undefined", "delong_low", "delong_high", "difference", "difference_low",
    "difference_high", "difference_n_replicates", "n_pairs",
)  # fmt: skip


@dataclass(frozen=True)
class Resampled:
    """What resampling one setting gave.

    Attributes:
        data, display: rows of the table.
        lacking: which trials took no part, and why.
    """

    data: Sequence[Mapping[str, Any]]
    display: Sequence[Mapping[str, Any]]
    lacking: Sequence[str]


def resample_setting(
    rows: pd.DataFrame,
    predictions: Mapping[str, Predictions],
    *,
    baseline: str,
    missing: Mapping[str, str] | None = None,
    n_replicates: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample the groups of the test split of a setting, for every cell and its difference to the baseline.

    Args:
        rows: the finished trials of the setting.
        predictions: of the test split, by trial_id.
        baseline: label or kind of an initialization.
        missing: why a trial has no predictions, by trial_id.
        seed: of the draws.
    """
    reasons = dict(missing or {})
    data, display = [], []
    of_setting = {key: predictions[key] for key in rows["trial_id"] if key in predictions}
    usable = _usable(of_setting, reasons)
    base = baseline_rows(rows, baseline)
    # Nothing is drawn where nothing can be: each cell is shown as missing.
    drawn = _Drawn.of(usable, n_replicates=n_replicates, seed=seed) if usable else None
    for (setting, init), cell in by_cell(rows):
        of_cell = _by_seed(cell, usable)
        line = {"setting": setting, "initialization": init, "seeds": f"{len(of_cell)} of {len(cell)}"}
        if drawn is None or not of_cell:
            display.append(line)
            continue
        is_baseline = init in set(base["init"])
        found = _cell_rows(drawn, of_cell, {} if is_baseline else _by_seed(base, usable))
        data += [{"setting": setting, "init": init, **row} for row in found]
        display.append(line | _line(found, baseline, is_baseline=is_baseline))
    return Resampled(data, display, _lacking(rows, predictions, reasons))


def uncertainty_table(settings: Sequence[Resampled], *, baseline: str, n_replicates: int) -> Table:
    """Put the settings of a study into one table."""
    data = [row for setting in settings for row in setting.data]
    display = [row for setting in settings for row in setting.display]
    lacking = [trials for setting in settings for trials in setting.lacking]
    frame = pd.DataFrame(data, columns=list(_COLUMNS))
    columns = ["setting", "initialization", "seeds", *_shown(baseline)]
    shown = pd.DataFrame(display, columns=columns).astype(object)
    note = _note(frame, n_replicates) + (f" Left out: {'; '.join(lacking)}." if lacking else "")
    return Table("uncertainty", "Uncertainty", note, frame, shown.where(shown.notna(), ABSENT))


@dataclass(frozen=True)
class _Drawn:
    """The draws of one setting, and what came of them, computed once per set of trials.

    Attributes:
        weights: (1 + n_replicates, n_samples); the first draw is the samples as they are.
    """

    predictions: Mapping[str, Predictions]
    weights: np.ndarray
    found: dict[tuple[str, ...], Replicates] = field(default_factory=dict)

    @classmethod
    def of(cls, predictions: Mapping[str, Predictions], *, n_replicates: int, seed: int) -> "_Drawn":
        groups = next(iter(predictions.values())).groups
        drawn = draw_weights(groups, n_replicates=n_replicates, seed=seed)
        return cls(predictions, np.vstack([np.ones_like(drawn[:1]), drawn]))

    def ensemble(self, trials: Sequence[str]) -> Predictions:
        return ensemble([self.predictions[key] for key in trials])

    def of_ensemble(self, trials: Sequence[str], metric: str) -> np.ndarray:
        """Return a metric of the ensemble of these trials in every draw."""
        key = tuple(sorted(trials))
        if key not in self.found:
            one = self.ensemble(key)
            ranked, decided = ranked_columns(one), decided_columns(one)
            self.found[key] = resample_metrics(ranked, decided, weights=self.weights)
        values: np.ndarray = getattr(self.found[key], metric)
        return values

    def interval(self, trials: Sequence[str], metric: str, *, of: str) -> Interval:
        parts = [trials] if of == ENSEMBLE else [[key] for key in trials]
        return _interval(np.mean([self.of_ensemble(part, metric) for part in parts], axis=0))

    def difference(self, trials: Sequence[str], base: Sequence[str], metric: str) -> Interval:
        """Return the ensemble of `trials` minus that of `base`, of the same draws."""
        return _interval(self.of_ensemble(trials, metric) - self.of_ensemble(base, metric))


def _interval(values: np.ndarray) -> Interval:
    return percentile_interval(float(values[0]), values[1:])


def _usable(predictions: Mapping[str, Predictions], reasons: dict[str, str]) -> dict[str, Predictions]:
    """Return the predictions that can be compared with the first, and say why the others cannot."""
    usable: dict[str, Predictions] = {}
    for key, one in predictions.items():
        try:
            first = next(iter(usable.values()), one)
            if first.n_groups < 2:
                raise ValueError("all test samples are of one group, so there is nothing to draw from")
            usable[key] = align([first, one])[1]
        except ValueError as error:
            reasons[key] = str(error)
    return usable


def _by_seed(rows: pd.DataFrame, usable: Mapping[str, Predictions]) -> dict[int, str]:
    trials = zip(rows["seed"], rows["trial_id"], strict=True)
    return {int(seed): key for seed, key in trials if key in usable}


def _cell_rows(drawn: _Drawn, cell: Mapping[int, str], base: Mapping[int, str]) -> list[dict[str, Any]]:
    trials = list(cell.values())
    one = drawn.ensemble(trials)
    facts = {"n_seeds": len(trials), "n_samples": len(one.labels), "n_groups": one.n_groups}
    shared = sorted(set(cell) & set(base))
    rows = []
    for of in (ENSEMBLE, MEAN_OF_SEEDS):
        for metric in RESAMPLED:
            found = drawn.interval(trials, metric, of=of)
            row = {**facts, "of": of, "metric": metric, **vars(found), "n_pairs": len(shared)}
            if of == ENSEMBLE and metric == "auroc":
                row["delong_low"], row["delong_high"] = _delong_bounds(one)
            if of == ENSEMBLE and shared:
                # Larger ensembles are better for their size alone: as many seeds on both sides.
                mine, theirs = [cell[seed] for seed in shared], [base[seed] for seed in shared]
                difference = drawn.difference(mine, theirs, metric)
                row["difference"] = difference.estimate
                row["difference_low"], row["difference_high"] = difference.low, difference.high
                row["difference_n_replicates"] = difference.n_replicates
            rows.append(row)
    return rows


def _delong_bounds(one: Predictions) -> tuple[float, float]:
    """Return NaN where samples share a group, AUROC is a mean, or a class has fewer than two samples."""
    ranked = ranked_columns(one)
    known = ~np.isnan(ranked[0].labels)
    labels = ranked[0].labels[known]
    n_positive = int(labels.sum())
    if len(ranked) > 1 or one.n_groups < len(one.groups) or min(n_positive, len(labels) - n_positive) < 2:
        return math.nan, math.nan
    interval = auroc_interval(labels, ranked[0].scores[known])
    return interval.low, interval.high


def _shown(baseline: str) -> dict[str, tuple[str, str, str]]:
    """Return the displayed numbers: of what, of which metric, and the prefix of their columns."""
    names = {metric: METRIC_NAMES[f"test_{metric}"] for metric in RESAMPLED}
    return {
        "groups (samples)": ("", "", ""),
        f"{names['auroc']}, ensemble": (ENSEMBLE, "auroc", ""),
        f"{names['auroc']}, mean of seeds": (MEAN_OF_SEEDS, "auroc", ""),
        "DeLong": (ENSEMBLE, "auroc", "delong_"),
        f"{names['auprc']}, ensemble": (ENSEMBLE, "auprc", ""),
        f"{names['f1']}, ensemble": (ENSEMBLE, "f1", ""),
        f"{names['auroc']} − {baseline}, ensembles": (ENSEMBLE, "auroc", "difference_"),
    }


def _line(rows: Sequence[Mapping[str, Any]], baseline: str, *, is_baseline: bool) -> dict[str, str]:
    by_name = {(row["of"], row["metric"]): row for row in rows}
    line = {}
    for name, (of, metric, prefix) in _shown(baseline).items():
        if not of:
            line[name] = f"{rows[0]['n_groups']:,} ({rows[0]['n_samples']:,})"
        elif is_baseline and prefix == "difference_":
            line[name] = "baseline"
        else:
            row = by_name[of, metric]
            estimate = {"": "estimate", "difference_": "difference"}.get(prefix)
            line[name] = _text(
                row.get(estimate, math.nan) if estimate else None,
                row.get(f"{prefix}low", math.nan),
                row.get(f"{prefix}high", math.nan),
                is_signed=prefix == "difference_",
            )
    return line


def _text(estimate: float | None, low: float, high: float, *, is_signed: bool) -> str:
    """`0.9731 [0.9612, 0.9840]`, or the interval alone; without it where there is none."""
    if estimate is not None and math.isnan(estimate):
        return ABSENT
    write = signed if is_signed else "{:.4f}".format
    interval = "" if math.isnan(low) else f"[{write(low)}, {write(high)}]"
    return (
        " ".join(part for part in (write(estimate) if estimate is not None else "", interval) if part)
        or ABSENT
    )


def _note(data: pd.DataFrame, n_replicates: int) -> str:
    sizes = data[["n_groups", "n_samples"]].drop_duplicates().itertuples(index=False)
    drawn = "; ".join(f"{groups:,} groups of {samples:,} samples" for groups, samples in sizes)
    most_undefined = data["n_undefined"].max() if len(data) else 0
    left_out = (
        f" In up to {most_undefined:,} replicates of a cell a class was not drawn; they are left out."
        if most_undefined
        else ""
    )
    return (
        f"Test split ({drawn or 'no predictions'}), weights of the best validation step. In brackets: 95 % "
        f"percentile bootstrap intervals, {n_replicates:,} replicates, each of as many groups (patients or "
        "lesions; single images where the data name none), drawn with replacement; the same draws for all "
        "trials of a setting, so that differences are paired. They say what other patients would change, "
        "not other seeds, and are not corrected for the number of comparisons; an interval without width "
        f"(at 1) is not certainty.{left_out} Ensemble: the mean probability over the seeds of a cell; a "
        "difference is of the ensembles of the seeds both cells have. DeLong (1988): a normal interval of "
        "the ensemble's AUROC, which assumes independent samples; – where samples share a group or AUROC is "
        "a mean over classes."
    )


def _lacking(
    finished: pd.DataFrame, predictions: Mapping[str, Predictions], reasons: Mapping[str, str]
) -> list[str]:
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for row in finished.to_dict("records"):
        key = row["trial_id"]
        if key in reasons or key not in predictions:
            reason = reasons.get(key, "no predictions")
            seeds.setdefault((row["setting"], row["init"], reason), []).append(str(row["seed"]))
    return [
        f"{setting} · {init} · seed {', '.join(of)} ({reason})"
        for (setting, init, reason), of in seeds.items()
    ]
