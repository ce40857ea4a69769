import numpy as np
import pytest
import torch

from analysis.numerics.moments import IncomparableError, Moments


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
