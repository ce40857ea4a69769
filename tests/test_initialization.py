from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network
from trainables.errors import WeightsError
from trainables.gabor import gabor_bank
from trainables.initialization import INITIALIZATIONS, initialize
from trainables.spec import InitSpec, SourceSpec

SOURCE = SourceSpec(weights="torchvision/ResNet18_Weights.IMAGENET1K_V1")
INITS = {
    "random": InitSpec(kind="random"),
    "pretrained": InitSpec(kind="pretrained", source=SOURCE),
    "mean_var": InitSpec(kind="mean_var", source=SOURCE),
    "mean_var with norms": InitSpec(kind="mean_var", norm="mean_var", source=SOURCE),
    "transfusion": InitSpec(kind="transfusion", depth=2, rest="random", source=SOURCE),
    "transfusion + mean_var": InitSpec(kind="transfusion", depth=2, rest="mean_var", source=SOURCE),
    "gabor": InitSpec(kind="gabor"),
    "gabor scaled": InitSpec(kind="gabor", source=SOURCE),
}
MEAN_VAR = INITS["mean_var"]
NAMES = ("cbr_tiny", "resnet18")


def build(seed: int = 1, *, name: str = "cbr_tiny", channels: int = 1, n_outputs: int = 3) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(name, n_outputs=n_outputs, channels=channels)


@cache
def _trained_state(**options: int | str) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(7)
    state = build(2, **options).module.state_dict()
    for i, (key, value) in enumerate(state.items()):
        is_scale = value.dim() == 1 and key.endswith(".weight")
        if key.endswith("running_var") or is_scale:
            value.copy_(torch.rand(value.shape, generator=noise) ** 4 + 0.01)
        elif value.is_floating_point():
            sd = 0.1 * (1 + i % 3) / (value[0].numel() ** 0.5 if value.dim() > 1 else 1)
            value.copy_(torch.randn(value.shape, generator=noise) * sd + 0.1 * sd * (i % 5))
        else:
            value.fill_(40)
    return state


def trained_state(**options: int | str) -> dict[str, Tensor]:
    """Weights that look trained: every tensor has a scale, an offset and statistics of its own."""
    return {key: value.clone() for key, value in _trained_state(**options).items()}


def initialized(
    init: InitSpec,
    *,
    source: Mapping[str, Tensor] | None = None,
    seed: int = 3,
    network: Network | None = None,
    whole: Network | None = None,
    name: str = "cbr_tiny",
) -> Network:
    network = network or build(name=name)
    if source is None and init.source is not None:
        source = trained_state(name=name)
    noise = torch.Generator().manual_seed(seed)
    initialize(network, init, source_state=source, generator=noise, whole=whole)
    return network


def weights_of(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.module.state_dict().items()}


