import math

import numpy as np
import pytest
import torch
from torch import nn

from analysis.networks.weight_change import (
    ALL_PARAMETERS,
    CHANGE_COLUMNS,
    KERNELS,
    filter_change,
    filter_rows,
    stage_change,
)
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network("cbr_tiny", n_outputs=2, channels=1)


def state_of(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.module.state_dict().items()}


def moved(network: Network, *, by: float = 0.1) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return {
        name: tensor + by * torch.randn(tensor.shape, generator=drawn)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state_of(network).items()
    }


def random_filters(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 3, 5, 5))


def of_stage(network: Network, after, stage: str = "conv2", parameters: str = KERNELS, before=None):
    rows = stage_change(network, state_of(network) if before is None else before, after)
    return rows.set_index(["stage", "parameters"]).loc[(stage, parameters)]


def test_an_unchanged_filter_has_cosine_one_and_no_distance():
    change = filter_change(random_filters(0), random_filters(0))
    np.testing.assert_allclose(change.cosine, 1)
    assert (change.relative_l2 == 0).all()
    assert change.n_zero == 0


def test_scaling_a_filter_keeps_its_cosine_and_moves_it_by_the_factor():
    change = filter_change(random_filters(0), -3 * random_filters(0))
    np.testing.assert_allclose(change.cosine, -1)
    np.testing.assert_allclose(change.relative_l2, 4)


def test_the_change_of_filters_is_that_of_the_formulas_filter_by_filter():
    before, after = random_filters(0), random_filters(1)
    change = filter_change(before, after)
    for i, (x, y) in enumerate(zip(before, after, strict=True)):
        expected = (x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum())
        assert change.cosine[i] == pytest.approx(expected)
        assert change.relative_l2[i] == pytest.approx(math.sqrt(((y - x) ** 2).sum() / (x**2).sum()))


def test_filters_of_zeros_are_nan_and_counted():
    before, after = random_filters(0), random_filters(1)
    before[0], after[1] = 0, 0
    change = filter_change(before, after)
    assert np.isnan(change.cosine).tolist() == [True, True, False, False, False, False]
    assert np.isnan(change.relative_l2).tolist() == [True] + [False] * 5
    assert change.relative_l2[1] == 1
    assert change.n_zero == 2


def test_tiny_filters_do_not_underflow():
    change = filter_change(1e-40 * random_filters(0), 1e-40 * random_filters(0))
    np.testing.assert_allclose(change.cosine, 1)


def test_filters_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="same shape before and after"):
        filter_change(random_filters(0), random_filters(0)[:2])


def test_filters_become_rows_in_their_order():
    rows = filter_rows(filter_change(random_filters(0), random_filters(1)))
    assert list(rows) == ["filter", "cosine", "relative_l2"]
    assert rows["filter"].tolist() == list(range(6))


def test_every_stage_has_a_row_of_kernels_and_of_all_parameters(network):
    rows = stage_change(network, state_of(network), moved(network))
    assert tuple(rows) == CHANGE_COLUMNS
    expected = [(stage.name, kind) for stage in network.stages for kind in (KERNELS, ALL_PARAMETERS)]
    assert list(zip(rows["stage"], rows["parameters"], strict=True)) == expected
    n_all = rows[rows["parameters"] == ALL_PARAMETERS]["n_values"].sum()
    assert n_all == sum(p.numel() for p in network.module.parameters())


def test_a_stage_is_one_vector(network):
    before, after = state_of(network), moved(network)
    x, y = (
        torch.cat(
            [state[name].flatten() for name in ("conv2.conv.weight", "conv2.bn.weight", "conv2.bn.bias")]
        )
        for state in (before, after)
    )
    row = of_stage(network, after, parameters=ALL_PARAMETERS)
    assert row["cosine"] == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), rel=1e-5)
    assert row["relative_l2"] == pytest.approx(((y - x).norm() / x.norm()).item(), rel=1e-5)
    assert row["distance"] == pytest.approx((y - x).norm().item(), rel=1e-5)


def test_kernels_are_the_convolution_alone(network):
    after = state_of(network)
    after["conv2.bn.weight"] += 5
    assert of_stage(network, after)["relative_l2"] == 0
    assert of_stage(network, after, parameters=ALL_PARAMETERS)["relative_l2"] > 0.1


def test_running_statistics_are_no_weights(network):
    after = state_of(network)
    after["conv2.bn.running_var"] *= 100
    after["conv2.bn.num_batches_tracked"] += 7
    assert of_stage(network, after, parameters=ALL_PARAMETERS)["relative_l2"] == 0


def test_a_stage_of_zeros_is_nan_and_its_tensors_are_counted(network):
    before = state_of(network)
    before["conv2.conv.weight"].zero_()
    row = of_stage(network, moved(network), before=before)
    assert math.isnan(row["cosine"])
    assert math.isnan(row["relative_l2"])
    assert row["n_zero_tensors"] == 1
    assert row["distance"] > 0
    # The bias of batch norm is 0 at the start.
    assert of_stage(network, moved(network), parameters=ALL_PARAMETERS)["n_zero_tensors"] == 1


def test_a_stage_without_kernels_is_nan_with_no_values():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    network = Network(module, (Stage("norm", ("0",), "0"), Stage("head", ("1",), "1")))
    row = of_stage(network, state_of(network), "norm")
    assert row["n_values"] == 0
    assert math.isnan(row["relative_l2"])


def test_attention_has_kernels_and_tokens_are_none():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 1, 4))
            self.attention = nn.MultiheadAttention(4, 1)
            self.fc = nn.Linear(4, 2)

    stages = (Stage("block1", ("token", "attention"), "attention"), Stage("head", ("fc",), "fc"))
    network = Network(Tokens(), stages)
    assert of_stage(network, state_of(network), "block1")["n_values"] == 4 * 12 + 4 * 4
    everything = of_stage(network, state_of(network), "block1", ALL_PARAMETERS)["n_values"]
    assert everything == 4 * 12 + 4 * 4 + 12 + 4 + 4


def test_state_dicts_of_another_network_are_refused(network):
    other = state_of(build_network("cbr_small", n_outputs=2, channels=1))
    with pytest.raises(
        ValueError, match=r"expected conv1.conv.weight of shape \(32, 1, 5, 5\), got \(32, 1, 7"
    ):
        stage_change(network, state_of(network), other)
