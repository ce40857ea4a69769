"""What measures of similarity give when there is nothing in common: means over unrelated data.

After centring, two unrelated sides are independent random subspaces of n - 1 dimensions. That law is drawn
directly, so no floor takes longer when there are more samples.
"""

from functools import lru_cache
from math import comb

import numpy as np
import torch
from torch import Tensor

DIRECTIONS_DRAWN = 512
"""More directions are drawn at this size in the same proportions: the mean correlation depends on the
proportions alone, but for a share of the order of 1 / directions (below 0.2 % here)."""


@lru_cache(maxsize=4096)
def noise_floor(n_samples: int, directions_x: int, directions_y: int, *, seed: int = 0) -> float:
    """Return the mean canonical correlation of independent Gaussian data of this shape.

    It is also the floor of PWCCA: the weights are independent of the correlations, and alike on average.

    Args:
        n_samples: rows of both sides, more than either has directions.
        seed: of the draws; few directions are drawn more often.
    """
    n_free = n_samples - 1
    small, large = sorted((directions_x, directions_y))
    # Subspaces that do not fit side by side share directions whatever they are: these correlations are 1,
    # and the others are sines to the complement of the larger side.
    n_shared = max(0, small + large - n_free)
    if n_shared == small:
        return 1.0
    n_drawn = small - n_shared
    widest = small if n_shared else large
    scale = min(1.0, DIRECTIONS_DRAWN / n_drawn)
    drawn = round(n_drawn * scale), round(widest * scale), round(n_free * scale)
    squares = _squared_correlations(*drawn, np.random.default_rng(seed))
    others = np.sqrt((1 - squares if n_shared else squares).clip(0, 1))
    return float(n_shared + n_drawn * others.mean()) / small


def _squared_correlations(small: int, large: int, n_free: int, rng: np.random.Generator) -> np.ndarray:
    """Draw squared canonical correlations, (draws, small), with small + large at most n_free.

    They are the squared singular values of a random bidiagonal matrix (Edelman & Sutton 2008, the Jacobi
    ensemble with beta = 1, a = large - small, b = n_free - large - small).
    """
    n_draws = max(1, 2**14 // small**2)  # the spread of one draw's mean falls as 1 / small
    a, b = large - small, n_free - large - small
    order = np.arange(small, 0, -1)
    cosine = rng.beta((a + order) / 2, (b + order) / 2, size=(n_draws, small))
    inner = rng.beta(order[1:] / 2, (a + b + 1 + order[1:]) / 2, size=(n_draws, small - 1))
    bidiagonal = np.zeros((n_draws, small, small))
    row = np.arange(small)
    bidiagonal[:, row, row] = np.sqrt(cosine)
    bidiagonal[:, row[1:], row[1:]] *= np.sqrt(1 - inner)
    bidiagonal[:, row[:-1], row[1:]] = -np.sqrt((1 - cosine[:, :-1]) * inner)
    return np.linalg.eigvalsh(bidiagonal @ bidiagonal.swapaxes(1, 2))


def procrustes_floor(n_samples: int, variances_x: Tensor, variances_y: Tensor, *, seed: int = 0) -> float:
    """Return the mean Procrustes similarity when one side of these variances is turned at random.

    Args:
        variances_x, variances_y: along the principal directions; at most n_samples - 1 of each.
        seed: of the draws; few directions are drawn more often.
    """
    rng = np.random.default_rng(seed)
    scales = [(variances / variances.sum()).sqrt().cpu() for variances in (variances_x, variances_y)]
    narrow, wide = sorted(scales, key=lambda scale: (len(scale), scale.tolist()))
    n_draws = max(1, 2048 // len(wide))
    total = 0.0
    for _ in range(n_draws):
        turned = _random_cosines(len(wide), len(narrow), n_samples - 1, rng)
        crossed = wide[:, None] * turned * narrow
        total += float(torch.linalg.eigvalsh(crossed.T @ crossed).clamp(min=0).sqrt().sum())
    return total / n_draws


def _random_cosines(n_rows: int, n_columns: int, n_free: int, rng: np.random.Generator) -> Tensor:
    """Draw the first rows and columns of a random orthogonal matrix of n_free dimensions.

    Columns of Gaussians are made orthonormal; of the rows below those wanted only the scatter matters,
    which is drawn as a triangle (Bartlett 1933).
    """
    wanted = torch.from_numpy(rng.standard_normal((n_rows, n_columns)))
    n_below = n_free - n_rows
    below = rng.standard_normal((min(n_below, n_columns), n_columns))
    if n_below > n_columns:
        below = np.triu(below)
        np.fill_diagonal(below, np.sqrt(rng.chisquare(n_below - np.arange(n_columns))))
    rest = torch.from_numpy(below)
    factor = torch.linalg.cholesky(wanted.T @ wanted + rest.T @ rest)
    return torch.linalg.solve_triangular(factor, wanted.T, upper=False).T


def jaccard_floor(n_samples: int, k: int) -> float:
    """Return the mean Jaccard index of two random sets of k out of n_samples - 1; exact."""
    n_others = n_samples - 1
    ways = comb(n_others, k)
    return sum(
        comb(k, shared) * comb(n_others - k, k - shared) / ways * shared / (2 * k - shared)
        for shared in range(1, k + 1)
    )
