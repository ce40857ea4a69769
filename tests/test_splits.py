"""Drawn splits: whole groups, every class, the same for the same seed and whatever the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.datasets.splits import draw_fraction, draw_per_class, draw_splits

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def one_hot(labels: np.ndarray) -> np.ndarray:
    return labels[:, None] == np.arange(labels.max() + 1)


def patients(seed: int, *, n_classes: int = 3, n_patients: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Draw 1 to 5 images a patient, mostly of one class; every class has at least five patients."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, n_patients)
    main = np.concatenate([np.repeat(np.arange(n_classes), 5), rng.integers(0, n_classes, n_patients)])
    labels = np.repeat(main[:n_patients], sizes)
    strays = rng.random(len(labels)) < 0.1
    labels[strays] = rng.integers(0, n_classes, strays.sum())
    groups = np.repeat([f"patient{number:03d}" for number in range(n_patients)], sizes)
    return one_hot(labels), groups


@settings(max_examples=40, deadline=None)
@given(data=st.integers(0, 10_000), seed=st.integers(0, 10_000))
def test_no_group_crosses_splits_and_every_class_is_in_every_split(data: int, seed: int) -> None:
    membership, groups = patients(data)
    splits = draw_splits(membership, groups, shares=SHARES, seed=seed)
    for group in np.unique(groups):
        assert len(set(splits[groups == group])) == 1
    for split in SHARES:
        assert membership[splits == split].any(0).all()


@settings(max_examples=40, deadline=None)
@given(data=st.integers(0, 10_000), seed=st.integers(0, 10_000))
def test_splits_do_not_depend_on_the_order_of_the_samples(data: int, seed: int) -> None:
    membership, groups = patients(data)
    shuffled = np.random.default_rng(data).permutation(len(groups))
    splits = draw_splits(membership, groups, shares=SHARES, seed=seed)
    again = draw_splits(membership[shuffled], groups[shuffled], shares=SHARES, seed=seed)
    np.testing.assert_array_equal(splits[shuffled], again)


def test_every_split_gets_its_share_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [1000, 200, 40])
    groups = np.array([f"{number}" for number in range(len(labels))])
    splits = draw_splits(one_hot(labels), groups, shares=SHARES, seed=5)
    for number, total in enumerate((1000, 200, 40)):
        for split, share in SHARES.items():
            assert abs((splits[labels == number] == split).sum() - share * total) <= 1


def test_shares_hold_for_groups_of_several_samples() -> None:
    membership, groups = patients(1, n_patients=400)
    splits = draw_splits(membership, groups, shares=SHARES, seed=0)
    for number in range(membership.shape[1]):
        of_class = splits[membership[:, number]]
        for split, share in SHARES.items():
            assert (of_class == split).mean() == pytest.approx(share, abs=0.03)


def test_three_groups_of_a_class_are_spread_over_three_splits() -> None:
    labels = np.repeat([0, 1], [100, 3])
    groups = np.array([f"{number}" for number in range(len(labels))])
    for seed in range(20):
        splits = draw_splits(one_hot(labels), groups, shares=SHARES, seed=seed)
        assert set(splits[labels == 1]) == set(SHARES)


def test_patients_with_a_rare_class_beside_a_common_one_are_spread_over_the_splits() -> None:
    groups = np.array([f"patient{number:03d}" for number in range(100)])
    membership = np.ones((100, 2), bool)
    membership[3:, 1] = False
    for seed in range(20):
        splits = draw_splits(membership, groups, shares=SHARES, seed=seed)
        assert set(splits[:3]) == set(SHARES)


def test_multilabel_samples_without_any_label_are_spread_too() -> None:
    membership = np.zeros((200, 2), bool)
    membership[:50, 0] = membership[25:75, 1] = True
    groups = np.array([f"{number}" for number in range(200)])
    splits = draw_splits(membership, groups, shares=SHARES, seed=0)
    of_none = splits[~membership.any(1)]
    assert (of_none == "val").mean() == pytest.approx(0.15, abs=0.02)
    for label in range(2):
        assert (splits[membership[:, label]] == "test").mean() == pytest.approx(0.15, abs=0.03)


def test_another_seed_gives_other_splits() -> None:
    membership, groups = patients(0)
    first, second = (draw_splits(membership, groups, shares=SHARES, seed=seed) for seed in (0, 1))
    assert (first != second).any()


def test_the_splits_of_a_seed_never_change() -> None:
    # A published split is part of a result: a change here changes every number drawn from it.
    groups = np.array([f"{number}" for number in range(12)])
    splits = draw_splits(one_hot(np.arange(12) % 2), groups, shares=SHARES, seed=0)
    assert " ".join(splits) == "train val train train test train train train train test val train"


@settings(max_examples=40, deadline=None)
@given(
    data=st.integers(0, 10_000),
    seed=st.integers(0, 10_000),
    fractions=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
)
def test_a_smaller_fraction_is_part_of_a_larger_and_keeps_every_class(
    data: int, seed: int, fractions: tuple[float, float]
) -> None:
    membership, groups = patients(data)
    small, large = (
        draw_fraction(membership, groups, fraction=fraction, seed=seed) for fraction in sorted(fractions)
    )
    assert not (small & ~large).any()
    assert membership[small].any(0).all()
    for group in np.unique(groups):
        assert len(set(small[groups == group])) == 1


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1.0])
def test_a_fraction_keeps_that_share_of_every_class(fraction: float) -> None:
    labels = np.repeat([0, 1], [1000, 100])
    groups = np.array([f"{number}" for number in range(len(labels))])
    kept = draw_fraction(one_hot(labels), groups, fraction=fraction, seed=3)
    assert [kept[labels == number].sum() for number in (0, 1)] == [1000 * fraction, 100 * fraction]


def test_a_fraction_does_not_depend_on_the_order_of_the_samples() -> None:
    membership, groups = patients(2)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    kept = draw_fraction(membership, groups, fraction=0.3, seed=0)
    again = draw_fraction(membership[shuffled], groups[shuffled], fraction=0.3, seed=0)
    np.testing.assert_array_equal(kept[shuffled], again)
    assert 0 < kept.sum() < len(kept)


def test_a_fraction_is_drawn_independently_of_the_splits() -> None:
    # With one order for both, the groups that come first would be those in train and also those kept.
    groups = np.array([f"{number}" for number in range(1000)])
    membership = np.ones((1000, 1), bool)
    is_train = draw_splits(membership, groups, shares=SHARES, seed=0) == "train"
    kept = draw_fraction(membership, groups, fraction=0.5, seed=0)
    assert 310 < (is_train & kept).sum() < 390


@pytest.mark.parametrize(("fraction", "n_groups"), [(0.54, 5), (0.56, 6)])
def test_a_fraction_is_met_as_closely_as_whole_groups_allow(fraction: float, n_groups: int) -> None:
    groups = np.repeat([f"{number}" for number in range(10)], 10)
    kept = draw_fraction(np.ones((100, 1), bool), groups, fraction=fraction, seed=0)
    assert len(np.unique(groups[kept])) == n_groups


@settings(max_examples=40, deadline=None)
@given(data=st.integers(0, 10_000), seed=st.integers(0, 10_000), n=st.tuples(*[st.integers(1, 60)] * 2))
def test_a_smaller_budget_is_part_of_a_larger_and_neither_is_exceeded(
    data: int, seed: int, n: tuple[int, int]
) -> None:
    membership, groups = patients(data)
    kept = [draw_per_class(membership, groups, n=each, seed=seed) for each in sorted(n)]
    assert not (kept[0] & ~kept[1]).any()
    for budget, chosen in zip(sorted(n), kept, strict=True):
        assert membership[chosen].any(0).all()
        largest = max(np.unique(groups, return_counts=True)[1])
        n_first = membership.shape[1]  # the groups that are kept whatever their size
        assert membership[chosen].sum(0).max() <= budget + n_first * largest
        for group in np.unique(groups):
            assert len(set(chosen[groups == group])) == 1


@pytest.mark.parametrize("n", [1, 7, 40, 100])
def test_a_budget_of_single_images_is_met_in_every_class(n: int) -> None:
    labels = np.repeat([0, 1], [1000, 40])
    groups = np.array([f"{number}" for number in range(len(labels))])
    kept = draw_per_class(one_hot(labels), groups, n=n, seed=3)
    assert [kept[labels == number].sum() for number in (0, 1)] == [n, min(n, 40)]


def test_groups_that_do_not_fit_in_a_budget_are_left_out_but_the_first() -> None:
    groups = np.repeat([f"{number}" for number in range(10)], 4)
    whole = np.ones((40, 1), bool)
    assert draw_per_class(whole, groups, n=11, seed=0).sum() == 8
    assert draw_per_class(whole, groups, n=3, seed=0).sum() == 4


def test_a_budget_does_not_depend_on_the_order_of_the_samples() -> None:
    membership, groups = patients(2)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    kept = draw_per_class(membership, groups, n=12, seed=0)
    again = draw_per_class(membership[shuffled], groups[shuffled], n=12, seed=0)
    np.testing.assert_array_equal(kept[shuffled], again)


def test_a_budget_holds_for_samples_of_several_labels_and_of_none() -> None:
    rng = np.random.default_rng(0)
    membership = rng.random((300, 3)) < (0.5, 0.2, 0.05)
    groups = np.array([f"{number}" for number in range(300)])
    kept = draw_per_class(membership, groups, n=20, seed=0)
    assert membership[kept].sum(0).max() <= 20 + 4
    assert (~membership[kept].any(1)).sum() <= 20
    assert membership[kept].any(0).all()
