"""What the factors of a grid do to a value: main effects, two-way interactions, shares of variance.

Sums of squares are of type II: a term is what it adds to all terms that do not contain it. In a balanced
grid this equals every other type and the shares add up to 1; in an unbalanced one they need not.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

HIGHER_ORDER, WITHIN = "higher order", "within cells"
LEVEL_COLUMNS = ("factor", "level", "n", "n_cells", "effect", "low", "high")
TERM_COLUMNS = ("term", "kind", "df", "sum_of_squares", "share")

Term = tuple[str, ...]


@dataclass(frozen=True)
class Effects:
    """Effects of factors, each against the others.

    Attributes:
        n: rows with a value.
        n_cells: combinations of levels that have one.
        n_possible: combinations there would be if none were missing.
        grand_mean: with all levels of a factor weighing the same; NaN where effects are not estimable.
        levels: LEVEL_COLUMNS, one row per level: its effect against the grand mean in the least-squares fit
            of main effects (in a balanced grid: its mean minus the grand mean), with Student's t interval
            from the spread within cells. NaN where the factors present cannot be told apart.
        terms: TERM_COLUMNS; `kind` is main, interaction or rest. A term that the cells present cannot tell
            from the others has df 0 and NaN. WITHIN is the spread of repetitions (seeds), HIGHER_ORDER
            what else differs between cells. `share` is of the sum of squares about the mean.
        one_level: factors left out, as they do not vary.
    """

    n: int
    n_cells: int
    n_possible: int
    grand_mean: float
    levels: pd.DataFrame
    terms: pd.DataFrame
    one_level: tuple[str, ...]


def effects(rows: pd.DataFrame, *, factors: Sequence[str], value: str, confidence: float = 0.95) -> Effects:
    """Measure effects over a balanced or unbalanced grid.

    Args:
        rows: repetitions (seeds) of cells, or one row per cell; rows with a NaN value are left out.
        factors: columns with the levels; those with one level are left out.
        value: the column of numbers.

    Raises:
        ValueError: a column is missing, or a factor has a missing level.
    """
    absent = [column for column in (*factors, value) if column not in rows]
    if absent:
        raise ValueError(f"effects need the columns {[*factors, value]}, not found: {absent}")
    known = rows[rows[value].notna()]
    unnamed = [factor for factor in factors if known[factor].isna().any()]
    if unnamed:
        raise ValueError(f"every row needs a level of every factor, missing in {unnamed}")
    varying = [factor for factor in factors if known[factor].nunique() > 1]
    # Columns of a term, made once: (n_rows, n_levels) of 0 and 1.
    design = _Design(known, varying)
    y = known[value].to_numpy(dtype=float)
    cells = design.columns(tuple(varying))
    within_df = len(y) - cells.shape[1]
    fit = _fit(cells, y)
    noise = fit.residual / within_df if within_df > 0 else math.nan
    grand_mean, levels = _level_effects(design, y, noise, within_df, confidence)
    return Effects(
        n=len(y),
        n_cells=cells.shape[1] if len(y) else 0,
        n_possible=math.prod(known[factor].nunique() for factor in varying) if len(y) else 0,
        grand_mean=grand_mean,
        levels=levels,
        terms=_terms(design, y, fit.residual, within_df),
        one_level=tuple(factor for factor in factors if factor not in varying),
    )


class _Design:
    """Indicator columns of factors and of their combinations that occur."""

    def __init__(self, rows: pd.DataFrame, factors: Sequence[str]) -> None:
        self.rows, self.factors = rows, list(factors)

    def groups(self, term: Term) -> np.ndarray:
        """(n_rows,) number of the combination of levels each row has, in order of appearance."""
        if not term:
            return np.zeros(len(self.rows), dtype=int)
        return self.rows.groupby(list(term), sort=False).ngroup().to_numpy()

    def columns(self, term: Term) -> np.ndarray:
        groups = self.groups(term)
        return np.eye(groups.max(initial=0) + 1)[groups]

    def matrix(self, terms: Iterable[Term]) -> np.ndarray:
        return np.hstack([self.columns(()), *(self.columns(term) for term in terms)])


@dataclass(frozen=True)
class _Fit:
    residual: float
    rank: int


def _fit(matrix: np.ndarray, y: np.ndarray) -> _Fit:
    """Return the residual sum of squares of least squares, about the mean of y for accuracy."""
    if not len(y):
        return _Fit(0.0, 0)
    centred = y - y.mean()
    fitted, _, rank, _ = np.linalg.lstsq(matrix, centred, rcond=None)
    return _Fit(float(((centred - matrix @ fitted) ** 2).sum()), int(rank))


def _terms(design: _Design, y: np.ndarray, within: float, within_df: int) -> pd.DataFrame:
    mains: list[Term] = [(factor,) for factor in design.factors]
    pairs: list[Term] = list(itertools.combinations(design.factors, 2))
    total = float(((y - y.mean()) ** 2).sum()) if len(y) else 0.0
    rows = []
    for term in [*mains, *pairs]:
        others = [other for other in (*mains, *pairs) if not set(term) <= set(other)]
        without, with_term = _fit(design.matrix(others), y), _fit(design.matrix([*others, term]), y)
        df = with_term.rank - without.rank
        explained = max(without.residual - with_term.residual, 0.0) if df else math.nan
        kind = "main" if len(term) == 1 else "interaction"
        rows.append((" × ".join(term), kind, df, explained))
    if len(design.factors) > 2:
        known = _fit(design.matrix([*mains, *pairs]), y)
        df = len(y) - within_df - known.rank
        rows.append((HIGHER_ORDER, "rest", df, max(known.residual - within, 0.0) if df else math.nan))
    rows.append((WITHIN, "rest", within_df, within if within_df > 0 else math.nan))
    # A spread of rounding has no shares.
    varies = len(y) > 0 and total > len(y) * (8 * np.finfo(float).eps * np.abs(y).max()) ** 2
    return pd.DataFrame(
        [(*row, row[-1] / total if varies else math.nan) for row in rows], columns=list(TERM_COLUMNS)
    )


def _level_effects(
    design: _Design, y: np.ndarray, noise: float, noise_df: int, confidence: float
) -> tuple[float, pd.DataFrame]:
    matrix = design.matrix([(factor,) for factor in design.factors])
    widths = [design.columns((factor,)).shape[1] for factor in design.factors]
    rank = np.linalg.matrix_rank(matrix) if len(y) else 0
    estimable = len(y) > 0 and rank == 1 + sum(width - 1 for width in widths)
    solution = np.linalg.pinv(matrix)  # (n_columns, n_rows)
    quantile = float(stats.t.ppf((1 + confidence) / 2, noise_df)) if noise_df > 0 else math.nan
    grand, rows, start = solution[:1].sum(axis=0), [], 1
    all_cells = design.groups(tuple(design.factors))
    for factor, width in zip(design.factors, widths, strict=True):
        block = solution[start : start + width]
        centre = block.mean(axis=0)
        grand, start = grand + centre, start + width
        groups, names = design.groups((factor,)), list(dict.fromkeys(design.rows[factor]))
        for k, name in enumerate(names):
            weights, of_level = block[k] - centre, groups == k
            effect = float(weights @ y) if estimable else math.nan
            half = quantile * math.sqrt(noise * float(weights @ weights)) if estimable else math.nan
            counts = int(of_level.sum()), len(set(all_cells[of_level]))
            rows.append((factor, name, *counts, effect, effect - half, effect + half))
    frame = pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))
    return (float(grand @ y) if estimable else math.nan), frame
