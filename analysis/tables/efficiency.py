"""How much performance a network gives for its parameters, and what truncated or slim networks lose."""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.convergence import larger_is_better
from analysis.numerics.statistics import Summary, summarize
from analysis.tables.cells import by_cell, paired_by_seed
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, mean_and_sd, with_interval

WHOLE = "whole"
"""Column with the label of the architecture that a network is a part of; "" or NaN for whole networks."""

MARGIN = 0.01
"""A loss that nobody would care about."""

LOSS, NO_LOSS = "loss", f"at most {MARGIN:g} lost"
UNRESOLVED, NOT_JUDGED = "not resolved", "not judged: fewer than two pairs"

EFFICIENCY_COLUMNS = (
    "setting", "init", "dataset", "architecture", "whole", "n_params", "metric", "n_seeds", "mean", "sd",
    "per_million", "ratio", "n_pairs", "difference", "difference_sd", "low", "high", "verdict",
)  # fmt: skip


def efficiency_table(finished: pd.DataFrame, *, metric: str) -> Table:
    """Set the metric of every cell beside its parameters, and parts of networks beside the whole ones.

    Args:
        finished: rows of finished trials with n_params, and WHOLE where there are truncated or slim networks.
    """
    data = efficiency(finished, metric=metric)
    name = METRIC_NAMES.get(metric, metric)
    has_parts = bool((data["whole"] != "").any())
    columns = ["setting", "initialization", "parameters (million)", name, f"{name} per million"]
    parts = ["of", "fewer parameters", f"{name} − whole [95 % interval]", "verdict"] if has_parts else []
    lines = [_line(row)[: len(columns) + len(parts)] for row in data.to_dict("records")]
    lacking = [
        f"{row['setting']} · {row['init']} (whole network: {row['whole']})"
        for row in data.to_dict("records")
        if row["whole"] and math.isnan(row["ratio"])
    ]
    note = (
        f"{name}, test split, mean ± standard deviation over seeds; all parameters of a network, its head "
        "included. A metric per million parameters favours small networks whatever they can do: read it "
        "within a row of sizes only."
    )
    if has_parts:
        note += (
            " Truncated and slim networks beside the whole network of the same dataset and initialization, "
            "paired by seed, with Student's t interval (95 %, not corrected for the number of comparisons). "
            f"“{NO_LOSS}”: the interval lies above that loss, “{LOSS}”: it lies wholly below 0. "
            f"{_average_text(data)}"
        )
    if lacking:
        note += f" Without a whole network to compare with, or its size: {'; '.join(lacking)}."
    display = pd.DataFrame(lines, columns=[*columns, *parts])
    return Table("efficiency", "Parameter efficiency", note, data, display)


def efficiency(finished: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Return EFFICIENCY_COLUMNS, one row per cell.

    `ratio` is the parameters of the whole network over those of the part; the difference is part minus whole.
    """
    rows = finished.assign(**{WHOLE: finished[WHOLE].fillna("") if WHOLE in finished else ""})
    data = []
    for (setting, init), cell in by_cell(rows):
        first = cell.iloc[0]
        summary, n_params = summarize(cell[metric]), cell["n_params"].mean()
        whole = whole_cell(rows, cell) if first[WHOLE] else cell[:0]
        difference = paired_by_seed(cell, whole, metric)
        data.append(
            {
                "setting": setting,
                "init": init,
                "dataset": first["dataset"],
                "architecture": first["architecture"],
                "whole": first[WHOLE],
                "n_params": n_params,
                "metric": metric,
                "n_seeds": summary.n,
                "mean": summary.mean,
                "sd": summary.sd,
                "per_million": summary.mean / (n_params / 1e6),
                "ratio": whole["n_params"].mean() / n_params,
                "n_pairs": difference.n,
                "difference": difference.mean,
                "difference_sd": difference.sd,
                "low": difference.low,
                "high": difference.high,
                "verdict": _verdict(difference, rising=larger_is_better(metric)) if first[WHOLE] else "",
            }
        )
    return pd.DataFrame(data, columns=list(EFFICIENCY_COLUMNS))


def whole_cell(rows: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the whole network, of the dataset and initialization of its part.

    Where several settings qualify, the one that is called like the part's but for the architecture; if none
    is, no rows, as it is not known which to compare with.
    """
    first = part.iloc[0]
    alike = (
        (rows["architecture"] == first[WHOLE])
        & (rows["dataset"] == first["dataset"])
        & (rows["init"] == first["init"])
    )
    found = rows[alike]
    if found["setting"].nunique() > 1:
        name = str(first["setting"]).replace(str(first["architecture"]), str(first[WHOLE]), 1)
        found = found[found["setting"] == name]
    return found


def average_efficiency(data: pd.DataFrame) -> Summary:
    """Summarise by how much networks can shrink without significant loss.

    The abstract of CheXtransfer (Ke et al. 2021) states such a factor without defining it. Ours: of every
    whole network, dataset and initialization, the largest ratio of parameter counts among its parts with
    NO_LOSS, or 1 where no part is shown to keep the score; their arithmetic mean. Where no part was judged,
    nothing counts.

    Args:
        data: of `efficiency`.
    """
    judged = data[data["verdict"].isin([LOSS, NO_LOSS, UNRESOLVED]) & data["ratio"].notna()]
    kept = judged["ratio"].where(judged["verdict"] == NO_LOSS, 1.0).clip(lower=1.0)
    return summarize(kept.groupby([judged["whole"], judged["dataset"], judged["init"]]).max())


def _verdict(difference: Summary, *, rising: bool) -> str:
    if difference.n < 2:
        return NOT_JUDGED
    if difference.high < 0 if rising else difference.low > 0:
        return LOSS
    keeps = difference.low > -MARGIN if rising else difference.high < MARGIN
    return NO_LOSS if keeps else UNRESOLVED


def _average_text(data: pd.DataFrame) -> str:
    average = average_efficiency(data)
    if average.n == 0:
        return "No part has two seeds in common with its whole network, so there is no average."
    interval = "" if average.n == 1 else f" [{average.low:.2f}, {average.high:.2f}]"
    student = "" if average.n == 1 else " with Student's t interval over these,"
    return (
        f"Parameter efficiency {average.mean:.2f}×{interval}: how many times fewer parameters the smallest "
        f"part without significant loss has, 1 where every part loses; the mean,{student} of "
        f"n = {average.n}: one per whole network, dataset and initialization."
    )


def _line(row: dict[Any, Any]) -> list[str]:
    summary = Summary(row["n_seeds"], row["mean"], row["sd"], math.nan, math.nan)
    difference = Summary(row["n_pairs"], row["difference"], row["difference_sd"], row["low"], row["high"])
    known = np.isfinite(row["n_params"])
    return [
        row["setting"],
        row["init"],
        f"{row['n_params'] / 1e6:.2f}" if known else ABSENT,
        mean_and_sd(summary),
        f"{row['per_million']:.4g}" if np.isfinite(row["per_million"]) else ABSENT,
        row["whole"] or ABSENT,
        f"{row['ratio']:.2f}×" if np.isfinite(row["ratio"]) else ABSENT,
        with_interval(difference),
        row["verdict"] or ABSENT,
    ]
