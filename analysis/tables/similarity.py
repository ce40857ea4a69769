"""How alike representations are, beside their noise floors."""

import numpy as np
import pandas as pd

from analysis.networks.comparisons import (
    ALONG_TRAINING,
    AT_START,
    OF_EVERY_STAGE_WITH_EVERY,
    PRETRAINED_RANDOM,
    RANDOM_RANDOM,
    TOP_TWO,
)
from analysis.numerics.statistics import summarize
from analysis.tables.table import ABSENT, MEASURE_NAMES, Table, mean_and_sd, number


def similarity_table(similarity: pd.DataFrame) -> Table:
    """Average the similarities over seeds or pairs; the noise floor stands beside each."""
    computed = similarity[
        similarity["value"].notna() & ~similarity["kind"].isin([*OF_EVERY_STAGE_WITH_EVERY, ALONG_TRAINING])
    ]
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


def stage_map_table(similarity: pd.DataFrame) -> Table:
    """List how alike every stage of one network is to every stage of another."""
    rows = similarity[similarity["value"].notna() & similarity["kind"].isin(OF_EVERY_STAGE_WITH_EVERY)]
    columns = ["kind", "setting", "init_x", "init_y", "seed_x", "seed_y", "stage", "stage_y"]
    data = rows[[*columns, "measure", "value", "noise_floor", "directions_x", "directions_y", "n_samples"]]
    shown = []
    for key, values in rows.groupby(columns, sort=False):
        line = dict(zip(columns, map(str, key), strict=True))
        for row in values.to_dict("records"):
            line[MEASURE_NAMES[row["measure"]]] = f"{row['value']:.2f} (floor {row['noise_floor']:.2f})"
        shown.append(line)
    note = "One pair of networks of each kind: the first seeds. Positions are drawn on the smallest map."
    display = pd.DataFrame(shown).rename(columns={"init_x": "init", "init_y": "init of the other",
        "seed_x": "seed", "seed_y": "seed of the other", "stage_y": "stage of the other"})  # fmt: skip
    display = display.astype(object).where(display.notna(), ABSENT)  # not every measure could be taken
    return Table("stage_maps", "Every stage with every stage", note, data.reset_index(drop=True), display)


def start_and_end(similarity: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Pair the similarity of two networks at initialization with theirs after training.

    Returns:
        setting, kind, stage, seed_x, seed_y, start, end: one row per pair of networks and backbone stage.
    """
    rows = similarity[
        (similarity["measure"] == measure)
        & (similarity["stage"] != TOP_TWO)
        & (similarity["stage"] != "head")
    ]
    keys = ["setting", "init_x", "init_y", "seed_x", "seed_y", "stage"]
    parts = []
    for kind in (PRETRAINED_RANDOM, RANDOM_RANDOM):
        end = rows[rows["kind"] == kind][[*keys, "value"]]
        start = rows[rows["kind"] == kind + AT_START][[*keys, "value"]]
        both = start.merge(end, on=keys, suffixes=("_start", "_end")).dropna()
        parts.append(both.rename(columns={"value_start": "start", "value_end": "end"}).assign(kind=kind))
    return pd.concat(parts, ignore_index=True)


def start_and_end_table(similarity: pd.DataFrame, *, measure: str) -> Table:
    """Correlate, per stage, the similarity of two networks at initialization with theirs after training."""
    data, display = [], []
    for (setting, stage), rows in start_and_end(similarity, measure=measure).groupby(
        ["setting", "stage"], sort=False
    ):
        fit = r_squared(rows["start"], rows["end"])
        means = {f"{kind} {moment}": rows[rows["kind"] == kind][moment].mean()
                 for kind in (PRETRAINED_RANDOM, RANDOM_RANDOM) for moment in ("start", "end")}  # fmt: skip
        facts = {"setting": setting, "stage": stage, "n": len(rows), "r_squared": fit}
        data.append(facts | means)
        display.append(
            {"setting": setting, "stage": stage, "pairs": str(len(rows)), "R²": number(fit, digits=2)}
            | {name: number(value, digits=2) for name, value in means.items()}
        )
    name = MEASURE_NAMES[measure]
    note = (
        f"{name} of two networks of different seeds, at initialization (start) and after training (end); R² "
        "of the straight line through the pairs of a stage. Pairs share networks and are not independent."
    )
    title = f"{name} at initialization and after training"
    return Table("start_and_end", title, note, pd.DataFrame(data), pd.DataFrame(display))


def r_squared(x: pd.Series, y: pd.Series) -> float:
    """Return the share of the variance of y that a straight line through (x, y) explains.

    NaN for fewer than three points, or where either is constant.
    """
    if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1] ** 2)
