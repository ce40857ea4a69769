import numpy as np
import pytest
import torch
from torch import nn

from analysis.networks.filters import filter_pictures, filter_weights, first_convolution, tiled
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network


def filters(n: int = 4, *, channels: int = 3, side: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, channels, side, side))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("cbr_tiny", "conv1.conv.weight"),
        ("resnet18", "conv1.weight"),
        ("densenet121", "features.conv0.weight"),
        ("timm/vit_tiny_patch16_224", "patch_embed.proj.weight"),
    ],
)
def test_the_first_convolution_is_found_by_the_first_stage(architecture, name):
    with torch.device("meta"):
        network = build_network(architecture, n_outputs=2, channels=3)
    assert first_convolution(network) == name


def test_a_network_that_begins_without_a_convolution_is_refused():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    network = Network(module, (Stage("block1", ("0",), "0"), Stage("head", ("1",), "1")))
    with pytest.raises(ValueError, match="first stage of Sequential, found Linear"):
        first_convolution(network)


def test_filters_are_those_of_the_state_dict_and_not_of_the_network():
    network = build_network("cbr_tiny", n_outputs=2, channels=1)
    state = {name: tensor + 1 for name, tensor in network.module.state_dict().items()}
    found = filter_weights(network, state)
    assert found.shape == (32, 1, 5, 5)
    np.testing.assert_array_equal(found, state["conv1.conv.weight"].double().numpy())


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "conv1.conv.weight is missing; the state dict is of another network"),
        (
            {"conv1.conv.weight": torch.zeros(32, 3, 5, 5)},
            r"of shape \(32, 1, 5, 5\), got \(32, 3",
        ),
    ],
)
def test_weights_of_another_network_are_refused(state, text):
    with pytest.raises(ValueError, match=text):
        filter_weights(build_network("cbr_tiny", n_outputs=2, channels=1), state)


def test_weight_zero_is_mid_grey_and_the_limit_is_black_or_white():
    before = np.zeros((1, 3, 2, 2))
    before[0, 0, 0, 0], before[0, 1, 0, 1] = 2.0, -2.0
    pictures = filter_pictures(before, before)
    assert pictures.before[0, 0, 0].tolist() == [1.0, 0.5, 0.5]
    assert pictures.before[0, 0, 1].tolist() == [0.5, 0.0, 0.5]
    assert (pictures.before[0, 1] == 0.5).all()


def test_a_filter_that_grows_gets_more_contrast():
    pictures = filter_pictures(filters(), 2 * filters())
    contrast_before, contrast_after = pictures.before - 0.5, pictures.after - 0.5
    np.testing.assert_allclose(contrast_after, 2 * contrast_before)
    assert np.abs(contrast_after).max(axis=(1, 2, 3)) == pytest.approx([0.5] * 4)


def test_pictures_do_not_depend_on_the_unit_of_the_weights():
    before, after = filters(seed=1), filters(seed=2)
    one, other = filter_pictures(before, after), filter_pictures(1e-6 * before, 1e-6 * after)
    np.testing.assert_allclose(one.after, other.after)


def test_one_scale_for_all_filters_keeps_their_ratio():
    before = filters() * np.array([1.0, 0.1, 1.0, 1.0])[:, None, None, None]
    each, joint = (filter_pictures(before, before, scale=scale) for scale in ("filter", "all"))
    assert len(set(joint.limits)) == 1
    assert np.abs(joint.before[1] - 0.5).max() < 0.2 < np.abs(each.before[1] - 0.5).max()


def test_channels_are_colours_and_one_channel_is_grey():
    colour = filter_pictures(filters(), filters()).before
    np.testing.assert_array_equal(np.sign(colour - 0.5), np.sign(filters().transpose(0, 2, 3, 1)))
    grey = filter_pictures(filters(channels=1), filters(channels=1)).before
    assert grey.shape == (4, 5, 5, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_a_filter_of_zeros_is_grey():
    assert (filter_pictures(np.zeros((2, 3, 3, 3)), np.zeros((2, 3, 3, 3))).after == 0.5).all()


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (filters(3), filters(4), "same shape before and after, got"),
        (filters(channels=12), filters(channels=12), "with 1 or 3 channels, got"),
        (filters(), filters() * np.nan, "the training diverged"),
    ],
)
def test_what_makes_no_pictures_is_refused(before, after, text):
    with pytest.raises(ValueError, match=text):
        filter_pictures(before, after)


def test_a_sheet_holds_every_picture_to_the_pixel():
    pictures = np.random.default_rng(0).random((5, 2, 3, 3)) * 0.9
    sheet = tiled(pictures, n_columns=3)
    assert sheet.shape == (2 * 2 + 1, 3 * 3 + 2, 3)
    np.testing.assert_array_equal(sheet[0:2, 4:7], pictures[1])
    np.testing.assert_array_equal(sheet[3:5, 4:7], pictures[4])
    assert (sheet[2] == 1).all()
    assert (sheet[3:, 8:] == 1).all()


def test_a_sheet_is_about_square_and_needs_a_picture():
    assert tiled(np.zeros((64, 7, 7, 3))).shape == (63, 63, 3)
    assert tiled(np.zeros((1, 7, 7, 3))).shape == (7, 7, 3)
    with pytest.raises(ValueError, match="at least one picture"):
        tiled(np.zeros((0, 7, 7, 3)))
