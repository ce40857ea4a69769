"""Every network of the catalog, on real tensors: what all of them owe, and their published sizes."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load, save
from torch import Tensor, nn

from trainables.architectures import timm_networks
from trainables.architectures.architecture import HEAD, Stage
from trainables.architectures.catalog import ARCHITECTURES, find_architecture, published_name
from trainables.architectures.cbr import SHAPES
from trainables.architectures.reshaping import architecture_of, normal_architecture
from trainables.architectures.spec import ArchitectureSpec, SlimSpec
from trainables.architectures.stages import Network, build_network
from trainables.errors import SpecError
from trainables.initialization import initialize
from trainables.spec import InitSpec, SourceSpec

SOURCE = SourceSpec(weights="torchvision/ResNet18_Weights.IMAGENET1K_V1")
NETWORKS = [name for name, entry in ARCHITECTURES.items() if entry.is_network]
CBRS = [name for name in ARCHITECTURES if name.startswith("cbr_")]
# From timm, one network of each make: with stages of blocks, with tokens, with a stem of its own.
FROM_TIMM = ["timm/resnet18", "timm/vit_tiny_patch16_224", "timm/convnext_atto", "timm/regnetx_002"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def spec_of(name: str, **changes: Any) -> ArchitectureSpec:
    """Describe a network; dense layers of their full width would be all that a test does."""
    width = {"head_width": 16} if find_architecture(name).dense_width else {}
    return ArchitectureSpec(name=name, **{**width, **changes})


def build(spec: str | ArchitectureSpec, *, channels: int = 3, n_outputs: int = 5, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(spec, n_outputs=n_outputs, channels=channels)


def images(size_px: int, *, channels: int = 3, n: int = 2) -> Tensor:
    return torch.randn(n, channels, size_px, size_px, generator=torch.Generator().manual_seed(0))


def copied_state(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.module.state_dict().items()}


def record_probes(network: Network, batch: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Run a batch; return (stage, output, copy taken as it fired) in the order of firing."""
    fired: list[tuple[str, Tensor, Tensor]] = []

    def note(stage: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        fired.append((stage, output, output.clone()))

    handles = [
        network.module.get_submodule(stage.probe).register_forward_hook(partial(note, stage.name))
        for stage in network.stages
    ]
    with torch.no_grad():
        network.module(batch)
    for handle in handles:
        handle.remove()
    return fired


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=[*NETWORKS, *FROM_TIMM])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> Network:
    """A network in evaluation mode; a test that changes it changes it back."""
    built = build(spec_of(name), seed=1)
    built.module.eval()
    return built