def images(channels: int = 1) -> Tensor:
    return torch.randn(4, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def sampled_keys(network: Network, init: InitSpec) -> list[str]:
    """Weights of convolutions, and under `norm: mean_var` scales of norms, that `init` draws."""
    stages = {"mean_var": network.backbone, "transfusion": network.backbone[2:]}[init.kind]
    dims = {4, 1} if init.norm == "mean_var" else {4}
    return [
        key
        for stage in stages
        for key, value in network.stage_state(stage).items()
        if value.dim() in dims and key.endswith(".weight")
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
class TestEveryInitialization:
    def test_leaves_the_head_as_it_was_drawn(self, init, name):
        drawn = build(name=name).stage_state("head")
        head = initialized(init, name=name).stage_state("head")
        assert len(drawn) == 2
        assert all(head[key].equal(drawn[key]) for key in drawn)

    def test_gives_the_same_weights_for_the_same_seeds(self, init, name):
        once, again = (weights_of(initialized(init, name=name)) for _ in range(2))
        assert all(once[key].equal(again[key]) for key in once)

    def test_depends_on_the_generator_if_it_draws_at_all(self, init, name):
        once, other = (weights_of(initialized(init, name=name, seed=seed)) for seed in (3, 4))
        draws = init.kind in ("mean_var", "gabor") or init.rest == "mean_var"
        assert all(once[key].equal(other[key]) for key in once) != draws

    def test_leaves_the_global_generator_alone(self, init, name):
        network, before = build(name=name), torch.get_rng_state()
        initialized(init, network=network, name=name)
        assert torch.get_rng_state().equal(before)

    def test_leaves_the_source_alone(self, init, name):
        source, before = trained_state(name=name), trained_state(name=name)
        initialized(init, source=source, name=name).module.train()(images())
        assert all(source[key].equal(before[key]) for key in before)

    def test_evaluates_to_finite_outputs_with_running_variances_that_are_not_negative(self, init, name):
        network = initialized(init, name=name)
        variances = [value for key, value in weights_of(network).items() if key.endswith("running_var")]
        assert len(variances) == {"cbr_tiny": 4, "resnet18": 20}[name]
        assert all((value >= 0).all() for value in variances)
        assert network.module.eval()(images()).isfinite().all()

    def test_trains_a_step_from_a_finite_loss_and_moves_every_stage(self, init, name):
        network = initialized(init, name=name)
        before = weights_of(network)
        optimizer = torch.optim.SGD(network.module.parameters(), lr=0.1)
        loss = nn.functional.cross_entropy(network.module(images()), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        assert all(p.requires_grad for p in network.module.parameters())
        for stage in network.stages:
            moved = network.stage_state(stage.name)
            assert any(not moved[key].equal(before[key]) for key in moved if key.endswith("weight"))

    def test_takes_a_source_whose_head_has_another_shape_or_is_absent(self, init, name):
        if init.source is None:
            pytest.skip("takes no source")
        head = build(name=name).stage("head").modules[0]
        expected = weights_of(initialized(init, name=name))
        trained = trained_state(name=name)
        other_head = trained | {f"{head}.weight": torch.zeros(9, 9), f"{head}.0.bias": torch.zeros(1)}
        no_head = {key: value for key, value in trained.items() if not key.startswith(f"{head}.")}
        for source in (other_head, no_head):
            found = weights_of(initialized(init, source=source, name=name))
            assert all(found[key].equal(expected[key]) for key in expected)


@pytest.mark.parametrize("rest", ["random", "mean_var"])
@pytest.mark.parametrize(("name", "n_stages"), [("cbr_tiny", 4), ("resnet18", 5)])
def test_transfusion_of_depth_k_gives_exactly_the_first_k_stages_the_weights_of_the_source(
    name, n_stages, rest
):
    source = trained_state(name=name)
    for depth in range(n_stages + 1):
        init = InitSpec(kind="transfusion", depth=depth, rest=rest, source=SOURCE)
        network = initialized(init, name=name)
        equal = [
            all(value.equal(source[key]) for key, value in network.stage_state(stage).items())
            for stage in network.backbone
        ]
        assert equal == [True] * depth + [False] * (n_stages - depth)


def test_every_kind_of_the_spec_has_an_initialization():
    assert set(INITIALIZATIONS) == set(get_args(InitSpec.model_fields["kind"].annotation))
    assert {init.kind for init in INITS.values()} == set(INITIALIZATIONS)


def test_random_keeps_the_frameworks_weights_and_needs_no_source():
    network, drawn = build(), weights_of(build())
    initialize(network, INITS["random"], source_state=None, generator=torch.Generator())
    assert all(value.equal(drawn[key]) for key, value in weights_of(network).items())


def test_pretrained_copies_everything_but_the_head():
    source, found = trained_state(), weights_of(initialized(INITS["pretrained"]))
    assert all(found[key].equal(source[key]) for key in found if not key.startswith("head."))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["mean_var", "mean_var with norms", "transfusion + mean_var"])
def test_sampled_tensors_have_the_mean_and_sd_of_the_source_and_none_of_its_values(kind, name):
    source, network = trained_state(name=name), initialized(INITS[kind], name=name)
    keys = sampled_keys(network, INITS[kind])
    assert len(keys) >= 2
    for key in keys:
        values, given = network.module.state_dict()[key].double().flatten(), source[key].double().flatten()
        n, mean, sd = len(given), given.mean(), given.std(correction=0)
        # Five standard errors of the mean, the sd and the correlation of n independent normal draws.
        assert abs(values.mean() - mean) < 5 * sd / n**0.5, key
        assert abs(values.std() - sd) < 5 * sd / (2 * n) ** 0.5, key
        assert abs(torch.corrcoef(torch.stack([values, given]))[0, 1]) < 5 / n**0.5, key


def test_sampled_tensors_are_normal_and_independent_of_each_other():
    network = initialized(MEAN_VAR)
    third, fourth = (network.module.state_dict()[f"conv{i}.conv.weight"].flatten() for i in (3, 4))
    standard = (fourth - fourth.mean()) / fourth.std()
    assert (standard**4).mean().item() == pytest.approx(3, abs=0.05)
    paired = torch.stack([third, fourth[: len(third)]])
    assert abs(torch.corrcoef(paired)[0, 1]) < 5 / len(third) ** 0.5


def test_mean_var_resets_batch_norm():
    fresh, network = build(), build()
    network.module(images())  # statistics that are no longer 0 and 1
    initialized(MEAN_VAR, network=network)
    for stage in network.backbone:
        for key, value in fresh.stage_state(stage).items():
            if ".bn." in key:
                assert network.stage_state(stage)[key].equal(value), key


def test_mean_var_samples_biases_and_linear_layers_too():
    def module() -> nn.Module:
        return nn.ModuleDict(
            {"conv": nn.Conv2d(1, 400, 3), "dense": nn.Linear(400, 1), "head": nn.Linear(1, 2)}
        )

    stages = tuple(Stage(name, (name,), name) for name in ("conv", "dense", "head"))
    noise = torch.Generator().manual_seed(5)
    keys = module().state_dict()
    source = {key: torch.randn(value.shape, generator=noise) * 2 + 6 for key, value in keys.items()}
    network = initialized(MEAN_VAR, source=source, network=Network(module(), stages))
    state = network.module.state_dict()
    for key in ("conv.weight", "conv.bias", "dense.weight"):
        assert state[key].mean().item() == pytest.approx(6, abs=0.5)
        assert state[key].std().item() == pytest.approx(2, abs=0.5)
    assert state["dense.bias"].equal(source["dense.bias"])  # one value: its sd is 0


class Scaled(nn.Module):
    """A layer with a parameter of its own, such as a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.dense = nn.Parameter(torch.full((1, 3), 0.25)), nn.Linear(3, 3)


def test_mean_var_keeps_the_frameworks_values_of_parameters_of_other_layers():
    module = nn.ModuleDict({"body": Scaled(), "head": nn.Linear(3, 2)})
    network = Network(module, tuple(Stage(name, (name,), name) for name in ("body", "head")))
    source = {"body.dense.weight": torch.randn(3, 3), "body.dense.bias": torch.zeros(3)}
    initialized(MEAN_VAR, source=source, network=network)
    assert module["body"].token.equal(torch.full((1, 3), 0.25))
    assert module["body"].dense.bias.equal(torch.zeros(3))


def port_mean_var(network: Network, source: Mapping[str, Tensor]) -> None:
    """What a public port does: draw every tensor of the state dict, running variances among them."""
    noise = torch.Generator().manual_seed(0)
    for key, value in network.module.state_dict().items():
        if value.is_floating_point():
            given = source[key]
            value.copy_(given.mean() + given.std() * torch.randn(value.shape, generator=noise))


@pytest.mark.parametrize("norm", ["reset", "mean_var"])
def test_mean_var_evaluates_where_drawn_running_variances_would_be_negative_and_outputs_nan(norm):
    ported = build()
    port_mean_var(ported, trained_state())
    assert (ported.module.state_dict()["conv1.bn.running_var"] < 0).any()
    assert ported.module.eval()(images()).isnan().any()

    network = initialized(InitSpec(kind="mean_var", norm=norm, source=SOURCE))
    statistics = {key: value for key, value in weights_of(network).items() if ".running_" in key}
    assert len(statistics) == 8
    for key, value in statistics.items():
        assert (value == (1 if key.endswith("running_var") else 0)).all(), key
    assert network.module.eval()(images()).isfinite().all()


def test_tensors_without_variance_are_drawn_constant():
    source = trained_state() | {"conv2.conv.weight": torch.full((64, 32, 5, 5), 0.125)}
    assert (initialized(MEAN_VAR, source=source).module.state_dict()["conv2.conv.weight"] == 0.125).all()


class Chain(nn.Sequential):
    """Two convolutions and a head; the narrow one has the names of the wide one, and fewer channels."""

    def __init__(self, width: int, *, head: str = "head") -> None:
        layers = {
            "first": nn.Conv2d(1, 4, 3),
            "second": nn.Sequential(nn.Conv2d(4, width, 3), nn.BatchNorm2d(width)),
            head: nn.Conv2d(width, 2, 1),
        }
        super().__init__(OrderedDict(layers))


def chain(width: int, *, head: str = "head") -> Network:
    named = {"first": "first", "second": "second", "head": head}
    return Network(Chain(width, head=head), tuple(Stage(n, (path,), path) for n, path in named.items()))


def drawn_state(network: Network) -> dict[str, Tensor]:
    """Weights drawn from a normal of mean 3 and sd 1."""
    noise = torch.Generator().manual_seed(11)
    state = network.module.state_dict()
    return {key: torch.randn(value.shape, generator=noise) + 3 for key, value in state.items()}


@pytest.mark.parametrize("rest", ["random", "mean_var"])
@pytest.mark.parametrize("norm", [None, "mean_var"])
def test_narrower_network_takes_its_first_stages_from_a_wider_one(rest, norm):
    norm = norm if rest == "mean_var" else None
    source, network = drawn_state(chain(400)), chain(200)
    initialized(
        InitSpec(kind="transfusion", depth=1, rest=rest, norm=norm, source=SOURCE),
        source=source,
        network=network,
    )
    state = network.module.state_dict()
    assert state["first.weight"].equal(source["first.weight"])
    assert state["second.0.weight"].shape == (200, 4, 3, 3)
    assert state["second.0.weight"].mean().item() == pytest.approx(3 if rest == "mean_var" else 0, abs=0.1)
    assert state["second.1.weight"].mean().item() == pytest.approx(3 if norm else 1, abs=0.4)


def test_narrower_network_cannot_copy_the_stages_that_are_narrower():
    network, source = chain(200), drawn_state(chain(400))
    with pytest.raises(
        WeightsError, match=r"shape: second\.0\.bias must have shape \(200,\), got \(400,\), "
    ):
        initialized(INITS["pretrained"], source=source, network=network)


def truncated() -> Network:
    """`chain`, cut off after its first stage; its new head has another name than the old one."""
    module = nn.Sequential(OrderedDict(first=nn.Conv2d(1, 4, 3), head=nn.Linear(4, 2)))
    return Network(module, tuple(Stage(name, (name,), name) for name in ("first", "head")))


@pytest.mark.parametrize("kind", ["pretrained", "mean_var", "gabor scaled"])
def test_truncated_network_takes_the_weights_of_the_whole(kind):
    with torch.device("meta"):
        whole = chain(8, head="classifier")
    source = drawn_state(chain(8, head="classifier"))
    found = initialized(INITS[kind], source=source, network=truncated(), whole=whole).module.state_dict()
    assert found["first.weight"].equal(source["first.weight"]) == (kind == "pretrained")
    with pytest.raises(
        WeightsError, match=r"unexpected: classifier\.bias, classifier\.weight, second\.0\.bias"
    ):
        initialized(INITS[kind], source=source, network=truncated())


def test_keys_that_are_not_even_of_the_whole_network_are_unexpected():
    source = drawn_state(chain(8)) | {"third.weight": torch.zeros(1)}
    with pytest.raises(
        WeightsError, match=r"network\. unexpected: third\.weight\. Use weights of this architecture"
    ):
        initialized(INITS["pretrained"], source=source, network=truncated(), whole=chain(8))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_gabor_changes_the_first_convolution_only(name, channels):
    network, drawn = build(name=name, channels=channels), weights_of(build(name=name, channels=channels))
    initialized(INITS["gabor"], network=network)
    changed = {key for key, value in weights_of(network).items() if not value.equal(drawn[key])}
    (key,) = changed
    assert key == {"cbr_tiny": "conv1.conv.weight", "resnet18": "conv1.weight"}[name]
    n_filters, _, kernel_px, _ = drawn[key].shape
    bank = gabor_bank(n_filters, channels, kernel_px, generator=torch.Generator().manual_seed(3))
    ratio = network.module.state_dict()[key].double() / bank
    assert ratio[bank.abs() > 1e-6].std().item() < 1e-5  # one scale for all


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["gabor", "gabor scaled"])
def test_gabor_has_the_scale_of_its_source_or_else_of_the_random_weights(kind, name):
    key = {"cbr_tiny": "conv1.conv.weight", "resnet18": "conv1.weight"}[name]
    like = trained_state(name=name) if kind == "gabor scaled" else weights_of(build(name=name))
    found = weights_of(initialized(INITS[kind], name=name))
    assert found[key].std(correction=0).item() == pytest.approx(like[key].std(correction=0).item(), rel=1e-5)


def test_gabor_looks_at_nothing_but_the_first_convolution_of_its_source():
    source = {"conv1.conv.weight": torch.randn(64, 3, 7, 7)}
    found = weights_of(initialized(INITS["gabor scaled"], source=source))["conv1.conv.weight"]
    assert found.std(correction=0).item() == pytest.approx(source["conv1.conv.weight"].std().item(), rel=1e-2)
    with pytest.raises(WeightsError, match=r"network\. missing: conv1\.conv\.weight\. "):
        initialized(INITS["gabor scaled"], source={})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Conv2d(1, 4, 2),
            "must be at least 3x3 to hold a filter, got 2x2 (body.0); use another architecture",
        ),
        (
            nn.Linear(4, 4),
            "the first stage must hold a convolution, got none in body; use another architecture",
        ),
    ],
)
def test_network_without_room_for_gabor_filters_is_refused(layer, message):
    module = nn.ModuleDict({"body": nn.Sequential(layer), "head": nn.Linear(4, 2)})
    network = Network(module, tuple(Stage(name, (name,), name) for name in ("body", "head")))
    before = weights_of(network)
    with pytest.raises(WeightsError) as caught:
        initialized(INITS["gabor"], network=network)
    assert str(caught.value).startswith("init.kind gabor: the first ")
    assert message in str(caught.value)
    assert all(value.equal(before[key]) for key, value in weights_of(network).items())


@pytest.mark.parametrize("rest", ["random", "mean_var"])
def test_transfusions_of_different_depth_agree_where_neither_or_both_copy(rest):
    def at_depth(depth: int) -> Network:
        return initialized(InitSpec(kind="transfusion", depth=depth, rest=rest, source=SOURCE))

    shallow, deep = at_depth(1), at_depth(2)
    for stage in shallow.stages:
        pairs = zip(
            shallow.stage_state(stage.name).values(), deep.stage_state(stage.name).values(), strict=True
        )
        assert all(a.equal(b) for a, b in pairs) == (stage.name != "conv2")


def test_transfusion_copies_batch_norm_with_its_convolution():
    source, network = trained_state(), initialized(INITS["transfusion"])
    for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert network.stage_state("conv2")[f"conv2.bn.{key}"].equal(source[f"conv2.bn.{key}"])
        assert not network.stage_state("conv3")[f"conv3.bn.{key}"].equal(source[f"conv3.bn.{key}"])


def test_transfusion_to_the_ends_is_random_mean_var_or_pretrained():
    ends = [(0, "random", "random"), (0, "mean_var", "mean_var"), (4, "mean_var", "pretrained")]
    for depth, rest, same in ends:
        init = InitSpec(kind="transfusion", depth=depth, rest=rest, source=SOURCE)
        found, expected = weights_of(initialized(init)), weights_of(initialized(INITS[same]))
        assert all(found[key].equal(expected[key]) for key in expected)


def test_source_without_batch_counters_is_accepted():
    source = {key: value for key, value in trained_state().items() if "num_batches" not in key}
    found = weights_of(initialized(INITS["pretrained"], source=source))
    assert found["conv1.bn.running_var"].equal(source["conv1.bn.running_var"])
    assert found["conv1.bn.num_batches_tracked"] == 0


def test_half_precision_source_is_copied_in_the_precision_of_the_network():
    source = {
        key: value.half() if value.is_floating_point() else value for key, value in trained_state().items()
    }
    found = weights_of(initialized(INITS["pretrained"], source=source))
    assert found["conv1.conv.weight"].dtype == torch.float32
    assert found["conv1.conv.weight"].equal(source["conv1.conv.weight"].float())


ADVICE = "Use weights of this architecture"


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        (
            {},
            ["conv1.bn.bias"],
            f"missing: conv1.bn.bias. {ADVICE}, with the keys of its state_dict and no prefix",
        ),
        ({"extra.weight": torch.zeros(1)}, [], f"unexpected: extra.weight. {ADVICE}, with the keys"),
        (
            {"conv2.bn.bias": torch.zeros(512)},
            [],
            f"shape: conv2.bn.bias must have shape (64,), got (512,). {ADVICE}.",
        ),
        (
            {"conv1.conv.weight": torch.zeros(32, 3, 5, 5)},
            [],
            "got (32, 3, 5, 5). The weights are for images of 3 channel(s): set dataset.channels to that.",
        ),
        (
            {"conv2.bn.bias": torch.full((64,), float("nan"))},
            [],
            "not finite: conv2.bn.bias. The training they come from has diverged; use other weights.",
        ),
    ],
)
@pytest.mark.parametrize("name", ["pretrained", "transfusion", "transfusion + mean_var"])
def test_source_that_does_not_fit_is_reported_and_changes_nothing(changes, removed, message, name):
    source = {key: value for key, value in (trained_state() | changes).items() if key not in removed}
    network, before = build(), weights_of(build())
    with pytest.raises(WeightsError) as caught:
        initialized(INITS[name], source=source, network=network)
    assert str(caught.value).startswith("the pretrained weights do not fit the network. ")
    assert message in str(caught.value)
    assert all(value.equal(before[key]) for key, value in weights_of(network).items())


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        ({}, ["conv3.conv.weight"], f"missing: conv3.conv.weight. {ADVICE}"),
        (
            {"conv3.conv.weight": torch.full((2,), torch.inf)},
            [],
            "not finite: conv3.conv.weight. The training",
        ),
        ({"extra.weight": torch.zeros(1)}, [], "unexpected: extra.weight"),
    ],
)
def test_mean_var_misses_what_it_draws_from_whatever_its_shape(changes, removed, message):
    source = {key: value for key, value in (trained_state() | changes).items() if key not in removed}
    with pytest.raises(WeightsError) as caught:
        initialized(MEAN_VAR, source=source)
    assert message in str(caught.value)


@pytest.mark.parametrize("norm", ["reset", "mean_var"])
def test_mean_var_needs_the_norms_of_its_source_only_to_draw_them(norm):
    init = InitSpec(kind="mean_var", norm=norm, source=SOURCE)
    source = {key: value for key, value in trained_state().items() if ".bn." not in key}
    if norm == "reset":
        initialized(init, source=source)
        return
    with pytest.raises(WeightsError, match=r"missing: conv1\.bn\.bias, conv1\.bn\.weight, conv2\.bn\.bias"):
        initialized(init, source=source)


def test_report_of_prefixed_keys_names_some_and_counts_the_rest():
    source = {f"module.{key}": value for key, value in trained_state().items()}
    with pytest.raises(WeightsError) as caught:
        initialized(INITS["pretrained"], source=source)
    assert (
        "missing: conv1.bn.bias, conv1.bn.running_mean, conv1.bn.running_var, conv1.bn.weight, "
        "conv1.conv.weight, conv2.bn.bias and 14 more; unexpected: module.conv1.bn.bias"
    ) in str(caught.value)


def test_pretrained_kinds_need_a_source_and_a_resolved_depth():
    with pytest.raises(ValueError, match=r"init\.kind mean_var needs source_state"):
        initialize(build(), MEAN_VAR, source_state=None, generator=torch.Generator())
    for depth in ("conv1", 9):
        unresolved = InitSpec(kind="transfusion", depth=depth, source=SOURCE)
        with pytest.raises(
            ValueError, match=f"init must be resolved: its depth a number of stages, got {depth!r}"
        ):
            initialized(unresolved)
