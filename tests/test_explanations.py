from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from analysis.networks.class_scores import quiet
from analysis.networks.explanations import (
    METHODS,
    black_baseline,
    explain,
    for_display,
    gradient,
    integrated_attributions,
    integrated_gradients,
    smooth_grad,
)
from analysis.networks.randomisation import random_network
from analysis.networks.stage_maps import grad_cam, grad_cam_stage, stage_activations
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network


@pytest.fixture(scope="module")
def cbr() -> Network:
    return random_network("cbr_tiny", n_outputs=3, channels=3, seed=1)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return random_network("resnet18", n_outputs=3, channels=3, seed=1)


def pictures(n: int = 2, *, side: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def classes(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


class Linear(nn.Module):
    """Scores that are a known weighing of the pixels; an in-place module comes first."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.first = nn.Hardtanh(-100, 100, inplace=True)
        self.weights = nn.Parameter(weights)
        self.head = nn.Linear(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", self.first(images), self.weights)


def linear(*, side: int = 8) -> Linear:
    return Linear(torch.randn(3, 2, side, side, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_one_repeatable_map_per_image_that_is_not_negative(cbr, method):
    images = pictures()
    before = images.clone()
    maps = explain(cbr, images, classes(0, 2), method=method)
    assert maps.shape == (2, 32, 32)
    assert maps.dtype == np.float32
    assert (maps >= 0).all()
    assert maps.max() > 0
    np.testing.assert_array_equal(maps, explain(cbr, images, classes(0, 2), method=method))
    assert torch.equal(images, before)
    assert not images.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_a_network_is_left_as_it_was(cbr, method):
    module = cbr.module
    module.train()
    module.conv2.eval()
    module.conv1.conv.weight.requires_grad_(False)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    explain(cbr, pictures(), classes(0, 2), method=method)
    assert module.training
    assert not module.conv2.training
    assert not module.conv1.conv.weight.requires_grad
    assert module.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    module.eval().requires_grad_(True)


def test_a_network_is_left_as_it_was_after_an_error(cbr):
    cbr.module.train()
    with pytest.raises(RuntimeError):
        grad_cam(cbr, pictures(channels=1), classes(0, 1), stage="conv1")
    assert cbr.module.training
    assert not any(part._forward_hooks for part in cbr.module.modules())
    cbr.module.eval()


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "grad_cam"])
def test_the_map_of_an_image_does_not_depend_on_the_others(resnet, method):
    images, targets = pictures(3), classes(0, 1, 2)
    together = explain(resnet, images, targets, method=method)
    alone = explain(resnet, images[1:2], targets[1:2], method=method)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4 * alone.max())


def test_the_gradient_of_linear_scores_is_the_largest_weight_over_the_channels():
    module = linear()
    expected = module.weights.detach()[[2, 0]].abs().amax(dim=1).numpy()
    np.testing.assert_allclose(gradient(module, pictures(side=8, channels=2), classes(2, 0)), expected)


def test_smooth_grad_of_linear_scores_is_their_gradient_whatever_the_noise():
    module, images = linear(), pictures(side=8, channels=2)
    expected = gradient(module, images, classes(2, 0))
    np.testing.assert_allclose(smooth_grad(module, images, classes(2, 0), noise=2.0), expected, rtol=1e-5)


def test_the_gradient_of_a_probability_is_that_of_the_logits_by_the_chain_rule():
    module, images = linear(), pictures(1, side=8, channels=2)
    weights = module.weights.detach()
    p = torch.softmax(module(images.clone()).detach(), dim=1)[0]
    softmax = p[1] * (weights[1] - (p[:, None, None, None] * weights).sum(dim=0))
    got = gradient(module, images, classes(1), score="softmax")
    np.testing.assert_allclose(got[0], softmax.abs().amax(dim=0), rtol=1e-4, atol=1e-7)
    q = torch.sigmoid(module(images.clone()).detach())[0, 1]
    got = gradient(module, images, classes(1), score="sigmoid")
    np.testing.assert_allclose(got[0], (q * (1 - q) * weights[1]).abs().amax(dim=0), rtol=1e-4, atol=1e-7)


def test_smooth_grad_approaches_the_gradient_without_noise_and_depends_on_its_seed(cbr):
    images, targets = pictures(), classes(0, 2)
    plain = gradient(cbr.module, images, targets)
    still = smooth_grad(cbr.module, images, targets, noise=0.0, n_draws=2)
    np.testing.assert_allclose(still, plain, rtol=1e-3, atol=1e-4 * plain.max())
    first = smooth_grad(cbr.module, images, targets, seed=0)
    assert not np.allclose(first, smooth_grad(cbr.module, images, targets, seed=1))
    assert not np.allclose(first, plain)


def test_smooth_grad_leaves_the_global_random_numbers_alone(cbr):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    smooth_grad(cbr.module, pictures(), classes(0, 2), n_draws=2)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("baseline", [None, black_baseline((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))])
def test_integrated_attributions_add_up_to_the_difference_of_the_logits(resnet, baseline):
    images, targets = pictures(), classes(0, 2)
    attributions = integrated_attributions(resnet.module, images, targets, baseline=baseline, n_steps=200)
    blank = torch.tensor(baseline or (0.0, 0.0, 0.0)).view(1, 3, 1, 1).expand_as(images)
    with quiet(resnet.module), torch.no_grad():
        difference = resnet.module(images) - resnet.module(blank)
    expected = difference.gather(1, targets[:, None])[:, 0]
    np.testing.assert_allclose(attributions.sum(axis=(1, 2, 3)), expected, rtol=0.02, atol=0.01)


def test_an_image_at_the_baseline_has_nothing_to_attribute(cbr):
    images = torch.tensor(black_baseline((0.5,) * 3, (0.25,) * 3)).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    maps = integrated_gradients(cbr.module, images, classes(0), baseline=(-2.0, -2.0, -2.0))
    assert (maps == 0).all()


def test_more_images_than_a_batch_holds_are_explained_without_a_warning():
    images = pictures(70, side=8, channels=2)
    assert integrated_gradients(linear(), images, torch.zeros(70, dtype=torch.long)).shape == (70, 8, 8)


@pytest.mark.parametrize("stage", ["conv1", "block1", "block3"])
def test_grad_cam_agrees_with_captum_where_captum_can(resnet, stage):
    images, targets = pictures(side=64), classes(0, 2)
    layer = resnet.module.get_submodule(resnet.stage(stage).probe)
    resnet.module.eval()
    theirs = LayerGradCam(resnet.module, layer).attribute(
        images.clone().requires_grad_(), target=targets, relu_attributions=True
    )
    spread = LayerGradCam.interpolate(theirs, (64, 64), interpolate_mode="bilinear").detach()[:, 0]
    ours = grad_cam(resnet, images, targets, stage=stage)
    np.testing.assert_allclose(ours, spread, rtol=1e-3, atol=1e-5 * float(spread.max()))


# An in-place ReLU follows the norm that ends DenseNet's last block, and works inside all the others.
@pytest.mark.parametrize(
    ("name", "side"), [("densenet121", 32), ("alexnet", 64), ("mobilenet_v2", 32), ("googlenet", 32)]
)
def test_grad_cam_reads_stages_before_they_are_overwritten(name, side):
    network = random_network(name, n_outputs=2, channels=1)
    images, stage = pictures(1, side=side, channels=1), network.backbone[-1]
    activations = stage_activations(network, images, stage=stage)
    seen: list[Tensor] = []
    probe = network.module.get_submodule(network.stage(stage).probe)
    handle = probe.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    with quiet(network.module), torch.no_grad():
        network.module(images)
    handle.remove()
    np.testing.assert_array_equal(activations, seen[0].numpy())
    assert grad_cam(network, images, classes(1), stage=stage).shape == (1, side, side)


class Tokens(nn.Module):
    """A class token and 3 × 3 image tokens of two channels; the score is a weighing of the image's."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Conv2d(2, 2, 1), nn.Linear(2, 2, bias=False)
        self.tokens = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.block(images).flatten(2).transpose(1, 2)
        tokens = self.tokens(torch.cat([tokens.new_full((len(tokens), 1, 2), 7.0), tokens], dim=1))
        return self.head(tokens[:, 1:].mean(dim=1))


def test_grad_cam_of_tokens_is_that_of_the_same_map_with_channels_second():
    torch.manual_seed(0)
    module = Tokens()
    stages = (
        Stage("block1", ("block",), "tokens", is_channels_last=True),
        Stage("head", ("head",), "head"),
    )
    plain = (Stage("block1", ("block",), "block"), stages[1])
    images = pictures(side=3, channels=2)
    maps = grad_cam(Network(module, stages), images, classes(0, 1), stage="block1")
    # With the mean gradient over 9 tokens as here, the map with channels second is the same.
    expected = grad_cam(Network(module, plain), images, classes(0, 1), stage="block1")
    np.testing.assert_allclose(maps, expected, rtol=1e-5)
    assert maps.max() > 0


def test_token_networks_of_timm_have_maps_whether_their_tokens_are_rows_or_grids():
    vit = random_network("timm/vit_tiny_patch16_224", n_outputs=2, channels=3)
    images = pictures(1, side=224)
    assert stage_activations(vit, images, stage=vit.backbone[2]).shape == (1, 192, 14, 14)
    assert grad_cam(vit, images, classes(0), stage=vit.backbone[-2]).max() > 0
    # The head looks at the class token alone, so no other token of the last stage has a gradient.
    assert for_display(grad_cam(vit, images, classes(0), stage=vit.backbone[-1])).n_blank == 1


def test_grad_cam_needs_a_stage_that_gives_a_map(cbr):
    with pytest.raises(
        ValueError, match=r"stage head gives no map over the image, but \(1, 3\); name another"
    ):
        grad_cam(cbr, pictures(1), classes(0), stage="head")
    with pytest.raises(KeyError, match="conv9"):
        grad_cam(cbr, pictures(1), classes(0), stage="conv9")


def test_the_stage_for_grad_cam_is_the_last_whose_map_is_not_too_coarse(resnet):
    assert grad_cam_stage(resnet, pictures(1, side=128)) == "block4"
    assert grad_cam_stage(resnet, pictures(1, side=64)) == "block3"
    assert grad_cam_stage(resnet, pictures(1, side=28)) == "block2"


def test_first_layer_activations_are_the_output_of_the_first_probe(resnet):
    images = pictures(1)
    module = resnet.module
    with quiet(module), torch.no_grad():
        expected = torch.relu(module.bn1(module.conv1(images)))
    np.testing.assert_allclose(stage_activations(resnet, images), expected, rtol=1e-6)


WRONG: dict[str, Callable[[Network], object]] = {
    "method must be one of .*'grad_cam'.*, got 'gradcam'": lambda cbr: explain(
        cbr, pictures(), classes(0, 1), method="gradcam"
    ),
    "score must be one of .*, got 'prob'": lambda cbr: gradient(
        cbr.module, pictures(), classes(0, 1), score="prob"
    ),
    r"one class index \(int64\) per image, \(2,\), got torch.int64 \(1,\)": lambda cbr: gradient(
        cbr.module, pictures(), classes(0)
    ),
    "got torch.float32": lambda cbr: grad_cam(cbr, pictures(), torch.zeros(2), stage="conv1"),
    "one value per channel, got 1 for 3 channels": lambda cbr: integrated_gradients(
        cbr.module, pictures(), classes(0, 1), baseline=(0.0,)
    ),
}


@pytest.mark.parametrize(("message", "call"), WRONG.items())
def test_wrong_input_is_named(cbr, message: str, call: Callable[[Network], object]):
    with pytest.raises(ValueError, match=message):
        call(cbr)


def test_maps_are_displayed_from_0_to_1_with_one_bright_pixel_cut():
    maps = np.tile(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20), (2, 1, 1))
    maps[1, 0, 0] = 1e6
    shown = for_display(maps)
    assert shown.n_blank == 0
    assert shown.maps.max() == 1
    np.testing.assert_allclose(shown.maps[0, 1:], shown.maps[1, 1:], rtol=0.02)
    np.testing.assert_allclose(shown.maps[0], for_display(maps[:1] * 1e-9).maps[0], rtol=1e-5)


def test_blank_maps_stay_blank_and_are_counted_and_sparse_ones_are_seen():
    maps = np.zeros((3, 20, 20), dtype=np.float32)
    maps[1, 3, 3] = 0.5
    shown = for_display(maps)
    assert shown.n_blank == 2
    assert shown.maps[1].max() == 1
    assert (shown.maps[[0, 2]] == 0).all()
    assert for_display(np.zeros((0, 4, 4))).maps.shape == (0, 4, 4)


def test_maps_that_are_negative_or_not_finite_are_not_displayed():
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="maps for display must be finite and at least 0"):
            for_display(np.full((1, 2, 2), value))