class TestEveryArchitecture:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_maps_images_of_the_smallest_size_to_finite_outputs(self, name, channels):
        spec = spec_of(name)
        module = build(spec, channels=channels, n_outputs=4).module.eval()
        with torch.no_grad():
            outputs = module(images(find_architecture(name).smallest_px, channels=channels))
        assert outputs.shape == (2, 4)
        assert outputs.isfinite().all()
        assert architecture_of(spec).is_network

    def test_gives_every_parameter_a_gradient(self, name):
        spec = spec_of(name)
        module = build(spec).module.train()
        outputs = module(images(max(64, architecture_of(spec).smallest_px)))
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(nn.functional.cross_entropy(logits, torch.tensor([0, 3])) for logits in heads).backward()
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key

    def test_stages_hold_every_parameter_and_buffer_exactly_once(self, name, network):
        keys = [key for stage in network.stages for key in network.stage_state(stage.name)]
        assert sorted(keys) == sorted(network.module.state_dict())
        assert network.backbone == find_architecture(name).backbone

    def test_probes_fire_once_each_from_input_to_head_and_are_not_overwritten(self, name, network):
        fired = record_probes(network, images(find_architecture(name).smallest_px))
        assert [stage for stage, _, _ in fired] == [stage.name for stage in network.stages]
        # DenseNet applies the ReLU after its last norm in place; who looks at a probe takes a copy.
        kept = fired[:-2] if name.startswith("densenet") else fired
        assert all(output.equal(copy) for _, output, copy in kept)
        assert all(output.dim() in (3, 4) for _, output, _ in fired[:-1])

    def test_the_weights_of_a_stage_act_before_its_probe_and_not_before_that_of_the_stage_before(
        self, name, network
    ):
        """A change of a stage shows at its probe, and at none before: the cut is where it is said to be."""
        batch = images(find_architecture(name).smallest_px)
        before = [output for _, _, output in record_probes(network, batch)]
        for number, stage in enumerate(network.stages[:-1]):
            state = {key: value.clone() for key, value in network.stage_state(stage.name).items()}
            with torch.no_grad():
                for value in network.stage_state(stage.name).values():
                    if value.is_floating_point():
                        value.mul_(1.5).add_(0.01)
            after = [output for _, _, output in record_probes(network, batch)]
            assert all(torch.equal(a, b) for a, b in zip(after[:number], before[:number], strict=True))
            assert not torch.equal(after[number], before[number])
            network.module.load_state_dict(state, strict=False)

    def test_transfusing_k_stages_changes_exactly_the_first_k(self, name, network):
        before = copied_state(network)
        source = {key: value + 1 for key, value in before.items()}
        for depth in range(len(network.backbone) + 1):
            init = InitSpec(kind="transfusion", depth=depth, rest="random", source=SOURCE)
            initialize(network, init, source_state=source, generator=torch.Generator())
            for i, stage in enumerate(network.stages):
                expected = source if i < depth else before
                state = network.stage_state(stage.name)
                assert all(value.equal(expected[key]) for key, value in state.items())
        network.module.load_state_dict(before)

    def test_weights_survive_a_safetensors_file(self, name, network):
        restored = build(spec_of(name), seed=2).module.eval()
        restored.load_state_dict(load(save(network.module.state_dict())))
        batch = images(find_architecture(name).smallest_px)
        with torch.no_grad():
            assert restored(batch).equal(network.module(batch))

    def test_draws_its_weights_from_the_global_generator(self, name, network):
        again = build(spec_of(name), seed=1).module.state_dict()
        assert all(again[key].equal(value) for key, value in network.module.state_dict().items())

    def test_every_truncation_is_the_beginning_of_the_network(self, name, network):
        entry = find_architecture(name)
        if not entry.chain:
            with pytest.raises(
                SpecError, match=f"architecture.truncate_after is not known for {name}, whose"
            ):
                architecture_of(ArchitectureSpec(name=name, truncate_after=entry.backbone[0]))
            return
        batch = images(entry.smallest_px)
        outputs = {stage: output for stage, _, output in record_probes(network, batch)}
        for number, stage in enumerate(entry.backbone, start=1):
            cut = build(ArchitectureSpec(name=name, truncate_after=stage))
            assert cut.backbone == entry.backbone[:number]
            whole = network.module.state_dict()
            kept = {key: whole[key] for key in cut.module.state_dict() if not key.startswith("head.")}
            cut.module.load_state_dict(kept, strict=False)
            cut.module.eval()
            fired = {name: output for name, _, output in record_probes(cut, batch)}
            torch.testing.assert_close(fired[stage], outputs[stage])
            assert fired["head"].shape == (2, 5)
            assert n_parameters(cut.module) <= n_parameters(network.module) + fired[stage].shape[1] * 5 + 5


def test_a_forest_is_an_architecture_without_a_network():
    assert not find_architecture("random_forest").is_network
    with pytest.raises(SpecError, match="architecture random_forest is no network; it is fitted, not built"):
        build("random_forest")


@pytest.mark.parametrize("name", [n for n in NETWORKS if ARCHITECTURES[n].published])
def test_every_network_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        module = build(name, n_outputs=1000).module
    published = ARCHITECTURES[name].published[0]
    if published.startswith("timm/"):
        # 42,679,816 by timm's own table of results (42.68 million).
        assert n_parameters(module) == 42_679_816
        return
    entry, member = published.removeprefix("torchvision/").split(".")
    expected = getattr(torchvision.models, entry)[member].meta["num_params"]
    # torchvision counts GoogLeNet and Inception-v3 as they are used: GoogLeNet without its auxiliary heads.
    auxiliary = {"googlenet": ("aux1", "aux2")}.get(name, ())
    assert n_parameters(module) - sum(n_parameters(getattr(module, part)) for part in auxiliary) == expected


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


