from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import load, save
from torch import Tensor, nn

from trainables.architectures.catalog import ARCHITECTURES, Stage, find_architecture
from trainables.architectures.cbr import SHAPES
from trainables.architectures.stages import Network, build_network
from trainables.errors import SpecError
from trainables.initialization import initialize
from trainables.spec import InitSpec, SourceSpec

SOURCE = SourceSpec(weights="torchvision/ResNet18_Weights.IMAGENET1K_V1")
CBRS = [name for name in ARCHITECTURES if name.startswith("cbr_")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def build(name: str, *, channels: int = 3, n_outputs: int = 5, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(name, n_outputs=n_outputs, channels=channels)


def images(size_px: int, *, channels: int = 3, n: int = 2) -> Tensor:
    return torch.randn(n, channels, size_px, size_px, generator=torch.Generator().manual_seed(0))


def copied_state(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.module.state_dict().items()}


def record_probes(network: Network, batch: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Run a batch; return (stage, output, copy taken as it fired) in the order of firing."""
    fired: list[tuple[str, Tensor, Tensor]] = []

    def note(stage: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        fired.append((stage, output, output.clone()))

    for stage in network.stages:
        network.module.get_submodule(stage.probe).register_forward_hook(partial(note, stage.name))
    network.module(batch)
    return fired


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestEveryArchitecture:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_maps_images_of_the_smallest_and_a_larger_size_to_finite_outputs(self, name, channels):
        network = build(name, channels=channels, n_outputs=4).module.eval()
        for size_px in (ARCHITECTURES[name].smallest_px, 64):
            outputs = network(images(size_px, channels=channels))
            assert outputs.shape == (2, 4)
            assert outputs.isfinite().all()

    def test_gives_every_parameter_a_gradient(self, name):
        network = build(name).module
        nn.functional.cross_entropy(network(images(64)), torch.tensor([0, 3])).backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key

    def test_draws_its_weights_from_the_global_generator(self, name):
        once, again, other = (copied_state(build(name, seed=seed)) for seed in (1, 1, 2))
        assert all(once[key].equal(again[key]) for key in once)
        assert not any(once[key].equal(other[key]) for key in once if once[key].dim() == 4)

    def test_stages_hold_every_parameter_and_buffer_exactly_once(self, name):
        network = build(name)
        keys = [key for stage in network.stages for key in network.stage_state(stage.name)]
        assert keys == list(network.module.state_dict())
        assert network.backbone == ARCHITECTURES[name].backbone

    def test_stage_state_refers_to_the_weights_themselves(self, name):
        network = build(name)
        for value in network.stage_state("conv1").values():
            value.zero_()
        assert not any(
            value.any() for module in network.stage_modules("conv1") for value in module.parameters()
        )

    def test_probes_fire_once_each_from_input_to_head_and_are_not_overwritten(self, name):
        network = build(name)
        fired = record_probes(network, images(32))
        assert [stage for stage, _, _ in fired] == [stage.name for stage in network.stages]
        assert all(output.equal(copy) for _, output, copy in fired)
        assert all(output.dim() == 4 for _, output, _ in fired[:-1])

    def test_transfusing_k_stages_changes_exactly_the_first_k(self, name):
        network, source = build(name, seed=1), copied_state(build(name, seed=2))
        source = {key: value + 1 for key, value in source.items()}
        before = copied_state(network)
        for depth in range(len(network.backbone) + 1):
            init = InitSpec(kind="transfusion", depth=depth, rest="random", source=SOURCE)
            initialize(network, init, source_state=source, generator=torch.Generator())
            for i, stage in enumerate(network.stages):
                expected = source if i < depth else before
                assert all(
                    value.equal(expected[key]) for key, value in network.stage_state(stage.name).items()
                )

    def test_mean_var_leaves_a_network_that_evaluates_to_finite_outputs(self, name):
        network = build(name, seed=1)
        init = InitSpec(kind="mean_var", source=SOURCE)
        initialize(network, init, source_state=copied_state(build(name, seed=2)), generator=torch.Generator())
        assert network.module.eval()(images(32)).isfinite().all()

    def test_weights_survive_a_safetensors_file(self, name):
        network, restored = build(name, seed=1).module, build(name, seed=2).module
        network(images(32))  # moves the running statistics
        restored.load_state_dict(load(save(network.state_dict())))
        assert restored.eval()(images(32)).equal(network.eval()(images(32)))


# Computed by hand from the layer widths; the first column is the parameter count of the paper's Table 1.
@pytest.mark.parametrize(
    ("name", "table_1", "with_5_outputs", "with_1000_outputs"),
    [
        ("cbr_large_t", 8_532_480, 8_539_173, 9_049_608),
        ("cbr_large_w", 8_432_128, 8_443_461, 8_953_896),
        ("cbr_small", 2_108_672, 2_114_341, 2_370_056),
        ("cbr_tiny", 1_076_480, 1_079_845, 1_335_560),
        ("cbr_tiny_wide", 4_303_360, 4_310_085, 4_820_520),
    ],
)
def test_cbr_has_the_parameter_count_of_the_paper(name, table_1, with_5_outputs, with_1000_outputs):
    with torch.device("meta"):
        small, large = (build(name, n_outputs=n).module for n in (5, 1000))
    convs = [module.weight.numel() for module in small.modules() if isinstance(module, nn.Conv2d)]
    assert sum(convs[1:]) + small.head.weight.numel() == table_1
    assert n_parameters(small) == with_5_outputs
    assert n_parameters(large) == with_1000_outputs


def test_every_cbr_of_the_catalog_has_a_shape_and_every_shape_is_in_the_catalog():
    assert set(SHAPES) == set(CBRS)
    assert all(len(SHAPES[name].widths) == len(ARCHITECTURES[name].backbone) for name in CBRS)


@pytest.mark.parametrize(("size_px", "last_px"), [(587, 37), (224, 14), (64, 4), (28, 2)])
def test_cbr_layers_halve_the_image_four_times_rounding_up(size_px, last_px):
    for name in CBRS:
        with torch.device("meta"):
            network = build(name)
            batch = torch.empty(2, 3, size_px, size_px)
            layers = network.module[: len(network.backbone)]
            assert layers(batch).shape == (2, SHAPES[name].widths[-1], last_px, last_px)


@pytest.mark.parametrize("name", CBRS)
def test_cbr_is_probed_before_its_pools(name):
    fired = record_probes(build(name), images(32))
    assert [output.shape[-1] for _, output, _ in fired[:-1]] == [32, 16, 8, 4, 2][: len(fired) - 1]
    assert all(output.min() == 0 for _, output, _ in fired[:-1])  # after the ReLU


@pytest.mark.parametrize("name", CBRS)
def test_cbr_equals_its_written_out_formula(name):
    network, batch = build(name).module, images(20)
    state, expected = network.state_dict(), batch
    for i in range(1, len(SHAPES[name].widths) + 1):
        weight = state[f"conv{i}.conv.weight"]
        expected = nn.functional.conv2d(expected, weight, padding=weight.shape[-1] // 2)
        mean, var = (
            expected.mean((0, 2, 3), keepdim=True),
            expected.var((0, 2, 3), correction=0, keepdim=True),
        )
        expected = ((expected - mean) / (var + 1e-5).sqrt()).clamp(min=0)
        if i < 5:
            expected = nn.functional.max_pool2d(expected, 3, stride=2, padding=1)
    expected = expected.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("resnet50", [9_536, 225_344, 1_444_928, 8_543_296, 23_508_032]),
        ("resnet18", [9_536, 157_504, 683_072, 2_782_784, 11_176_512]),
    ],
)
def test_resnet_cuts_have_the_published_sizes(name, cuts):
    with torch.device("meta"):
        network = build(name)
    sizes = [sum(map(n_parameters, network.stage_modules(stage))) for stage in network.backbone]
    assert [sum(sizes[: i + 1]) for i in range(len(sizes))] == cuts


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_checkpoint_loads_into_the_plain_torchvision_network(name):
    network = build(name).module.eval()
    plain = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    plain.load_state_dict(network.state_dict())
    assert plain(images(32)).equal(network(images(32)))


def test_grey_resnet_draws_conv1_on_the_scale_of_the_rgb_one():
    grey, rgb = (build("resnet18", channels=channels).module.conv1 for channels in (1, 3))
    assert grey.weight.shape == (64, 1, 7, 7)
    assert (grey.stride, grey.padding, grey.bias) == (rgb.stride, rgb.padding, rgb.bias)
    assert grey.weight.std().item() == pytest.approx(rgb.weight.std().item(), rel=0.05)


def tiny_module() -> nn.Module:
    return nn.ModuleDict({"conv1": nn.Conv2d(1, 2, 3), "bn1": nn.BatchNorm2d(2), "head": nn.Linear(2, 2)})


CONV1 = Stage("conv1", ("conv1", "bn1"), "conv1")
HEAD = Stage("head", ("head",), "head")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((replace(CONV1, modules=("conv1",)), HEAD), "bn1.running_var is in no stage"),
        ((CONV1, Stage("again", ("bn1",), "bn1"), HEAD), "bn1.running_mean is in conv1 and again"),
        (
            (CONV1, Stage("block", ("layer9",), "conv1"), HEAD),
            "block names a module 'layer9', which the network lacks",
        ),
        ((replace(CONV1, probe="relu"), HEAD), "conv1 names a module 'relu', which the network lacks"),
        ((CONV1, HEAD, HEAD), "two stages share a name (conv1, head, head)"),
        ((HEAD, CONV1), "the last stage must be called 'head', got head, conv1"),
        ((CONV1, Stage("block", (), "conv1"), HEAD), "block holds no weights"),
    ],
)
def test_stages_that_do_not_partition_the_network_are_an_error(stages, message):
    with pytest.raises(ValueError, match="the stages of ModuleDict do not fit it") as caught:
        Network(tiny_module(), stages)
    assert message in str(caught.value)


def test_a_stage_owns_whole_module_names_only():
    stage = Stage("conv1", ("conv1",), "conv1")
    assert stage.holds("conv1.weight")
    assert not stage.holds("conv10.weight")


def test_unknown_architecture_is_named_with_a_suggestion():
    with pytest.raises(
        SpecError, match=r"architecture must be one of .*'resnet50', got 'resnet51'; did you mean"
    ):
        find_architecture("resnet51")
