"""Augmentation moves pixels and invents none; normalisation is undone by its inverse."""

import pytest
import torch

from trainables.augmentation import augment, normalize_pixels
from trainables.errors import SpecError
from trainables.spec import AugmentSpec


def images(n: int = 64, channels: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_for_is_nothing_done() -> None:
    batch = images()
    assert torch.equal(augment(batch, AugmentSpec(), generator=seeded()), batch)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    batch = images(400)
    flipped = augment(batch, AugmentSpec(horizontal_flip=True), generator=seeded())
    is_mirrored = (flipped == batch.flip(3)).flatten(1).all(1)
    is_same = (flipped == batch).flatten(1).all(1)
    assert (is_mirrored ^ is_same).all()
    assert 150 < int(is_mirrored.sum()) < 250


def test_shift_equals_a_random_crop_of_the_reflected_image() -> None:
    batch, spec = images(200), AugmentSpec(shift_px=2)
    padded = torch.nn.functional.pad(batch, (2, 2, 2, 2), mode="reflect")
    crops = [padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    shifted = augment(batch, spec, generator=seeded())
    matches = torch.stack([(shifted == crop).flatten(1).all(1) for crop in crops])
    assert matches.any(0).all()
    assert matches.any(1).all(), "200 images see every one of the 25 shifts"


@pytest.mark.parametrize("shift", [1, 5, 7])
def test_no_value_is_invented(shift: int) -> None:
    batch = images(16)
    changed = augment(batch, AugmentSpec(horizontal_flip=True, shift_px=shift), generator=seeded())
    assert changed.shape == batch.shape
    for before, after in zip(batch, changed, strict=True):
        assert torch.isin(after, before).all()


def test_channels_of_an_image_move_together() -> None:
    batch = images(32, channels=1).expand(-1, 3, -1, -1)
    changed = augment(batch, AugmentSpec(horizontal_flip=True, shift_px=3), generator=seeded())
    assert torch.equal(changed[:, 0], changed[:, 2])


def test_the_generator_decides() -> None:
    batch, spec = images(), AugmentSpec(horizontal_flip=True, shift_px=2)
    first, again, other = (augment(batch, spec, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_images_given_are_left_alone() -> None:
    batch = images()
    augment(batch, AugmentSpec(horizontal_flip=True, shift_px=2), generator=seeded())
    assert torch.equal(batch, images())


def test_shift_beyond_the_image_is_refused() -> None:
    with pytest.raises(SpecError, match=r"training.augment.shift_px must be below the side .* 8, got 8"):
        augment(images(), AugmentSpec(shift_px=8), generator=seeded())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_sees_the_same_augmentation() -> None:
    batch, spec = images(), AugmentSpec(horizontal_flip=True, shift_px=2)
    there = augment(batch.cuda(), spec, generator=seeded())
    assert torch.equal(there.cpu(), augment(batch, spec, generator=seeded()))


def test_normalised_pixels_have_zero_mean_and_unit_variance() -> None:
    pixels = torch.randint(0, 256, (20, 2, 6, 6), dtype=torch.uint8, generator=seeded())
    scaled = pixels.double() / 255
    mean, sd = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
    result = normalize_pixels(pixels, mean=tuple(mean.tolist()), sd=tuple(sd.tolist()))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3), correction=0), torch.ones(2))
    back = (result * sd.view(-1, 1, 1) + mean.view(-1, 1, 1)) * 255
    assert torch.equal(back.round().to(torch.uint8), pixels)
    assert pixels.dtype == torch.uint8


def test_unit_normalisation_spans_minus_one_to_one() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert normalize_pixels(ends, mean=(0.5,), sd=(0.5,)).flatten().tolist() == [-1.0, 1.0]
