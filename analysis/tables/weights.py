"""How far training moves weights, the loss along lines between them, and ensembles of checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.networks.weight_change import KERNELS
from analysis.numerics.statistics import Summary, paired_difference, summarize
from analysis.tables.cells import by_cell
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, mean_and_sd, with_interval

_CHANGES = {"cosine": "cosine", "relative_l2": "relative L2"}


def weight_change_table(changes: pd.DataFrame) -> Table:
    """Average the change of every stage over the seeds of a cell.

    Args:
        changes: rows of `analysis.networks.weight_change.stage_change` with setting, init and seed.
    """
    data, display = [], []
    for (setting, init), cell in by_cell(changes):
        for stage, rows in cell.groupby("stage", sort=False):
            line = {"setting": setting, "initialization": init, "stage": stage}
            for parameters, of_kind in rows.groupby("parameters", sort=False):
                facts = {"setting": setting, "init": init, "stage": stage, "parameters": parameters}
                summaries = {name: summarize(of_kind[name]) for name in _CHANGES}
                data.append(facts | _columns(summaries) | {"n_values": of_kind["n_values"].max()})
                label = "" if parameters == KERNELS else f", {parameters}"
                line |= {
                    f"{_CHANGES[name]}{label}": mean_and_sd(summary, digits=3)
                    for name, summary in summaries.items()
                }
                line["seeds"] = str(of_kind["seed"].nunique())
            display.append(line)
    note = (
        "Weights at the end of the training against those at the initialization, of a stage as one vector; "
        "mean ± sd over seeds. Relative L2 is ‖after − before‖ / ‖before‖: it also says how small the "
        "weights were before. Weights of convolutions and linear layers, then all parameters; running "
        f"statistics of batch norm are no parameters. {ABSENT}: weights that were 0 before, or a stage "
        "without such parameters."
    )
    return Table("weight_change", "How far training moves the weights", note, _frame(data), _text(display))


def conv1_table(filters: pd.DataFrame) -> Table:
    """Average the change of the first convolution's filters, over filters and then over seeds.

    Args:
        filters: rows of `analysis.networks.weight_change.filter_rows` with setting, init and seed.
    """
    data, display = [], []
    for (setting, init), cell in by_cell(filters):
        of_seeds = cell.groupby("seed")
        summaries = {name: summarize(of_seeds[name].mean()) for name in _CHANGES}
        summaries["median_cosine"] = summarize(of_seeds["cosine"].median())
        n_filters = int(of_seeds["filter"].nunique().max())
        n_undefined = int((cell["cosine"].isna() | cell["relative_l2"].isna()).sum())
        facts = {"setting": setting, "init": init, "n_filters": n_filters, "n_undefined": n_undefined}
        data.append(facts | _columns(summaries))
        display.append(
            {
                "setting": setting,
                "initialization": init,
                "seeds": str(len(of_seeds)),
                "filters": str(n_filters),
                "mean cosine": mean_and_sd(summaries["cosine"], digits=3),
                "median cosine": mean_and_sd(summaries["median_cosine"], digits=3),
                "mean relative L2": mean_and_sd(summaries["relative_l2"], digits=3),
                "undefined": str(n_undefined),
            }
        )
    note = (
        "Each filter of the first convolution after training against itself at the initialization: mean "
        "and median over the filters of a network, then mean ± sd over seeds. A cosine of 1 is an "
        "unchanged shape. Undefined, and left out: filters of all seeds whose weights were all 0."
    )
    return Table("conv1_change", "Filters of the first convolution", note, _frame(data), _text(display))


def loss_line_table(lines: pd.DataFrame) -> Table:
    """Average what the loss does along lines between weights.

    Args:
        lines: one row per line: kind, setting, init, barrier, loss_a, loss_b (at alpha 0 and 1).
    """
    columns = {"loss_a": "loss at 0", "loss_b": "loss at 1", "barrier": "barrier"}
    data, display = [], []
    for (kind, setting, init), rows in lines.groupby(["kind", "setting", "init"], sort=False):
        summaries = {name: summarize(rows[name]) for name in columns}
        data.append({"kind": kind, "setting": setting, "init": init, **_columns(summaries)})
        line = {"line": kind, "setting": setting, "initialization": init, "lines": str(len(rows))}
        display.append(line | {label: mean_and_sd(summaries[name]) for name, label in columns.items()})
    note = (
        "Loss on fixed test images at weights between two networks, with batch-norm statistics estimated "
        "anew at every point. The barrier is the most by which it exceeds the straight line between the "
        "losses of the ends; 0: nowhere. Mean ± sd over lines."
    )
    return Table("loss_lines", "Barriers between weights", note, _frame(data), _text(display))


def checkpoint_ensemble_table(ensembles: pd.DataFrame, *, missing: Mapping[str, str] | None = None) -> Table:
    """Compare ensembles of checkpoints with their best member, paired by seed.

    Args:
        ensembles: rows of `analysis.networks.ensembles.ensemble_rows` with setting, init and seed.
        missing: why trials have no ensemble, by their label; said in the note.
    """
    data, display = [], []
    for (setting, init, metric), rows in ensembles.groupby(["setting", "init", "metric"], sort=False):
        sides = {side: dict(zip(rows["seed"], rows[side], strict=True)) for side in ("single", "ensemble")}
        summaries = {side: summarize(values.values()) for side, values in sides.items()}
        gain = paired_difference(sides["ensemble"], sides["single"])
        members = sorted(set(rows["n_members"].astype(int)))
        facts = {"setting": setting, "init": init, "metric": metric, "n_members": float(np.mean(members))}
        data.append(facts | _columns(summaries) | {"gain": gain.mean, "low": gain.low, "high": gain.high})
        display.append(
            {
                "setting": setting,
                "initialization": init,
                "metric": METRIC_NAMES.get(f"test_{metric}", str(metric)),
                "seeds": str(len(rows)),
                "members": "–".join(map(str, dict.fromkeys([members[0], members[-1]]))),
                "best checkpoint": mean_and_sd(summaries["single"]),
                "ensemble": mean_and_sd(summaries["ensemble"]),
                "ensemble − best [95 % interval]": with_interval(gain),
            }
        )
    note = (
        "Mean of the probabilities of a training's best checkpoints by validation, against the best of them "
        "alone; test split. Mean ± sd over seeds; the difference is paired by seed, with Student's t "
        "interval."
    )
    if missing:
        note += " Without an ensemble: " + "; ".join(missing.values()) + "."
    return Table("checkpoint_ensembles", "Ensembles of checkpoints", note, _frame(data), _text(display))


def _columns(summaries: Mapping[str, Summary]) -> dict[str, float]:
    """Return `<name>_mean`, `<name>_sd` and `<name>_n` of each summary."""
    return {
        f"{name}_{what}": value
        for name, summary in summaries.items()
        for what, value in (("mean", summary.mean), ("sd", summary.sd), ("n", summary.n))
    }


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows)


def _text(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    text = pd.DataFrame(rows).astype(object)
    return text.where(text.notna(), ABSENT)
