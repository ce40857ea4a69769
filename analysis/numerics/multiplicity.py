"""Many comparisons at once: p-values adjusted so that a whole family errs rarely."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values by Holm's step-down method (Holm 1979).

    Where an adjusted p is below some alpha, the chance of any false rejection in the family is at most
    alpha, however the tests depend on each other.

    Args:
        p_values: (n_tests,); NaN is a test that could not be made, and does not count into the family.

    Returns:
        (n_tests,) in the order given, at most 1; NaN stays NaN.

    Raises:
        ValueError: a p-value lies outside 0 … 1.
    """
    given = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(given))
    outside = given[known][(given[known] < 0) | (given[known] > 1)]
    if outside.size:
        raise ValueError(f"p-values must lie between 0 and 1, got {outside[0]}")
    ascending = known[np.argsort(given[known], kind="stable")]
    # The k-th smallest of m is held against alpha / (m - k + 1), and never passes before a smaller one.
    scaled = given[ascending] * np.arange(len(ascending), 0, -1)
    adjusted = np.full(given.shape, np.nan)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
