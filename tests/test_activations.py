from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from analysis.networks import activations
from analysis.networks.activations import StagePair, gather
from analysis.networks.probe import ProbeSet, load_probe
from analysis.numerics.moments import IncomparableError
from analysis.numerics.similarity import mean_cca, svcca
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network
from trainables.datasets.spec import DatasetSpec

DIGITS = DatasetSpec(reader="digits", size_px=16, classes=("5", "6", "7", "8", "9"))


@pytest.fixture(scope="module")
def digits() -> ProbeSet:
    return load_probe(DIGITS, data_root=None, n_images=60)


def probe_of(images: np.ndarray, mean: tuple, sd: tuple, n_outputs: int) -> ProbeSet:
    n = len(images)
    return ProbeSet(images, np.zeros(n, dtype=int), np.arange(n).astype(str), mean, sd, n_outputs)


def gather_moments(networks, pairs, probe, **options):
    """The moments alone, of networks that see the same images."""
    gathered = gather(networks, pairs, dict.fromkeys(networks, probe), **options)
    return {pair: found.moments for pair, found in gathered.items()}


def cbr(seed: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network("cbr_tiny", n_outputs=5, channels=1)


def stage_pairs(network: Network) -> list[StagePair]:
    return [StagePair("x", stage.name, "y", stage.name) for stage in network.stages]


class Maps(nn.Module):
    """Passes its input on as a feature map of half the size, whose units know where they are."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.pool, self.head = nn.AvgPool2d(factor), nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(x))


def maps(factor: int) -> Network:
    stages = (Stage("map", ("pool", "weight"), "pool"), Stage("head", ("head",), "head"))
    network = object.__new__(Network)
    object.__setattr__(network, "module", Maps(factor))
    object.__setattr__(network, "stages", stages)
    return network


def position_images(size: int, n_images: int = 50) -> ProbeSet:
    """Images whose two channels hold the row and the column of every pixel."""
    rows, columns = np.mgrid[0:size, 0:size]
    images = np.broadcast_to(np.stack([rows, columns]), (n_images, 2, size, size)).astype(np.uint8)
    return probe_of(images, (0.0, 0.0), (1 / 255, 1 / 255), 2)


def test_a_network_beside_itself_is_identical_at_every_stage(digits):
    network = cbr(0)
    moments = gather_moments(
        {"x": network, "y": network}, stage_pairs(network), digits, positions_per_image=8
    )
    for gathered in moments.values():
        assert svcca(gathered, variance_fraction=0.9).value == pytest.approx(1, abs=1e-6)


def test_different_seeds_differ_and_stay_above_the_noise(digits):
    networks = {"x": cbr(0), "y": cbr(1)}
    moments = gather_moments(networks, [StagePair("x", "conv1", "y", "conv1")], digits, positions_per_image=8)
    result = mean_cca(next(iter(moments.values())))
    assert result.noise_floor < result.value < 0.99


def test_samples_are_positions_of_feature_maps_and_images_of_the_head(digits):
    moments = gather_moments({"x": cbr(0), "y": cbr(1)}, stage_pairs(cbr(0)), digits, positions_per_image=3)
    counts = {pair.stage_x: gathered.n for pair, gathered in moments.items()}
    assert counts["conv1"] == 60 * 3
    assert counts["head"] == 60


def test_a_map_with_fewer_positions_gives_all_it_has():
    probe = position_images(4)
    pair = StagePair("x", "map", "y", "map")
    moments = gather_moments({"x": maps(2), "y": maps(2)}, [pair], probe, positions_per_image=100)[pair]
    assert moments.n == 50 * 4
    # All four cells of each image, none twice: the exact variance of the cell centres 0.5 and 2.5.
    assert float(moments.cxx[0, 0]) == pytest.approx(1.0 * 200 / 199)


def test_linear_outputs_are_taken_as_they_are(digits):
    network = cbr(0)
    pair = StagePair("x", "head", "y", "head")
    moments = gather_moments({"x": network, "y": network}, [pair], digits, positions_per_image=8)[pair]
    with torch.inference_mode():
        logits = network.module(next(iter(digits.batches(60, torch.device("cpu"))))).double()
    torch.testing.assert_close(moments.mean_x, logits.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(moments.cxx, logits.T.cov(), atol=1e-5, rtol=1e-5)


def test_both_networks_are_read_at_the_same_positions():
    pair = StagePair("x", "map", "y", "map")
    moments = gather_moments({"x": maps(1), "y": maps(1)}, [pair], position_images(8), positions_per_image=2)[
        pair
    ]
    torch.testing.assert_close(moments.cxx, moments.cxy)


@pytest.mark.parametrize("factors", [(1, 4), (4, 1)])
def test_maps_of_unequal_size_are_read_at_the_same_place_of_the_image(factors):
    pair = StagePair("x", "map", "y", "map")
    networks = {"x": maps(factors[0]), "y": maps(factors[1])}
    moments = gather_moments(networks, [pair], position_images(16), positions_per_image=4)[pair]
    # Centres of 4 px cells against the pixel that holds them: half a pixel apart, perfectly correlated.
    shift = 0.5 if factors == (1, 4) else -0.5
    difference = moments.mean_x - moments.mean_y
    torch.testing.assert_close(difference, torch.full_like(difference, shift), atol=1e-5, rtol=0)
    torch.testing.assert_close(moments.cxx, moments.cxy, atol=1e-5, rtol=0)


def test_positions_do_not_depend_on_the_batch_size(digits, monkeypatch):
    def covariance() -> torch.Tensor:
        pair = StagePair("x", "conv2", "y", "conv2")
        return gather_moments({"x": cbr(0), "y": cbr(1)}, [pair], digits, positions_per_image=5)[pair].cxy

    whole = covariance()
    monkeypatch.setattr(activations, "BATCH_IMAGES", 7)
    torch.testing.assert_close(covariance(), whole, atol=1e-9, rtol=1e-5)


def test_the_seed_chooses_the_positions():
    pair = StagePair("x", "map", "y", "map")

    def mean(seed: int) -> torch.Tensor:
        networks = {"x": maps(1), "y": maps(1)}
        gathered = gather_moments(networks, [pair], position_images(8), positions_per_image=2, seed=seed)
        return gathered[pair].mean_x

    assert torch.equal(mean(0), mean(0))
    assert not torch.equal(mean(0), mean(1))


def test_networks_are_in_eval_mode_and_left_as_they_were(digits):
    network = cbr(0)
    network.module.train()
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    gather_moments({"x": network, "y": network}, stage_pairs(network), digits, positions_per_image=2)
    for key, value in network.module.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(module._forward_hooks for module in network.module.modules())
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_torch_threads_and_random_numbers_are_left_alone(digits):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    gather_moments(
        {"x": cbr(0), "y": cbr(1)}, [StagePair("x", "conv1", "y", "conv1")], digits, positions_per_image=2
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_an_in_place_change_further_on_does_not_reach_what_was_seen():
    class Overwritten(Maps):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = self.pool(x)
            return self.head(seen.mul_(0))

    network = maps(1)
    object.__setattr__(network, "module", Overwritten(1))
    pair = StagePair("x", "map", "y", "map")
    moments = gather_moments(
        {"x": network, "y": maps(1)}, [pair], position_images(4), positions_per_image=16
    )[pair]
    assert float(moments.mean_x[0]) == pytest.approx(1.5)


def test_a_map_that_meets_a_linear_output_is_averaged():
    moments = gather_moments(
        {"x": maps(1), "y": maps(1)},
        [StagePair("x", "map", "y", "head")],
        position_images(4),
        positions_per_image=2,
    )[StagePair("x", "map", "y", "head")]
    assert moments.n == 50
    torch.testing.assert_close(moments.mean_x, torch.full((2,), 1.5, dtype=torch.float64))


def test_averaged_maps_give_one_sample_an_image(digits):
    pair = StagePair("x", "conv2", "y", "conv2")
    networks = {"x": cbr(0), "y": cbr(1)}
    found = gather(
        networks, [pair], dict.fromkeys(networks, digits), positions_per_image=3, samples="average"
    )[pair]
    assert found.moments.n == len(digits.images)
    torch.testing.assert_close(found.x.double().mean(0), found.moments.mean_x, atol=1e-6, rtol=1e-5)


def test_interpolated_maps_lose_what_the_smaller_one_cannot_hold():
    pair = StagePair("x", "map", "y", "map")
    networks = {"x": maps(1), "y": maps(4)}
    probes = dict.fromkeys(networks, position_images(16))
    found = gather(networks, [pair], probes, positions_per_image=4, samples="interpolated")[pair]
    # Reduced, a linear slope inside the map is that of the averages; edges of the filter differ a little.
    assert (found.x - found.y).abs().max() < 1.0
    read = gather(networks, [pair], probes, positions_per_image=4)[pair]
    assert (found.x - found.y).abs().mean() < (read.x - read.y).abs().mean()


def test_on_one_grid_a_stage_has_the_same_samples_in_every_pair(digits):
    pairs = [StagePair("x", "conv1", "y", stage) for stage in ("conv1", "conv3", "conv4")]
    networks = {"x": cbr(0), "y": cbr(1)}
    found = gather(networks, pairs, dict.fromkeys(networks, digits), positions_per_image=2, on_one_grid=True)
    for pair in pairs[1:]:
        torch.testing.assert_close(found[pair].x, found[pairs[0]].x)


def test_networks_that_see_different_images_are_not_compared(digits):
    others = load_probe(DIGITS, data_root=None, n_images=60, seed=1)
    with pytest.raises(IncomparableError, match="60 and 60 different ones; compare networks of one dataset"):
        gather(
            {"x": cbr(0), "y": cbr(1)},
            [StagePair("x", "conv1", "y", "conv1")],
            {"x": digits, "y": others},
            positions_per_image=2,
        )


@pytest.mark.parametrize("build", [lambda: build_network("resnet18", n_outputs=5, channels=1)])
def test_every_stage_of_a_resnet_can_be_probed(build: Callable[[], Network]):
    network = build()
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), dtype=np.uint8)
    probe = probe_of(images, (0.5,), (0.5,), 5)
    moments = gather_moments({"x": network, "y": network}, stage_pairs(network), probe, positions_per_image=2)
    widths = [gathered.mean_x.numel() for gathered in moments.values()]
    assert widths == [64, 64, 128, 256, 512, 5]


def test_the_probe_set_is_a_fixed_choice_of_test_images():
    few, again = (load_probe(DIGITS, data_root=None, n_images=20, seed=3) for _ in range(2))
    assert np.array_equal(few.images, again.images)
    assert few.images.shape == (20, 1, 16, 16)
    other = load_probe(DIGITS, data_root=None, n_images=20, seed=4)
    assert not np.array_equal(few.images, other.images)
    assert few.n_outputs == 5


def test_a_small_test_split_gives_all_its_images():
    probe = load_probe(DIGITS, data_root=None, n_images=10_000)
    assert 50 < len(probe.images) < 10_000


@pytest.mark.parametrize("model", ["timm/swin_tiny_patch4_window7_224", "timm/vit_tiny_patch16_224"])
def test_units_of_networks_of_tokens_are_their_channels(model):
    """The reference reads the tokens where timm has them: in the last dimension."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(model, n_outputs=2, channels=3)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 224, 224), dtype=np.uint8)
    probe = probe_of(images, (0.5,) * 3, (0.5,) * 3, 2)
    stage = network.stages[1]
    seen: list[torch.Tensor] = []
    handle = network.module.get_submodule(stage.probe).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.double())
    )
    every = 100_000  # more than there are positions: all of them
    pair = StagePair("x", stage.name, "y", stage.name)
    moments = gather_moments({"x": network, "y": network}, [pair], probe, positions_per_image=every)[pair]
    handle.remove()
    tokens = seen[0].reshape(-1, seen[0].shape[-1])
    assert moments.n == len(tokens)
    torch.testing.assert_close(moments.mean_x, tokens.mean(0))
    torch.testing.assert_close(moments.cxx, tokens.T.cov())
