import numpy as np
import pytest

from analysis.numerics.multiplicity import holm


def holm_by_definition(p: np.ndarray) -> np.ndarray:
    """The smallest alpha at which the step-down procedure rejects each test, found by trying."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    for position, test in enumerate(order):
        # Rejected at alpha if this and all smaller ones pass their step.
        needed = [p[order[k]] * (len(p) - k) for k in range(position + 1)]
        adjusted[test] = min(max(needed), 1)
    return adjusted


def test_adjusted_p_values_are_those_of_the_step_down_procedure():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        p = rng.uniform(size=size) ** 3
        np.testing.assert_allclose(holm(p), holm_by_definition(p))


def test_a_worked_example():
    # Of four: 0.005 × 4, then 0.01 × 3, 0.03 × 2, and 0.04 × 1, which must not fall below the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_order_of_the_tests_does_not_matter():
    p = np.array([0.2, 0.001, 0.03, 0.03, 0.9])
    shuffle = np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(holm(p[shuffle]), holm(p)[shuffle])


def test_tests_that_could_not_be_made_do_not_count():
    np.testing.assert_allclose(holm([np.nan, 0.02, np.nan, 0.5]), [np.nan, 0.04, np.nan, 0.5])
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).shape == (0,)


def test_adjusted_p_values_are_at_most_one_and_never_smaller_than_given():
    p = np.array([0.6, 0.7, 0.0, 1.0])
    assert (holm(p) >= p).all()
    assert holm(p).max() == 1


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"p-values must lie between 0 and 1, got {wrong}"):
        holm([0.5, wrong])


def test_a_family_without_any_effect_errs_as_rarely_as_promised():
    rng = np.random.default_rng(1)
    families = rng.uniform(size=(2000, 10))
    assert np.mean([holm(p).min() < 0.05 for p in families]) == pytest.approx(0.05, abs=0.015)