@pytest.mark.parametrize(
    "name",
    [n for n in NETWORKS if ARCHITECTURES[n].published[:1] and n not in ("alexnet", "vgg16", "vgg16_bn")],
)
def test_a_checkpoint_loads_into_the_plain_network_of_its_library(name):
    module = build(name).module.eval()
    if ARCHITECTURES[name].published[0].startswith("timm/"):
        plain = timm.create_model(name, num_classes=5).eval()
    else:
        drawn = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        plain = torchvision.models.get_model(name, weights=None, num_classes=5, **drawn).eval()
    plain.load_state_dict(module.state_dict())
    batch = images(ARCHITECTURES[name].smallest_px)
    with torch.no_grad():
        assert plain(batch).equal(module(batch))


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg16_bn"])
def test_dense_layers_stand_where_torchvision_has_them(name):
    with torch.device("meta"):
        module = build(name).module
        plain = torchvision.models.get_model(name, weights=None, num_classes=5)
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    assert {key: value.shape for key, value in module.state_dict().items()} == shapes
    narrow = build(ArchitectureSpec(name=name, head_width=8)).module
    linear = [layer.weight.shape for layer in narrow.classifier if isinstance(layer, nn.Linear)]
    assert [shape[0] for shape in linear] == [8, 8, 5]
    assert [type(layer) for layer in narrow.classifier] == [type(layer) for layer in plain.classifier]


@pytest.mark.parametrize("name", [n for n in NETWORKS if not n.startswith("cbr_")])
def test_a_grey_network_draws_its_first_convolution_as_its_library_would(name):
    """The same layer but for its inputs, on the scale that the library's rule gives it."""

    @cache
    def first(channels: int, seed: int) -> nn.Conv2d:
        module = build(spec_of(name), channels=channels, seed=seed).module
        return next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))

    grey, rgb = first(1, 0), first(3, 0)
    assert grey.in_channels == grey.weight.shape[1] == 1
    assert (grey.stride, grey.padding, grey.kernel_size) == (rgb.stride, rgb.padding, rgb.kernel_size)
    by_inputs = name in ("alexnet", "densenet121", "densenet169", "densenet201", "inception_v4")
    factor = 3**0.5 if by_inputs else 1.0
    sds = [torch.cat([first(c, seed).weight.flatten() for seed in range(2)]).std().item() for c in (1, 3)]
    assert sds[0] == pytest.approx(sds[1] * factor, rel=0.12)


def slim(name: str, from_stage: str, factor: int = 2, **changes: Any) -> ArchitectureSpec:
    return spec_of(name, slim=SlimSpec(from_stage=from_stage, factor=factor), **changes)


def test_slim_resnet50_has_the_parameters_of_the_papers_arithmetic():
    with torch.device("meta"):
        network = build(slim("resnet50", "block3"))
    sizes = [sum(map(n_parameters, network.stage_modules(stage))) for stage in network.backbone]
    assert sum(sizes) == 7_135_296
    assert sum(sizes[:3]) == 1_444_928  # conv1, block1 and block2 are those of the whole network


@pytest.mark.parametrize(
    ("name", "from_stage"),
    [
        (n, stage)
        for n in NETWORKS
        for stage in ARCHITECTURES[n].widths
        if n not in ("resnet101", "resnet152")
    ],
)
def test_slimming_divides_the_channels_of_a_stage_and_of_all_later_ones(name, from_stage):
    network, whole = build(slim(name, from_stage)), build(spec_of(name))
    network.module.eval()
    whole.module.eval()
    batch = images(32)
    widths = [{s: out.shape[1] for s, out, _ in record_probes(n, batch)} for n in (network, whole)]
    names = list(whole.backbone)
    for stage in names:
        divided = 2 if names.index(stage) >= names.index(from_stage) else 1
        assert widths[0][stage] * divided == widths[1][stage]
    for stage in names[: names.index(from_stage)]:
        shapes = [{k: v.shape for k, v in n.stage_state(stage).items()} for n in (network, whole)]
        assert shapes[0] == shapes[1]


