"""Gabor filters: each has its wave where its description says, seen by a Fourier transform."""

import math

import pytest
import torch

from trainables.gabor import Gabor, gabor_bank, gabor_filter, gabor_grid

PADDED_PX = 256


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spectral_peak(gabor: Gabor, kernel_px: int) -> tuple[float, float]:
    """Orientation in [0, pi) and frequency, in cycles per pixel, where the power spectrum is greatest."""
    channel = max(range(len(gabor.colour)), key=lambda i: abs(gabor.colour[i]))
    power = torch.fft.fft2(gabor_filter(gabor, kernel_px)[channel], s=(PADDED_PX, PADDED_PX)).abs() ** 2
    row, column = divmod(int(power.argmax()), PADDED_PX)
    y, x = (torch.fft.fftfreq(PADDED_PX)[i].item() for i in (row, column))
    return math.atan2(y, x) % math.pi, math.hypot(x, y)


def angle_between(a: float, b: float) -> float:
    return min((a - b) % math.pi, (b - a) % math.pi)


@pytest.mark.parametrize("kernel_px", [7, 11])
def test_power_spectrum_peaks_at_the_stated_orientation_and_frequency(kernel_px):
    for gabor in gabor_grid(1, kernel_px):
        orientation, frequency = spectral_peak(gabor, kernel_px)
        assert angle_between(orientation, gabor.orientation) < math.radians(3), gabor
        assert frequency == pytest.approx(gabor.frequency, rel=0.15), gabor


def test_wave_along_the_columns_has_equal_rows_up_to_the_envelope():
    across = gabor_filter(Gabor(0.0, 0.25, 0.0, (1.0,)), 9)[0]
    assert torch.linalg.matrix_rank(across, rtol=1e-9) == 1
    assert across.equal(across.flip(0))
    down = gabor_filter(Gabor(math.pi / 2, 0.25, 0.0, (1.0,)), 9)[0]
    torch.testing.assert_close(down, across.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("phase", "sign"), [(0.0, 1), (math.pi / 2, -1)])
def test_phase_zero_is_even_and_a_quarter_turn_is_odd(phase, sign):
    values = gabor_filter(Gabor(0.7, 0.2, phase, (1.0,)), 7)[0]
    torch.testing.assert_close(values.flip(0, 1), sign * values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_px", [3, 4, 5, 7, 11, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_filter_has_mean_zero_and_norm_one_in_its_colour(channels, kernel_px):
    for gabor in gabor_grid(channels, kernel_px):
        values = gabor_filter(gabor, kernel_px)
        assert values.shape == (channels, kernel_px, kernel_px)
        assert values.isfinite().all()
        assert values.norm().item() == pytest.approx(1)
        assert values.mean((1, 2)).abs().max().item() < 1e-12
        assert gabor.frequency < 0.5


def test_colours_are_orthogonal_and_only_grey_answers_to_light():
    colours = torch.tensor(sorted({gabor.colour for gabor in gabor_grid(3, 7)}))
    torch.testing.assert_close(colours @ colours.T, torch.eye(3))
    assert sorted(colours.sum(1).abs().round(decimals=6).tolist()) == pytest.approx([0, 0, 3**0.5])


@pytest.mark.parametrize(
    ("channels", "kernel_px", "n"), [(1, 3, 32), (3, 3, 96), (1, 5, 96), (3, 7, 288), (1, 11, 96)]
)
def test_grid_has_no_filter_twice(channels, kernel_px, n):
    filters = torch.stack([gabor_filter(gabor, kernel_px) for gabor in gabor_grid(channels, kernel_px)])
    distances = torch.cdist(filters.flatten(1), filters.flatten(1)) + 9 * torch.eye(n)
    assert len(filters) == n
    assert distances.min().item() > 0.1


def test_bank_is_drawn_without_replacement_while_the_grid_lasts():
    bank = gabor_bank(200, 1, 5, generator=noise())
    assert bank.shape == (200, 1, 5, 5)
    first, second = bank[:96].flatten(1), bank[96:192].flatten(1)
    assert len(first.unique(dim=0)) == 96
    assert first.unique(dim=0).equal(second.unique(dim=0))
    assert not first.equal(second)


def test_bank_depends_on_the_generator_alone():
    once, again, other = (gabor_bank(64, 3, 7, generator=noise(seed)) for seed in (1, 1, 2))
    assert once.equal(again)
    assert not once.equal(other)


def test_kernels_without_room_and_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"^kernel_px must be at least 3, got 2$"):
        gabor_bank(4, 1, 2, generator=noise())
    with pytest.raises(ValueError, match=r"^channels must be 1 or 3, got 2$"):
        gabor_bank(4, 2, 7, generator=noise())
