"""Splits that are drawn: stratified by class, whole groups, the same wherever and in whatever order.

Groups are ordered by a hash of their name and the seed, so neither the file system nor the library that
draws random numbers has a say.
"""

import hashlib
from collections.abc import Mapping

import numpy as np


def draw_splits(
    membership: np.ndarray, groups: np.ndarray, *, shares: Mapping[str, float], seed: int
) -> np.ndarray:
    """Assign every group to one split, so that each split gets its share of every class.

    Iterative stratification (Sechidis et al. 2011) of whole groups: the class with the fewest groups
    first, each group to the split that lacks most of this class, and first of all to one that has none.

    Args:
        membership: (n_samples, n_classes) bool, which classes a sample belongs to.
        groups: (n_samples,) str.
        shares: of the samples, by split; they sum to 1.

    Returns:
        (n_samples,) str, a split for every sample.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    counts = _counts(membership, group_of, len(names))
    order = _shuffled(names, seed=seed, purpose="splits")
    needed = np.array(list(shares.values()))[:, None] * counts.sum(0)
    has_class = np.zeros(needed.shape, bool)
    split_of = np.full(len(names), -1)
    while (split_of < 0).any():
        n_waiting = (counts[split_of < 0] > 0).sum(0)
        scarcest = int(np.argmin(np.where(n_waiting > 0, n_waiting, np.inf)))
        for group in order[(split_of[order] < 0) & (counts[order, scarcest] > 0)]:
            wishes = needed[:, scarcest] + (~has_class[:, scarcest]) * len(groups)
            split = int(np.argmax(wishes))
            split_of[group] = split
            needed[split] -= counts[group]
            has_class[split] |= counts[group] > 0
    return np.array(list(shares))[split_of][group_of]


def draw_fraction(membership: np.ndarray, groups: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of every class, whole groups; of the same seed, a smaller share is part of a larger.

    At least one group of every class is kept. A group with several classes counts for its rarest.

    Returns:
        (n_samples,) bool, which samples are kept.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    counts = _counts(membership, group_of, len(names))
    order = _shuffled(names, seed=seed, purpose="fraction")
    stratum = np.argmin(np.where(counts > 0, counts.sum(0), np.inf), axis=1)
    sizes = np.bincount(group_of)
    kept = np.zeros(len(names), bool)
    for number in range(counts.shape[1]):
        of_class = order[counts[order, number] > 0]
        kept[of_class[:1]] = True
        of_stratum = order[stratum[order] == number]
        upto = np.cumsum(sizes[of_stratum])
        # A group is kept if at least half of it lies within the share.
        kept[of_stratum[upto - sizes[of_stratum] / 2 <= fraction * upto[-1:].sum()]] = True
    return kept[group_of]


def draw_per_class(membership: np.ndarray, groups: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """Choose at most `n` samples of every class, whole groups; of the same seed, fewer are part of more.

    The groups of a class are taken in turn while its samples number at most `n`, and a group of several
    classes only if every one of them has room. The first group of every class is kept whatever its size.
    Samples of no class count as one more.

    Returns:
        (n_samples,) bool, which samples are kept.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    counts = _counts(membership, group_of, len(names))
    order = _shuffled(names, seed=seed, purpose="fraction")
    upto = np.cumsum(counts[order], axis=0)
    has_room = ((upto <= n) | (counts[order] == 0)).all(1)
    is_first = ((counts[order] > 0) & (upto == counts[order])).any(1)
    kept = np.zeros(len(names), bool)
    kept[order] = has_room | is_first
    return kept[group_of]


def _counts(membership: np.ndarray, group_of: np.ndarray, n_groups: int) -> np.ndarray:
    """Return (n_groups, n_classes + 1): samples by class, and in the last column those of no class."""
    of_none = ~membership.any(1, keepdims=True)
    counts = np.zeros((n_groups, membership.shape[1] + 1), np.int64)
    np.add.at(counts, group_of, np.hstack([membership, of_none]))
    return counts


def _shuffled(names: np.ndarray, *, seed: int, purpose: str) -> np.ndarray:
    keys = [hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__))
