import numpy as np
import pytest
import torch

from analysis.numerics import moments as moments_module
from analysis.numerics.moments import IncomparableError, JointMoments, Moments


def gathered(x: torch.Tensor, y: torch.Tensor, *, batch: int) -> Moments:
    moments = Moments()
    for start in range(0, len(x), batch):
        moments.update(x[start : start + batch], y[start : start + batch])
    return moments


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(203, 5, generator=generator, dtype=torch.float64)
    return x, x[:, :3] ** 2 + torch.randn(203, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("batch", [1, 7, 64, 203])
def test_moments_do_not_depend_on_the_batches(pair, batch):
    x, y = pair
    moments = gathered(x, y, batch=batch)
    expected = np.cov(np.hstack([x.numpy(), y.numpy()]), rowvar=False)
    assert moments.n == 203
    np.testing.assert_allclose(moments.mean_x, x.numpy().mean(0), atol=1e-13)
    np.testing.assert_allclose(moments.mean_y, y.numpy().mean(0), atol=1e-13)
    np.testing.assert_allclose(moments.cxx, expected[:5, :5], atol=1e-12)
    np.testing.assert_allclose(moments.cyy, expected[5:, 5:], atol=1e-12)
    np.testing.assert_allclose(moments.cxy, expected[:5, 5:], atol=1e-12)


def test_a_large_offset_costs_no_precision(pair):
    x, y = pair
    plain = gathered(x, y, batch=16)
    offset = gathered(x + 1e6, y - 1e6, batch=16)
    np.testing.assert_allclose(offset.cxx, plain.cxx, atol=1e-8)
    np.testing.assert_allclose(offset.cxy, plain.cxy, atol=1e-8)


def test_float32_batches_are_summed_in_float64(pair):
    x, y = pair
    single = gathered(x.float(), y.float(), batch=16)
    assert single.cxx.dtype == torch.float64
    expected = np.cov(x.float().double().numpy(), rowvar=False)
    np.testing.assert_allclose(single.cxx, expected, atol=1e-12)


def test_an_empty_batch_changes_nothing(pair):
    x, y = pair
    moments = gathered(x, y, batch=50)
    before = moments.cxy.clone()
    moments.update(x[:0], y[:0])
    assert moments.n == 203
    assert torch.equal(moments.cxy, before)


def test_update_leaves_the_batch_alone(pair):
    x, y = pair
    copies = x.clone(), y.clone()
    gathered(x, y, batch=10)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


def test_unpaired_rows_are_refused():
    with pytest.raises(ValueError, match=r"equal n_samples, got \(4, 2\) and \(5, 2\)"):
        Moments().update(torch.zeros(4, 2), torch.zeros(5, 2))


def test_another_width_is_refused(pair):
    x, y = pair
    moments = gathered(x, y, batch=50)
    with pytest.raises(ValueError, match=r"expected batches of \(5, 3\) units, got \(4, 3\)"):
        moments.update(x[:, :4], y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(pair, bad):
    x, y = pair
    x[3, 1] = bad
    with pytest.raises(IncomparableError, match="activations must be finite, got NaN or infinity"):
        gathered(x, y, batch=50)


def test_one_sample_has_no_covariance():
    moments = Moments()
    moments.update(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="at least 2 samples, got n_samples=1"):
        _ = moments.cxx


def test_nothing_seen_has_no_mean():
    with pytest.raises(ValueError, match="hold no samples yet"):
        _ = Moments().mean_x


def test_the_spectrum_follows_every_batch(pair):
    x, y = pair
    moments = Moments()
    for batch in (slice(0, 20), slice(20, 60)):
        moments.update(x[batch], y[batch])
        for covariance, (variances, vectors) in (
            (moments.cxx, moments.spectrum_x),
            (moments.cyy, moments.spectrum_y),
        ):
            torch.testing.assert_close(vectors @ torch.diag(variances) @ vectors.T, covariance)


@pytest.mark.parametrize("width", [1, 4, 5])
def test_blocks_and_long_batches_change_nothing(pair, width, monkeypatch):
    x, y = pair
    whole = gathered(x, y, batch=203)
    monkeypatch.setattr(moments_module, "BLOCK_UNITS", width)
    monkeypatch.setattr(moments_module, "ROWS_AT_ONCE", 31)
    parts = gathered(x, y, batch=203)
    torch.testing.assert_close(parts.cxx, whole.cxx, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.cyy, whole.cyy, rtol=0, atol=1e-12)
    assert torch.equal(parts.cxx, parts.cxx.T)


def test_batches_that_drift_far_apart_cost_no_precision(pair):
    x, y = pair
    drift = torch.linspace(-1e3, 1e3, 203, dtype=torch.float64)[:, None]
    moments = gathered(x + drift, y, batch=10)
    np.testing.assert_allclose(moments.cxx, np.cov((x + drift).numpy(), rowvar=False), rtol=1e-12)


def test_values_that_overflow_are_refused(pair):
    x, y = pair
    moments = gathered(x * 1e200, y, batch=50)
    with pytest.raises(IncomparableError, match="activations must be finite"):
        _ = moments.cxx


@pytest.fixture
def stages() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.randn(90, units, generator=generator, dtype=torch.float64) + units
        for key, units in (("a", 5), ("b", 3), ("c", 4))
    }


PAIRS = [("a", "b"), ("a", "c"), ("c", "b"), ("b", "a"), ("a", "a")]


def jointly(stages: dict[str, torch.Tensor], *, batch: int = 40) -> JointMoments:
    joint = JointMoments(PAIRS)
    for start in range(0, 90, batch):
        joint.update({key: rows[start : start + batch] for key, rows in stages.items()})
    return joint


@pytest.mark.parametrize(("key_x", "key_y"), [*PAIRS, ("c", "a")])
def test_joint_moments_are_those_of_each_pair_alone(stages, key_x, key_y):
    alone = gathered(stages[key_x], stages[key_y], batch=90)
    together = jointly(stages).of(key_x, key_y)
    assert together.n == alone.n
    for part in ("mean_x", "mean_y", "cxx", "cyy", "cxy"):
        torch.testing.assert_close(getattr(together, part), getattr(alone, part), rtol=0, atol=1e-12)


def test_pairs_share_what_is_derived_from_a_side(stages):
    joint = jointly(stages)
    assert joint.of("a", "b").spectrum_x[1] is joint.of("c", "a").spectrum_y[1]
    assert joint.of("a", "b").x.whitening is joint.of("a", "a").y.whitening


def test_a_view_follows_later_batches(stages):
    joint = jointly(stages)
    view = joint.of("a", "b")
    before = view.spectrum_x[0]
    joint.update({key: 2 * rows for key, rows in stages.items()})
    assert view.n == 180
    assert not torch.equal(view.spectrum_x[0], before)


def test_one_pair_of_several_cannot_be_updated_alone(stages):
    view = jointly(stages).of("a", "b")
    with pytest.raises(ValueError, match=r"need rows of \['a', 'b', 'c'\] together, got \['a', 'b'\]"):
        view.update(stages["a"], stages["b"])


def test_a_pair_that_was_not_asked_for_is_refused(stages):
    joint = JointMoments([("a", "b"), ("a", "c")])
    joint.update(stages)
    with pytest.raises(ValueError, match=r"moments of \('b', 'c'\) are not gathered, only of \[\('a', 'b'\)"):
        joint.of("b", "c")
