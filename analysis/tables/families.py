"""Whether the family of an architecture or its size matters more."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.numerics.statistics import Summary, summarize
from analysis.tables.cells import by_cell
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, mean_and_sd

SHARE_COLUMNS = ("dataset", "n", "n_families", "family", "size", "family_given_size", "size_given_family")


def architecture_points(
    finished: pd.DataFrame, *, metric: str, family: Callable[[str], str], init_kind: str = "random"
) -> pd.DataFrame:
    """Return one row per cell of one kind of initialization, with its family and size.

    Args:
        family: of the label of an architecture.

    Returns:
        dataset, setting, init, architecture, family, n_params, n_seeds, mean, sd.
    """
    rows = []
    for (setting, init), cell in by_cell(finished[finished["init_kind"] == init_kind]):
        architecture, summary = str(cell["architecture"].iloc[0]), summarize(cell[metric])
        rows.append(
            {
                "dataset": cell["dataset"].iloc[0],
                "setting": setting,
                "init": init,
                "architecture": architecture,
                "family": family(architecture),
                "n_params": cell["n_params"].mean(),
                "n_seeds": summary.n,
                "mean": summary.mean,
                "sd": summary.sd,
            }
        )
    columns = ["dataset", "setting", "init", "architecture", "family", "n_params", "n_seeds", "mean", "sd"]
    return pd.DataFrame(rows, columns=columns)


def family_table(points: pd.DataFrame, *, metric: str) -> Table:
    """List the architectures by family and size, with the mean of each family.

    Args:
        points: of `architecture_points`.
    """
    name = METRIC_NAMES.get(metric, metric)
    lines = []
    for (dataset, family), group in points.groupby(["dataset", "family"], sort=False):
        of_family = summarize(group["mean"])
        for p in group.sort_values("n_params", kind="stable").to_dict("records"):
            summary = Summary(p["n_seeds"], p["mean"], p["sd"], math.nan, math.nan)
            lines.append(
                (dataset, family, mean_and_sd(of_family), p["architecture"], _millions(p["n_params"]),
                 str(p["n_seeds"]), mean_and_sd(summary))
            )  # fmt: skip
    columns = [
        "dataset",
        "family",
        f"{name} of the family",
        "architecture",
        "parameters (million)",
        "seeds",
        name,
    ]
    note = (
        f"{name}, test split, of networks of one kind of initialization. An architecture: mean ± standard "
        "deviation over seeds; a family: mean ± standard deviation over its architectures, each counting "
        "once."
    )
    display = pd.DataFrame(lines, columns=columns)
    return Table("families", "Families and sizes", note, points.assign(metric=metric), display)


def explained_table(points: pd.DataFrame, *, metric: str) -> Table:
    """Compare how much of the variance over architectures the family and the size explain.

    Args:
        points: of `architecture_points`.
    """
    data = [
        {"dataset": dataset} | explained_shares(group)
        for dataset, group in points.groupby("dataset", sort=False)
    ]
    frame = pd.DataFrame(data, columns=list(SHARE_COLUMNS))
    columns = ["dataset", "architectures", "families", "by family", "by size", "family given size",
               "size given family"]  # fmt: skip
    lines = [
        (
            row["dataset"],
            str(row["n"]),
            str(row["n_families"]),
            *(_percent(row[c]) for c in SHARE_COLUMNS[3:]),
        )
        for row in frame.to_dict("records")
    ]
    note = (
        f"Share of the variance of {METRIC_NAMES.get(metric, metric)} (means over seeds, one point per "
        "architecture and setting) that the family explains, that log(parameters) explains in a straight "
        "line, and what each adds to the other. Adjusted for the number of coefficients, as a family per "
        f"architecture would explain all: at or below 0 % is nothing. {ABSENT}: no more points than "
        "coefficients, one family, or one size."
    )
    display = pd.DataFrame(lines, columns=columns)
    return Table("family_or_size", "Family or size", note, frame, display)


def explained_shares(points: pd.DataFrame) -> dict[str, float]:
    """Return SHARE_COLUMNS without the dataset, of the points of one dataset.

    Shares are adjusted R² (Theil 1961) of least squares on indicators of the families, on log(parameters), or
    on both; points without mean or size are left out. NaN where there are not more points than coefficients,
    or where family, size or the means do not vary.
    """
    known = points[points["mean"].notna() & points["n_params"].notna()]
    y = known["mean"].to_numpy(dtype=float)
    families = pd.get_dummies(known["family"]).to_numpy(dtype=float)
    log_size = np.log(known["n_params"].to_numpy(dtype=float))[:, None]
    one = np.ones((len(known), 1))
    family = adjusted_share(families, y) if families.shape[1] > 1 else math.nan
    size = adjusted_share(np.hstack([one, log_size]), y) if known["n_params"].nunique() > 1 else math.nan
    both = adjusted_share(np.hstack([families, log_size]), y)
    return {
        "n": len(known),
        "n_families": families.shape[1],
        "family": family,
        "size": size,
        "family_given_size": both - size + 0 * family,
        "size_given_family": both - family + 0 * size,
    }


def adjusted_share(design: np.ndarray, y: np.ndarray) -> float:
    """Return adjusted R², 1 - (RSS / (n - rank)) / (TSS / (n - 1)); NaN where it is not defined.

    Args:
        design: (n, n_coefficients), with an intercept or indicators that add up to one.
    """
    n = len(y)
    total = float(((y - y.mean()) ** 2).sum()) if n else 0.0
    if n < 2 or total <= n * (8 * np.finfo(float).eps * np.abs(y).max()) ** 2:
        return math.nan
    centred = y - y.mean()
    fitted, _, rank, _ = np.linalg.lstsq(design, centred, rcond=None)
    if n <= rank:
        return math.nan
    residual = float(((centred - design @ fitted) ** 2).sum())
    return 1 - (residual / (n - rank)) / (total / (n - 1))


def _millions(n_params: float) -> str:
    return ABSENT if pd.isna(n_params) else f"{n_params / 1e6:.2f}"


def _percent(share: float) -> str:
    return ABSENT if pd.isna(share) else f"{100 * share:.0f} %".replace("-", "−")
