"""What goes with good transfer: a good source, and the size of the network."""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from analysis.convergence import larger_is_better
from analysis.numerics.correlation import (
    FEWEST_FOR_INTERVAL,
    Correlation,
    logit_accuracy,
    network_effects,
    pearson,
    spearman,
)
from analysis.tables.cells import baseline_rows, by_cell, paired_by_seed
from analysis.tables.differences import p_text
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, signed

WITH, WITHOUT = "with pretraining", "without pretraining"
ALL_DATASETS = "all datasets"

POINT_COLUMNS = (
    "dataset", "pretraining", "protocol", "setting", "init", "architecture", "source", "n_seeds",
    "source_value", "target_value",
)  # fmt: skip
BOOST_COLUMNS = ("dataset", "init", "setting", "architecture", "n_params", "n_pairs", "boost", "low", "high")
CORRELATION_COLUMNS = ("kind", "n", "estimate", "low", "high", "p", "reason")

_METHOD = (
    f"In brackets: 95 % percentile bootstrap over points, from {FEWEST_FOR_INTERVAL} points on and rough "
    "below some 20; p: by permutation of the points, two-sided, not corrected for the number of "
    "correlations. A point is the mean over the seeds of a cell."
)


def source_points(
    finished: pd.DataFrame,
    source_values: Mapping[str, float],
    *,
    metric: str,
    by: Literal["trial_id", "architecture"],
) -> pd.DataFrame:
    """Put the performance on the target beside that on the source: POINT_COLUMNS, one row per cell.

    Args:
        finished: rows of finished trials; those of init_kind random and pretrained are taken.
        source_values: performance on the source, by the label of an architecture, or by the trial that
            started from it. In the latter case a random network, which has no source, gets the mean of the
            pretrained trials of its architecture on its dataset: what the architecture can do on the source.
        metric: on the target.

    Returns:
        NaN as source_value where the caller named none.
    """
    rows = finished[finished["init_kind"].isin(["random", "pretrained"])]
    value = rows[by].map(dict(source_values)).astype(float)
    if by == "trial_id":
        pretrained = value.where(rows["init_kind"] == "pretrained")
        of_architecture = pretrained.groupby([rows["architecture"], rows["dataset"]]).transform("mean")
        value = value.where(rows["init_kind"] == "pretrained", of_architecture)
    rows = rows.assign(source_value=value)
    points = [
        (
            cell["dataset"].iloc[0],
            WITH if cell["init_kind"].iloc[0] == "pretrained" else WITHOUT,
            cell["protocol"].iloc[0],
            setting,
            init,
            cell["architecture"].iloc[0],
            cell["source"].iloc[0],
            int(cell[metric].notna().sum()),
            cell["source_value"].mean(),
            cell[metric].mean(),
        )
        for (setting, init), cell in by_cell(rows)
    ]
    return pd.DataFrame(points, columns=list(POINT_COLUMNS))


def source_target_table(
    points: pd.DataFrame,
    *,
    metric: str,
    source_name: str,
    n_target: Mapping[str, int] | None = None,
    n_source: int | None = None,
) -> Table:
    """Correlate performance on source and target, by dataset, with and without pretraining.

    Args:
        points: of `source_points`.
        metric: of the target, as in the points.
        source_name: what people call the source performance: `ImageNet accuracy`.
        n_target: test samples by dataset, to clip a share of 0 or 1 before its logit; without, such a point
            has no logit.
        n_source: test samples of the source, for the same.
    """
    sizes = dict(n_target or {})
    data = []
    keys = ["dataset", "pretraining", "protocol", "source"]
    for (dataset, pretraining, how, source), group in points.groupby(keys, sort=False):
        x, y = group["source_value"], group["target_value"]
        ranks = spearman(x, y)
        logits = pearson(_logits(x, n_source), _logits(y, sizes.get(str(dataset))))
        facts = {"dataset": dataset, "pretraining": pretraining, "protocol": how, "source": source}
        data += [facts | _columns("spearman", ranks), facts | _columns("logit", logits)]
    if points["dataset"].nunique() > 1:
        data += _over_datasets(points, sizes, n_source)
    frame = pd.DataFrame(data, columns=[*keys, *CORRELATION_COLUMNS])
    name = METRIC_NAMES.get(metric, metric)
    note = (
        f"{source_name} against {name} on the target. {_METHOD} Logit: Pearson's correlation of log(p / (1 - "
        f"p)) of both; {_clip(sizes, n_source)} Over all datasets: the part of the networks in a "
        "least-squares fit of the logits by network and dataset, which is their mean after removing dataset "
        "effects (Kornblith et al. 2019), by the mean source performance of the "
        f"architecture.{_direction(metric)}{_unknown(points)}{_reasons(frame)}"
    )
    display = _wide(frame, keys, ["dataset", "pretraining", "what learns", "source"])
    return Table("source_and_target", "Source and target performance", note, frame, display)


def boost_points(finished: pd.DataFrame, *, baseline: str, metric: str) -> pd.DataFrame:
    """Return what pretraining adds: BOOST_COLUMNS, one row per pretrained cell.

    The boost is pretrained minus baseline, paired by seed, counted so that larger is better.
    """
    sign = 1 if larger_is_better(metric) else -1
    points = []
    for (setting, init), cell in by_cell(finished[finished["init_kind"] == "pretrained"]):
        base = baseline_rows(finished[finished["setting"] == setting], baseline)
        boost = paired_by_seed(cell, base, metric)
        low, high = sorted((sign * boost.low, sign * boost.high))
        facts = cell["dataset"].iloc[0], init, setting, cell["architecture"].iloc[0], cell["n_params"].mean()
        points.append((*facts, boost.n, sign * boost.mean, low, high))
    return pd.DataFrame(points, columns=list(BOOST_COLUMNS))


