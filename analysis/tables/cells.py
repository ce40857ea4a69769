"""Cells and baselines within the rows of finished trials."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.numerics.statistics import Summary, paired_difference


def baseline_rows(rows: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the trials of the baseline: one initialization, named by its label, or the first of its kind."""
    by_label = rows[rows["init"] == baseline]
    if not by_label.empty:
        return by_label
    of_kind = rows[rows["init_kind"] == baseline]
    return of_kind[of_kind["init"] == of_kind["init"].iloc[0]] if not of_kind.empty else of_kind


def by_seed(rows: pd.DataFrame, metric: str) -> dict[int, float]:
    """Return a metric of one cell by seed.

    Raises:
        ValueError: a seed comes twice: the rows are of several cells.
    """
    if rows["seed"].duplicated().any():
        raise ValueError(f"expected the trials of one cell, got seeds {sorted(rows['seed'])}")
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows[metric], strict=True)}


def by_cell(rows: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    return rows.groupby(["setting", "init"], sort=False)


def paired_by_seed(rows: pd.DataFrame, base: pd.DataFrame, metric: str) -> Summary:
    return paired_difference(by_seed(rows, metric), by_seed(base, metric))
