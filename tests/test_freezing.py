"""What is frozen stays, to the bit, under momentum and weight decay; everything else moves."""

import pytest
import torch
from torch import Tensor, nn

from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network
from trainables.freezing import freeze, learning_stages, set_training_mode
from trainables.spec import TrainableSpec

SPECS = {
    "all": (TrainableSpec(), ("conv1", "block1", "block2", "block3", "block4", "head")),
    "head": (TrainableSpec(first=0, last=0), ("head",)),
    "first": (TrainableSpec(first=1, last=0), ("conv1", "head")),
    "last": (TrainableSpec(first=0, last=2), ("block3", "block4", "head")),
    "first_last": (TrainableSpec(first=1, last=1), ("conv1", "block4", "head")),
}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network("resnet18", n_outputs=3, channels=1)


def state_of(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.module.state_dict().items()}


def train(network: Network, spec: TrainableSpec, *, steps: int = 2) -> None:
    """Take steps with momentum and weight decay, as a training does, with an evaluation before each."""
    freeze(network, spec)
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        network.module.eval()
        network.module(images)
        set_training_mode(network, spec)
        loss = nn.functional.cross_entropy(network.module(images), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def moved_keys(network: Network, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in network.module.state_dict().items() if not value.equal(before[key])}


@pytest.mark.parametrize(("spec", "learn"), SPECS.values(), ids=SPECS)
def test_exactly_the_stages_that_learn_move(network, spec, learn):
    before = state_of(network)
    assert learning_stages(network, spec) == learn
    train(network, spec)
    expected = {key for name in learn for key in network.stage_state(name)}
    assert moved_keys(network, before) == expected


def test_updated_statistics_of_frozen_stages_move_and_nothing_else_of_them(network):
    before = state_of(network)
    train(network, TrainableSpec(first=0, last=1, frozen_statistics="updated"))
    frozen = {key for name in ("conv1", "block1", "block2", "block3") for key in network.stage_state(name)}
    assert moved_keys(network, before) & frozen == {key for key in frozen if key.endswith(STATISTICS)}


def test_batch_norms_of_frozen_stages_normalize_by_their_running_statistics(network):
    images = torch.randn(4, 1, 32, 32)
    seen = {}
    network.module.layer1.register_forward_hook(lambda *arguments: seen.update(output=arguments[2]))
    spec = TrainableSpec(first=0, last=1)
    outputs = []
    for batch in (images, images[:1]):
        set_training_mode(network, spec)
        network.module.layer4.eval()  # a lone sample has no statistics of its own
        network.module(batch)
        outputs.append(seen["output"][0].detach())
    torch.testing.assert_close(*outputs)


def test_freezing_again_thaws_what_learns_now(network):
    freeze(network, TrainableSpec(first=0, last=0))
    freeze(network, TrainableSpec())
    assert all(parameter.requires_grad for parameter in network.module.parameters())


def test_modules_other_than_batch_norms_are_in_training_mode_everywhere():
    module = nn.ModuleDict(
        {
            "first": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)),
            "last": nn.Linear(2, 2),
            "head": nn.Linear(2, 1),
        }
    )
    stages = tuple(Stage(name, (name,), name) for name in ("first", "last", "head"))
    set_training_mode(Network(module, stages), TrainableSpec(first=0, last=1))
    in_evaluation = [name for name, part in module.named_modules() if not part.training]
    assert in_evaluation == ["first.1"]


@pytest.mark.parametrize("counts", [(6, 0), (0, 6)])
def test_more_stages_than_the_network_has_mean_an_unresolved_spec(network, counts):
    spec = TrainableSpec(first=counts[0], last=counts[1])
    with pytest.raises(ValueError, match=r"^trainable must be resolved: at most 5 stages, got first="):
        freeze(network, spec)


def test_stages_that_meet_learn_once(network):
    assert learning_stages(network, TrainableSpec(first=3, last=4)) == SPECS["all"][1]
