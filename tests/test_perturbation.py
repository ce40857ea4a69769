import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis.networks.class_scores import quiet
from analysis.networks.perturbation import PerturbationSettings, perturb
from analysis.networks.randomisation import random_network

QUICK = PerturbationSettings(n_iterations=3)


def pattern(side: int) -> Tensor:
    """Diagonal stripes of -1 and 1, much narrower than the blur: blurred they are gone."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (((rows + columns) // max(side // 56, 1)) % 2 * 2 - 1).float()


class Square(nn.Module):
    """Two classes; class 1 depends on one square alone, on how much of its stripes is left."""

    def __init__(self, side: int, square: tuple[slice, slice]) -> None:
        super().__init__()
        weights = torch.zeros(side, side)
        weights[square] = pattern(side)[square]
        self.weights = nn.Parameter(weights / weights.abs().sum())

    def forward(self, images: Tensor) -> Tensor:
        seen = (images[:, 0] * self.weights).sum(dim=(1, 2)).abs()
        return torch.stack([torch.zeros_like(seen), 16 * seen - 4], dim=1)


@pytest.mark.parametrize("side", [28, 64, 224])
def test_the_mask_deletes_the_square_that_the_score_depends_on(side):
    square = (slice(side // 2, side * 3 // 4), slice(side // 8, side * 3 // 8))
    module = Square(side, square)
    result = perturb(module, pattern(side)[None, None], torch.tensor([1]))
    mask = result.masks[0]
    near = np.zeros((side, side), dtype=bool)
    near[side // 4 :, : side * 5 // 8] = True
    assert mask.shape == (side, side)
    assert mask[square].mean() < 0.1
    # The second sum wants slopes, so that the surroundings go in part; farther away all is kept.
    assert mask[~near].mean() > 0.98
    assert result.original[0] > 0.99
    assert result.null[0] < 0.1
    assert result.masked[0] < result.null[0] + 0.1


def test_masks_of_a_batch_are_those_of_its_images_alone():
    module = Square(28, (slice(4, 12), slice(4, 12)))
    images = torch.stack([pattern(28)[None], 0.5 * pattern(28)[None]])
    targets = torch.tensor([1, 1])
    together = perturb(module, images, targets, settings=PerturbationSettings(n_iterations=30))
    alone = perturb(module, images[1:], targets[1:], settings=PerturbationSettings(n_iterations=30))
    np.testing.assert_allclose(together.masks[1:], alone.masks, atol=1e-4)
    np.testing.assert_allclose(together.masked[1:], alone.masked, atol=1e-4)


def test_a_class_that_the_image_does_not_show_leaves_it_whole():
    module = Square(28, (slice(4, 12), slice(4, 12)))
    result = perturb(module, pattern(28)[None, None], torch.tensor([0]))
    assert result.null[0] > result.original[0]
    assert result.masks.min() > 0.95
    assert result.masked[0] == pytest.approx(result.original[0], abs=0.02)


@pytest.mark.parametrize("side", [28, 32, 75, 224])
def test_a_mask_that_deletes_nothing_is_1_and_no_more(side, monkeypatch):
    kept = torch.ones(1, 1, 28, 28)
    monkeypatch.setattr("analysis.networks.perturbation._optimise", lambda *_, **__: kept)
    module = Square(side, (slice(4, 12), slice(4, 12)))
    masks = perturb(module, pattern(side)[None, None], torch.tensor([0]), settings=QUICK).masks
    assert 1 - 1e-6 <= masks.min() <= masks.max() <= 1


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (28, 3), (33, 1), (75, 1)])
def test_small_networks_give_masks_from_0_to_1_and_are_left_as_they_were(side, channels):
    network = random_network("cbr_tiny", n_outputs=3, channels=channels)
    network.module.train()
    images = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    result = perturb(network.module, images, torch.tensor([0, 2]), settings=QUICK)
    assert result.masks.shape == (2, side, side)
    assert result.masks.dtype == np.float32
    assert (result.masks >= 0).all()
    assert (result.masks <= 1).all(), "as a map, 1 - mask, a pixel would be below 0"
    assert network.module.training
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in network.module.parameters()
    )
    assert torch.equal(images, before)


def test_scores_are_the_probabilities_of_the_target():
    network = random_network("cbr_tiny", n_outputs=3, channels=1)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 2])
    with quiet(network.module), torch.no_grad():
        logits = network.module(images)
    result = perturb(network.module, images, targets, settings=QUICK)
    np.testing.assert_allclose(result.original, torch.softmax(logits, dim=1)[[0, 1], targets], rtol=1e-5)
    labels = perturb(network.module, images, targets, score="sigmoid", settings=QUICK)
    np.testing.assert_allclose(labels.original, torch.sigmoid(logits)[[0, 1], targets], rtol=1e-5)


def test_a_seed_gives_the_same_masks_again_and_another_seed_others():
    network = random_network("cbr_tiny", n_outputs=2, channels=1)
    images = 3 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    settings = PerturbationSettings(n_iterations=20)
    first, again, other = (
        perturb(network.module, images, torch.tensor([0]), seed=seed, settings=settings).masks
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("axis", [0, 1])
def test_without_a_score_to_lower_only_the_sums_act_and_restore_the_image(axis):
    """A constant score starts from the largest circle; the sums then bring the mask back to 1."""

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum(dim=(1, 2, 3))[:, None] * torch.zeros(1, 2)

    image = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(axis))
    start = perturb(Constant(), image, torch.tensor([axis]), settings=PerturbationSettings(n_iterations=0))
    assert start.masks.max() < 0.05
    end = perturb(Constant(), image, torch.tensor([axis]))
    assert end.masks.min() > 0.99


def test_wrong_input_is_named():
    module = nn.Flatten()
    with pytest.raises(ValueError, match=r"needs square images \(n, channels, h, h\), got \(1, 1, 4, 6\)"):
        perturb(module, torch.zeros(1, 1, 4, 6), torch.tensor([0]))
    with pytest.raises(
        ValueError, match="score of a perturbation must be one of 'sigmoid', 'softmax', got 'logit'"
    ):
        perturb(module, torch.zeros(1, 1, 4, 4), torch.tensor([0]), score="logit")
    with pytest.raises(ValueError, match="targets must be one class index"):
        perturb(module, torch.zeros(1, 1, 4, 4), torch.tensor([0, 1]))
