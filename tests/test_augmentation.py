"""Augmentation moves pixels and invents none; normalisation is undone by its inverse."""

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from trainables import augmentation
from trainables.augmentation import _affine_grid, augment, normalize_pixels, scale_pixels
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
    result = normalize_pixels(scale_pixels(pixels), mean=tuple(mean.tolist()), sd=tuple(sd.tolist()))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3), correction=0), torch.ones(2))
    back = (result * sd.view(-1, 1, 1) + mean.view(-1, 1, 1)) * 255
    assert torch.equal(back.round().to(torch.uint8), pixels)
    assert pixels.dtype == torch.uint8


def test_unit_normalisation_spans_minus_one_to_one() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert normalize_pixels(scale_pixels(ends), mean=(0.5,), sd=(0.5,)).flatten().tolist() == [-1.0, 1.0]


def smooth(n: int = 6, *, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Images without fine detail, so that two ways to interpolate agree."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def interior(batch: torch.Tensor) -> torch.Tensor:
    return batch[:, :, 8:-8, 8:-8]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Note what is drawn uniformly, in the order in which it is drawn."""
    noted: list[torch.Tensor] = []
    draw = augmentation._uniform

    def noting(*arguments: object) -> torch.Tensor:
        noted.append(draw(*arguments))  # type: ignore[arg-type]
        return noted[-1]

    monkeypatch.setattr(augmentation, "_uniform", noting)
    return noted


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_turning_is_that_of_torchvision(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    batch, noted = smooth(size=size), drawn(monkeypatch)
    turned = augment(batch, AugmentSpec(rotation_degrees=30.0), generator=seeded())
    angles = noted[0]
    assert float(angles.abs().max()) <= 30
    expected = torch.stack(
        [
            reference.rotate(image, float(angle), interpolation=reference.InterpolationMode.BILINEAR)
            for image, angle in zip(batch, angles, strict=True)
        ]
    )
    # Further out a wide image is turned in from beyond its border, which torchvision leaves black.
    middle = slice(size[1] // 2 - 8, size[1] // 2 + 8)
    rows = slice(8, -8)
    torch.testing.assert_close(turned[:, :, rows, middle], expected[:, :, rows, middle], atol=0.02, rtol=0)


def test_magnifying_is_that_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, noted = smooth(), drawn(monkeypatch)
    magnified = augment(batch, AugmentSpec(scale=(0.8, 1.3)), generator=seeded())
    scales = noted[1]
    expected = torch.stack(
        [
            reference.affine(
                image,
                angle=0.0,
                translate=[0.0, 0.0],
                scale=float(scale),
                shear=[0.0, 0.0],
                interpolation=reference.InterpolationMode.BILINEAR,
            )
            for image, scale in zip(batch, scales, strict=True)
        ]
    )
    assert 0.8 <= float(scales.min()) < float(scales.max()) <= 1.3
    torch.testing.assert_close(interior(magnified), interior(expected), atol=0.02, rtol=0)


def test_a_crop_is_that_of_torchvision() -> None:
    batch = smooth(200)
    cropped = augment(batch, AugmentSpec(crop_area=(0.3, 0.6)), generator=seeded())
    generator = seeded()
    # The same draws as above, in their order: flips, shifts, flips, angles, scales, and then the crops.
    torch.rand(200, generator=generator), torch.randint(0, 1, (2, 200, 1), generator=generator)
    for _ in range(3):
        torch.rand(200, generator=generator)
    centre, half = augmentation._crops(200, (0.3, 0.6), generator)
    areas, ratios = half[:, 0] * half[:, 1], half[:, 0] / half[:, 1]
    assert 0.3 <= float(areas.min()) < float(areas.max()) <= 0.6
    assert 3 / 4 <= float(ratios.min()) < float(ratios.max()) <= 4 / 3 + 1e-6
    assert float((centre.abs() + half).max()) <= 1 + 1e-6
    for image, result, (x, y), (wide, high) in zip(batch[:20], cropped, centre, half, strict=False):
        left, top = float(x - wide + 1) * 16, float(y - high + 1) * 16
        rows = (torch.arange(32) + 0.5) / 32 * float(high) * 32 + top
        columns = (torch.arange(32) + 0.5) / 32 * float(wide) * 32 + left
        expected = image[:, rows.long().clamp(0, 31)][:, :, columns.long().clamp(0, 31)]
        torch.testing.assert_close(result, expected, atol=0.12, rtol=0)


@pytest.mark.parametrize("moves", [{"shift_px": 3}, {"horizontal_flip": True, "vertical_flip": True}])
def test_interpolation_flips_and_shifts_as_whole_pixels_do(moves: dict[str, object]) -> None:
    batch = smooth(64)
    exact = augment(batch, AugmentSpec.model_validate(moves), generator=seeded())
    hardly_turned = AugmentSpec.model_validate({**moves, "rotation_degrees": 1e-6})
    interpolated = augment(batch, hardly_turned, generator=seeded())
    torch.testing.assert_close(interior(interpolated), interior(exact), atol=1e-4, rtol=0)


def test_a_crop_that_can_be_the_whole_image_only_is_the_image() -> None:
    batch = smooth()
    spec = AugmentSpec(crop_area=(1.0, 1.0), rotation_degrees=1e-9)
    torch.testing.assert_close(augment(batch, spec, generator=seeded()), batch, atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation"])
def test_colours_change_as_torchvision_changes_them(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, noted = images(), drawn(monkeypatch)
    changed = augment(batch, AugmentSpec(**{change: 0.4}), generator=seeded())
    adjust = getattr(reference, f"adjust_{change}")
    (factors,) = noted
    expected = torch.stack([adjust(image, float(f)) for image, f in zip(batch, factors, strict=True)])
    assert 0.6 <= float(factors.min()) < float(factors.max()) <= 1.4
    torch.testing.assert_close(changed, expected, atol=1e-5, rtol=0)


def test_grey_images_have_no_saturation_but_a_contrast() -> None:
    batch = images(channels=1)
    assert torch.equal(augment(batch, AugmentSpec(saturation=0.5), generator=seeded()), batch)
    assert not torch.equal(augment(batch, AugmentSpec(contrast=0.5), generator=seeded()), batch)


def test_upside_down_is_about_half_of_the_images() -> None:
    batch = images(400)
    changed = augment(batch, AugmentSpec(vertical_flip=True), generator=seeded())
    is_upset = (changed == batch.flip(2)).flatten(1).all(1)
    assert (is_upset ^ (changed == batch).flatten(1).all(1)).all()
    assert 150 < int(is_upset.sum()) < 250


EVERYTHING = AugmentSpec(
    crop_area=(0.5, 1.0),
    horizontal_flip=True,
    vertical_flip=True,
    rotation_degrees=20.0,
    scale=(0.9, 1.1),
    shift_px=2,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)


@pytest.mark.parametrize(("height", "width"), [(5, 9), (64, 64), (1, 7)])
def test_where_pixels_are_taken_from_is_as_torch_has_it(height: int, width: int) -> None:
    theta = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.affine_grid(theta, [4, 3, height, width], align_corners=False)
    assert torch.allclose(_affine_grid(theta, height, width), expected, atol=1e-5)


def test_an_image_is_changed_by_its_own_draw_whatever_the_others_are() -> None:
    batch, others = smooth(8), smooth(8).flip(0)
    others[3] = batch[3]
    one, other = (augment(each, EVERYTHING, generator=seeded()) for each in (batch, others))
    torch.testing.assert_close(one[3], other[3])
    same = augment(batch[:1].expand(8, -1, -1, -1), EVERYTHING, generator=seeded())
    assert all(not torch.equal(same[0], image) for image in same[1:])


def test_values_stay_between_black_and_white() -> None:
    changed = augment(images(64, side=16), EVERYTHING, generator=seeded())
    assert 0 <= float(changed.min()) < float(changed.max()) <= 1
    assert math.isfinite(float(changed.sum()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_same_augmentation() -> None:
    batch = smooth(16)
    on_gpu = augment(batch.cuda(), EVERYTHING, generator=seeded()).cpu()
    torch.testing.assert_close(on_gpu, augment(batch, EVERYTHING, generator=seeded()), atol=1e-4, rtol=0)