def boost_size_table(points: pd.DataFrame, *, metric: str, baseline: str) -> Table:
    """Correlate what pretraining adds with the number of parameters, by dataset and initialization.

    Args:
        points: of `boost_points`.
    """
    data = []
    for (dataset, init), group in points.groupby(["dataset", "init"], sort=False):
        found = spearman(group["n_params"], group["boost"])
        data.append({"dataset": dataset, "init": init} | _columns("spearman", found))
    frame = pd.DataFrame(data, columns=["dataset", "init", *CORRELATION_COLUMNS])
    absent = points[points["boost"].isna() | points["n_params"].isna()]
    lacking = "; ".join(f"{p.setting} · {p.init}" for p in absent.itertuples())
    smaller = "" if larger_is_better(metric) else " with the sign turned, as smaller is better,"
    note = (
        f"Number of parameters against what pretraining adds: {METRIC_NAMES.get(metric, metric)} of the "
        f"pretrained minus the {baseline} network, paired by seed,{smaller} test split. "
        f"{_METHOD}{f' Left out, without pair or size: {lacking}.' if lacking else ''}{_reasons(frame)}"
    )
    display = _wide(frame, ["dataset", "init"], ["dataset", "initialization"])
    return Table("boost_and_size", "Pretraining boost and size", note, frame, display)


def correlation_text(estimate: float, low: float, high: float) -> str:
    """`+0.64 [+0.10, +0.91]`; without the interval where there is none."""
    if math.isnan(estimate):
        return ABSENT
    interval = "" if math.isnan(low) else f" [{signed(low, digits=2)}, {signed(high, digits=2)}]"
    return signed(estimate, digits=2) + interval


def _over_datasets(
    points: pd.DataFrame, sizes: Mapping[str, int], n_source: int | None
) -> list[dict[str, object]]:
    rows = []
    for (pretraining, how), group in points.groupby(["pretraining", "protocol"], sort=False):
        logits = group.assign(
            logit=[
                _logits(pd.Series([value]), sizes.get(str(dataset)))[0]
                for dataset, value in zip(group["dataset"], group["target_value"], strict=True)
            ]
        )
        table = logits.pivot_table(
            index="architecture", columns="dataset", values="logit", sort=False, dropna=False
        )
        source = group.groupby("architecture")["source_value"].mean().reindex(table.index)
        found = pearson(_logits(source, n_source), network_effects(table.to_numpy()))
        facts = {"dataset": ALL_DATASETS, "pretraining": pretraining, "protocol": how, "source": "all"}
        rows.append(facts | _columns("logit", found))
    return rows


def _logits(shares: pd.Series, n: int | None) -> np.ndarray:
    """Return NaN for what is no share: losses and negative kappas have no logit."""
    values = shares.to_numpy(dtype=float)
    return logit_accuracy(np.where((values >= 0) & (values <= 1), values, np.nan), n=n)


def _columns(kind: str, found: Correlation) -> dict[str, object]:
    return {"kind": kind, **vars(found)}


def _wide(frame: pd.DataFrame, keys: list[str], names: list[str]) -> pd.DataFrame:
    """Write the kinds of correlation of a group beside each other."""
    kinds = {"spearman": "Spearman", "logit": "logit correlation"}
    shown = [kind for kind in kinds if kind in set(frame["kind"])] or ["spearman"]
    lines = []
    for key, group in frame.groupby(keys, sort=False):
        line = dict(zip(names, map(str, key), strict=True)) | {"points": str(group["n"].max())}
        for row in group.to_dict("records"):
            line[kinds[row["kind"]]] = correlation_text(row["estimate"], row["low"], row["high"])
            line[f"p ({kinds[row['kind']]})"] = p_text(row["p"])
        lines.append(line)
    columns = [*names, "points", *(c for kind in shown for c in (kinds[kind], f"p ({kinds[kind]})"))]
    display = pd.DataFrame(lines, columns=columns).astype(object)
    return display.where(display.notna(), ABSENT)


def _clip(sizes: Mapping[str, int], n_source: int | None) -> str:
    if not sizes and n_source is None:
        return "0 and 1 have none."
    counts = [f"{dataset}: {n:,}" for dataset, n in sorted(sizes.items())]
    counts += [f"source: {n_source:,}"] if n_source is not None else []
    return f"shares are clipped to 1/2n from 0 and 1, n being the test samples ({'; '.join(counts)})."


def _direction(metric: str) -> str:
    return "" if larger_is_better(metric) else " Smaller is better on the target."


def _unknown(points: pd.DataFrame) -> str:
    lacking = points[points["source_value"].isna() | points["target_value"].isna()]
    names = [f"{p.setting} · {p.init}" for p in lacking.itertuples()]
    return f" Without one of the two, and so left out: {'; '.join(names)}." if names else ""


def _reasons(frame: pd.DataFrame) -> str:
    reasons = frame.loc[frame["reason"] != "", "reason"].unique()
    return f" {ABSENT}: {'; '.join(reasons)}." if len(reasons) else ""