def test_a_slim_network_can_be_truncated():
    network = build(slim("resnet18", "block1", truncate_after="block2"))
    assert network.backbone == ("conv1", "block1", "block2")
    assert network.module.head.in_features == 64


@pytest.mark.parametrize(
    ("name", "with_auxiliary", "without"), [("inception_v3", 299, 75), ("googlenet", 32, 32)]
)
def test_an_auxiliary_head_takes_part_where_the_images_are_large_enough(name, with_auxiliary, without):
    both = [architecture_of(ArchitectureSpec(name=name, auxiliary=flag)) for flag in (True, False)]
    assert [entry.smallest_px for entry in both] == [with_auxiliary, without]
    network, bare = (build(ArchitectureSpec(name=name, auxiliary=flag)) for flag in (True, False))
    network.module.train()
    outputs = network.module(images(with_auxiliary))
    assert isinstance(outputs, tuple)
    assert all(logits.shape == (2, 5) for logits in outputs)
    assert network.auxiliary_weight in (0.3, 0.4)
    assert bare.auxiliary_weight == 0
    bare.module.train()
    assert isinstance(bare.module(images(96)), Tensor)
    assert n_parameters(bare.module) < n_parameters(network.module)


def test_the_auxiliary_head_of_inception_needs_every_pixel_of_its_smallest_size():
    module = build("inception_v3").module.train()
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        module(images(298))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet51"}, r"architecture must be one of .*, got 'resnet51'; did you mean 'resnet\d+'\?"),
        ({"name": "timm/resnet188"}, "architecture: timm .* has no network 'resnet188'; did you mean"),
        (
            {"name": "resnet50", "slim": {"from_stage": "conv1", "factor": 2}},
            "architecture.slim.from_stage must be one of 'block1', 'block2', 'block3', 'block4', got 'conv1'",
        ),
        (
            {"name": "cbr_tiny", "slim": {"from_stage": "conv1", "factor": 5}},
            "architecture.slim.factor must divide the channels of every stage, got 5 for the 32 of conv1",
        ),
        (
            {"name": "densenet121", "slim": {"from_stage": "block1", "factor": 2}},
            "architecture.slim is not known for densenet121, only for cbr_large_t, .*, vgg16_bn",
        ),
        (
            {"name": "resnet50", "truncate_after": "layer2"},
            "architecture.truncate_after must be one of 'block1', .*'conv1', got 'layer2'",
        ),
        (
            {"name": "resnet50", "head_width": 8},
            "architecture.head_width must be left out for resnet50, which has no dense layers before its",
        ),
        (
            {"name": "timm/resnet18", "truncate_after": "block1"},
            "architecture.truncate_after is not known for timm/resnet18, whose modules are no chain",
        ),
    ],
)
def test_a_shape_that_a_network_cannot_have_is_refused(changes, message):
    with pytest.raises(SpecError, match=f"^{message}"):
        architecture_of(ArchitectureSpec.model_validate(changes))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_catalog_knows_which_heads_are_linear(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    head, kinds = network.stage(HEAD), nn.Conv2d | nn.Linear | nn.BatchNorm2d
    layers = [
        module
        for path, module in network.module.named_modules()
        if head.holds(f"{path}.weight") and isinstance(module, kinds)
    ]
    is_linear = len(layers) == 1 and isinstance(layers[0], nn.Linear)
    assert find_architecture(name).has_linear_head == is_linear


def test_a_network_whose_stages_timm_does_not_tell_is_refused(monkeypatch):
    monkeypatch.setattr(timm_networks, "_features", lambda _network: {"stem": 32})
    with pytest.raises(
        SpecError,
        match=r"timm does not tell the stages of 'resnet10t' in a way that can be relied on \(it names fewer",
    ):
        timm_networks.describe_timm("timm/resnet10t")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("legacy_xception", "a part of block2 acts after its end"),
        ("hrnet_w18_small", "."),
        ("crossvit_9_240", "."),
    ],
)
def test_a_network_whose_stages_are_not_what_timm_says_is_refused(model, reason):
    with pytest.raises(SpecError, match=rf"timm does not tell the stages of '{model}' .*{reason}"):
        find_architecture(f"timm/{model}")


