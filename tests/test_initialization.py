from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from trainables.architectures.catalog import Stage
from trainables.architectures.stages import Network, build_network
from trainables.errors import WeightsError
from trainables.initialization import INITIALIZATIONS, initialize
from trainables.spec import InitSpec, SourceSpec

SOURCE = SourceSpec(weights="torchvision/ResNet18_Weights.IMAGENET1K_V1")
INITS = {
    "random": InitSpec(kind="random"),
    "pretrained": InitSpec(kind="pretrained", source=SOURCE),
    "mean_var": InitSpec(kind="mean_var", source=SOURCE),
    "transfusion": InitSpec(kind="transfusion", depth=2, rest="random", source=SOURCE),
    "transfusion + mean_var": InitSpec(kind="transfusion", depth=2, rest="mean_var", source=SOURCE),
}
MEAN_VAR = INITS["mean_var"]


def build(seed: int = 1, *, name: str = "cbr_tiny", channels: int = 1, n_outputs: int = 3) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(name, n_outputs=n_outputs, channels=channels)


def trained_state(**options: int | str) -> dict[str, Tensor]:
    """Weights that look trained: every tensor has a scale, an offset and statistics of its own."""
    noise = torch.Generator().manual_seed(7)
    state = {key: value.clone() for key, value in build(2, **options).module.state_dict().items()}
    for i, (key, value) in enumerate(state.items()):
        if key.endswith(("running_var", "bn.weight")):
            value.copy_(torch.rand(value.shape, generator=noise) ** 4 + 0.01)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=noise) * 0.02 * (i + 1) + 0.005 * i)
        else:
            value.fill_(40)
    return state


def initialized(
    init: InitSpec,
    *,
    source: Mapping[str, Tensor] | None = None,
    seed: int = 3,
    network: Network | None = None,
) -> Network:
    network = network or build()
    source = trained_state() if source is None else source
    initialize(network, init, source_state=source, generator=torch.Generator().manual_seed(seed))
    return network


def weights_of(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.module.state_dict().items()}


def images(channels: int = 1) -> Tensor:
    return torch.randn(4, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def sampled_keys(network: Network, init: InitSpec) -> list[str]:
    """Convolution weights that `init` draws by the mean-var rule."""
    stages = {"mean_var": network.backbone, "transfusion": network.backbone[2:]}[init.kind]
    return [key for stage in stages for key, value in network.stage_state(stage).items() if value.dim() == 4]


@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
class TestEveryInitialization:
    def test_leaves_the_head_as_it_was_drawn(self, init):
        drawn = build().stage_state("head")
        head = initialized(init).stage_state("head")
        assert all(head[key].equal(drawn[key]) for key in drawn)

    def test_gives_the_same_weights_for_the_same_seeds(self, init):
        once, again = weights_of(initialized(init)), weights_of(initialized(init))
        assert all(once[key].equal(again[key]) for key in once)

    def test_leaves_the_global_generator_alone(self, init):
        network, before = build(), torch.get_rng_state()
        initialized(init, network=network)
        assert torch.get_rng_state().equal(before)

    def test_leaves_the_source_alone(self, init):
        source, before = trained_state(), trained_state()
        initialized(init, source=source).module.train()(images())
        assert all(source[key].equal(before[key]) for key in before)

    def test_evaluates_to_finite_outputs_with_running_variances_that_are_not_negative(self, init):
        network = initialized(init)
        variances = [value for key, value in weights_of(network).items() if key.endswith("running_var")]
        assert len(variances) == 4
        assert all((value >= 0).all() for value in variances)
        assert network.module.eval()(images()).isfinite().all()

    def test_trains_a_step_from_a_finite_loss_and_moves_every_stage(self, init):
        network = initialized(init)
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

    def test_takes_a_source_whose_head_has_another_shape_or_is_absent(self, init):
        expected = weights_of(initialized(init))
        other_head = trained_state() | {"head.weight": torch.zeros(9, 9), "head.0.bias": torch.zeros(1)}
        no_head = {key: value for key, value in trained_state().items() if not key.startswith("head.")}
        for source in (other_head, no_head):
            found = weights_of(initialized(init, source=source))
            assert all(found[key].equal(expected[key]) for key in expected)


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


@pytest.mark.parametrize("name", ["mean_var", "transfusion + mean_var"])
def test_sampled_tensors_have_the_mean_and_sd_of_the_source_and_none_of_its_values(name):
    source, network = trained_state(), initialized(INITS[name])
    keys = sampled_keys(network, INITS[name])
    assert len(keys) == (4 if name == "mean_var" else 2)
    for key in keys:
        values, n = network.module.state_dict()[key].double(), source[key].numel()
        mean, sd = source[key].double().mean(), source[key].double().std(correction=0)
        # Five standard errors of the mean and of the sd of n normal draws.
        assert abs(values.mean() - mean) < 5 * sd / n**0.5
        assert abs(values.std() - sd) < 5 * sd / (2 * n) ** 0.5
        assert (
            abs(torch.corrcoef(torch.stack([values.flatten(), source[key].double().flatten()]))[0, 1])
            < 5 / n**0.5
        )


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


def test_mean_var_has_no_silent_rule_for_other_parameters():
    module = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 2)})
    network = Network(module, tuple(Stage(name, (name,), name) for name in ("embedding", "head")))
    with pytest.raises(
        TypeError, match=r"mean_var has no rule for embedding\.weight, a parameter of a Embedding"
    ):
        initialized(MEAN_VAR, source=module.state_dict(), network=network)


def test_mean_var_depends_on_the_generator():
    some, others = (weights_of(initialized(MEAN_VAR, seed=seed)) for seed in (1, 2))
    assert not some["conv1.conv.weight"].equal(others["conv1.conv.weight"])


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
            {"conv4.bn.bias": torch.zeros(512)},
            [],
            f"shape: conv4.bn.bias must have shape (256,), got (512,). {ADVICE}.",
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
@pytest.mark.parametrize("name", ["pretrained", "mean_var", "transfusion"])
def test_source_that_does_not_fit_is_reported_and_changes_nothing(changes, removed, message, name):
    source = {key: value for key, value in (trained_state() | changes).items() if key not in removed}
    network, before = build(), weights_of(build())
    with pytest.raises(WeightsError) as caught:
        initialized(INITS[name], source=source, network=network)
    assert str(caught.value).startswith("the pretrained weights do not fit the network. ")
    assert message in str(caught.value)
    assert all(value.equal(before[key]) for key, value in weights_of(network).items())


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