def test_the_smallest_image_of_a_timm_network_is_measured():
    assert find_architecture("timm/inception_v3").smallest_px == 128
    assert find_architecture("timm/vit_tiny_patch16_224").smallest_px == 224


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("swin_tiny_patch4_window7_224", True),
        ("vit_tiny_patch16_224", True),
        ("inception_v4", False),
    ],
)
def test_where_the_channels_of_a_timm_network_are_is_known(model, expected):
    stages = find_architecture(f"timm/{model}").stages
    assert {stage.is_channels_last for stage in stages[:-1]} == {expected}
    assert not stages[-1].is_channels_last


def test_a_feature_without_the_channels_that_timm_counts_is_refused(monkeypatch):
    monkeypatch.setattr(timm_networks, "_features", lambda _network: {"layer1": 7, "layer2": 128})
    with pytest.raises(SpecError, match=r"a feature of 7 channels has the shape \(2, 64, \d+, \d+\)"):
        timm_networks.describe_timm("timm/resnet10t")


def test_imagenet_stands_for_no_other_weights():
    with pytest.raises(
        SpecError, match=r"source.weights: no weights of ImageNet are published for timm/vit_small"
    ):
        published_name("imagenet", "timm/vit_small_patch14_dinov2")


def test_what_has_no_effect_is_at_its_default():
    def normal(**fields: Any) -> ArchitectureSpec:
        return normal_architecture(ArchitectureSpec.model_validate(fields))

    assert normal(name="resnet18", auxiliary=False) == ArchitectureSpec(name="resnet18")
    assert not normal(name="googlenet", auxiliary=False).auxiliary
    cut = normal(name="googlenet", auxiliary=False, truncate_after="block1")
    assert cut == ArchitectureSpec(name="googlenet", truncate_after="block1")
    assert normal(name="vgg16", head_width=8, truncate_after="block1").head_width is None
    assert normal(name="vgg16", head_width=4096).head_width is None


def test_published_weights_belong_to_an_architecture():
    assert published_name("imagenet", "resnet50") == "torchvision/ResNet50_Weights.IMAGENET1K_V1"
    assert published_name("imagenet", "timm/resnet18") == "timm/resnet18.a1_in1k"
    with pytest.raises(SpecError, match=r"^source.weights must be one of 'imagenet', .*\(resnet50\)"):
        published_name("torchvision/ResNet18_Weights.IMAGENET1K_V1", "resnet50")
    with pytest.raises(
        SpecError, match=r"^source.weights: no weights are published for cbr_tiny; pretrain it"
    ):
        published_name("imagenet", "cbr_tiny")


def tiny_module() -> nn.Module:
    return nn.ModuleDict({"conv1": nn.Conv2d(1, 2, 3), "bn1": nn.BatchNorm2d(2), "head": nn.Linear(2, 2)})


CONV1 = Stage("conv1", ("conv1", "bn1"), "conv1")
LAST = Stage("head", ("head",), "head")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((replace(CONV1, modules=("conv1",)), LAST), "bn1.running_var is in no stage"),
        ((CONV1, Stage("again", ("bn1",), "bn1"), LAST), "bn1.running_mean is in conv1 and again"),
        (
            (CONV1, Stage("block", ("layer9",), "conv1"), LAST),
            "block names a module 'layer9', which the network lacks",
        ),
        ((replace(CONV1, probe="relu"), LAST), "conv1 names a module 'relu', which the network lacks"),
        ((CONV1, LAST, LAST), "two stages share a name (conv1, head, head)"),
        ((LAST, CONV1), "the last stage must be called 'head', got head, conv1"),
        ((CONV1, Stage("block", (), "conv1"), LAST), "block holds no weights"),
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


def test_a_parameter_of_the_network_itself_can_belong_to_a_stage():
    assert Stage("block1", ("cls_token",), "blocks.0").holds("cls_token")
