"""Networks that are trained together end as if each had been trained alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from tests.conftest import tiny_trial
from trainables.architectures.stages import Network
from trainables.architectures.stages import build_network as build
from trainables.batches import Batches
from trainables.checkpoints import read_checkpoint, write_checkpoint
from trainables.datasets.loading import Dataset, load_dataset
from trainables.errors import NotFiniteError, SpecError
from trainables.seeding import seeded
from trainables.spec import TrainingSpec, parse_trial
from trainables.stack import CannotStackError, Stack, give_batch_norms_float32
from trainables.training import Training

CPU = torch.device("cpu")
STEPS = 4


@pytest.fixture(autouse=True)
def in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training enlarges what is rounded away, step by step; what is rounded in float64 stays small."""
    normalized = Batches.normalized
    monkeypatch.setattr(Batches, "normalized", lambda batches, images: normalized(batches, images).double())


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny_trial().dataset, data_root=None)


def spec_of(**changes: object) -> TrainingSpec:
    content = {"steps": STEPS, "batch_size": 16, **changes}
    return parse_trial(
        {"architecture": "cbr_tiny", "dataset": {"reader": "digits"}, "training": content}
    ).training


def network_of(seed: int, architecture: str = "cbr_tiny") -> Network:
    with seeded(seed, "weights"):
        network = build(architecture, n_outputs=2, channels=1)
    network.module.double()
    return network


def training_of(
    dataset: Dataset, seed: int, *, architecture: str = "cbr_tiny", **changes: object
) -> Training:
    network = network_of(seed, architecture)
    return Training(network, dataset, spec_of(**changes), seed=seed, device=CPU)


def state_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: t.detach().double() for name, t in training.network.module.state_dict().items()}


def check_equal(found: Training, expected: Training) -> None:
    """Compare to what sums in another order can differ by."""
    assert found.step == expected.step
    for name, tensor in state_of(expected).items():
        assert torch.allclose(state_of(found)[name], tensor, rtol=1e-9, atol=1e-10), name
    mine, theirs = found.take_state(), expected.take_state()
    assert mine.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(mine.tensors[name].double(), tensor.double(), rtol=1e-9, atol=1e-10)
    assert mine.facts["loss_sum"] == pytest.approx(theirs.facts["loss_sum"], rel=1e-6)


def take_steps(members: Sequence[Training], n: int = STEPS) -> Stack:
    stack = Stack(members)
    for _ in range(n):
        stack.take_step()
    for member in members:
        member.read_losses()
    return stack


RECIPES: dict[str, list[dict[str, object]]] = {
    "seeds": [{}, {}, {}],
    "plain sgd": [{"optimizer": {"kind": "sgd", "momentum": 0.0, "lr": lr}} for lr in (0.1, 0.01)],
    "rates, momenta and decays": [
        {"optimizer": {"kind": "sgd", "lr": lr, "momentum": m, "weight_decay": d}}
        for lr, m, d in ((0.01, 0.9, 0.0), (0.05, 0.5, 0.01), (0.02, 0.0, 0.1))
    ],
    "nesterov": [{"optimizer": {"kind": "sgd", "nesterov": True, "lr": lr}} for lr in (0.01, 0.02)],
    "adam": [
        {"optimizer": {"kind": "adam", "lr": lr, "beta1": b, "weight_decay": 0.01}}
        for lr, b in ((0.001, 0.9), (0.003, 0.8))
    ],
    "frozen": [{"trainable": "first_last"}] * 2,
    "frozen, statistics updated": [
        {"trainable": {"first": 0, "last": 1, "frozen_statistics": "updated"}}
    ]
    * 2,
    "clipped": [{"gradient_clip": 0.05}, {}, {"gradient_clip": 0.5}],
    "balanced and smooth": [{"class_weights": "balanced", "label_smoothing": 0.1}] * 2,
    "augmented": [{"augment": {"horizontal_flip": True, "shift_px": 2, "brightness": 0.2}}] * 2,
    "interpolated": [{"augment": {"rotation_degrees": 10.0, "crop_area": [0.5, 1.0]}}] * 2,
    "scheduled": [{"schedule": {"kind": "cosine"}}, {"schedule": {"kind": "constant"}}],
    "momentum of batch norm": [{"batch_norm_momentum": 0.5}] * 2,
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stack_does_what_its_members_would_alone(dataset: Dataset, recipe: str) -> None:
    members = [training_of(dataset, seed, **changes) for seed, changes in enumerate(RECIPES[recipe])]
    alone = [training_of(dataset, seed, **changes) for seed, changes in enumerate(RECIPES[recipe])]
    take_steps(members)
    for found, expected in zip(members, alone, strict=True):
        expected.train_until(STEPS)
        check_equal(found, expected)
        assert found.evaluate()["val_loss"] == pytest.approx(expected.evaluate()["val_loss"], rel=1e-6)


@pytest.mark.parametrize("architecture", ["cbr_tiny", "resnet18"])
def test_networks_of_both_kinds_can_be_stacked(dataset: Dataset, architecture: str) -> None:
    members = [training_of(dataset, seed, architecture=architecture) for seed in (0, 1)]
    alone = [training_of(dataset, seed, architecture=architecture) for seed in (0, 1)]
    take_steps(members, 1)
    for found, expected in zip(members, alone, strict=True):
        expected.train_until(1)
        check_equal(found, expected)


def test_members_can_be_at_different_steps(dataset: Dataset) -> None:
    ahead, behind = training_of(dataset, 0), training_of(dataset, 1)
    ahead.train_until(2)
    take_steps([ahead, behind], 2)
    for seed, step, found in ((0, 4, ahead), (1, 2, behind)):
        expected = training_of(dataset, seed)
        expected.train_until(step)
        check_equal(found, expected)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_member_goes_on_alone_after_the_stack_is_dissolved(dataset: Dataset, kind: str) -> None:
    members = [training_of(dataset, seed, optimizer={"kind": kind}) for seed in (0, 1)]
    take_steps(members, 2).dissolve()
    members[0].train_until(STEPS)
    expected = training_of(dataset, 0, optimizer={"kind": kind})
    expected.train_until(STEPS)
    check_equal(members[0], expected)
    other = training_of(dataset, 1, optimizer={"kind": kind})
    other.train_until(2)
    check_equal(members[1], other)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_state_of_a_stacked_member_is_that_of_one_alone(
    dataset: Dataset, kind: str, tmp_path: Path
) -> None:
    members = [training_of(dataset, seed, optimizer={"kind": kind}) for seed in (0, 1)]
    stack = take_steps(members, 2)
    state = members[1].take_state()
    write_checkpoint(tmp_path / "state", state.tensors, facts=state.facts)
    for _ in range(2):
        stack.take_step()  # what was written is a copy
    resumed = training_of(dataset, 1, optimizer={"kind": kind})
    resumed.restore_state(read_checkpoint(tmp_path / "state"))
    again = [resumed, training_of(dataset, 5, optimizer={"kind": kind})]
    take_steps(again, 2)
    expected = training_of(dataset, 1, optimizer={"kind": kind})
    expected.train_until(STEPS)
    check_equal(resumed, expected)


def test_evaluating_a_member_leaves_the_others_and_its_own_training(dataset: Dataset) -> None:
    members = [training_of(dataset, seed) for seed in (0, 1)]
    stack = take_steps(members, 2)
    members[0].evaluate()
    for _ in range(2):
        stack.take_step()
    for seed, found in enumerate(members):
        found.read_losses()
        expected = training_of(dataset, seed)
        expected.train_until(2)
        if seed == 0:
            expected.evaluate()
        expected.train_until(4)
        check_equal(found, expected)


def test_a_member_that_diverges_says_so_and_the_others_learn_on(dataset: Dataset) -> None:
    wild = training_of(dataset, 0, optimizer={"kind": "sgd", "lr": 1e300})
    tame = training_of(dataset, 1)
    stack = Stack([wild, tame])
    for _ in range(STEPS):
        stack.take_step()
    tame.read_losses()
    expected = training_of(dataset, 1)
    expected.train_until(STEPS)
    check_equal(tame, expected)
    alone = training_of(dataset, 0, optimizer={"kind": "sgd", "lr": 1e300})
    with pytest.raises(NotFiniteError) as found:
        wild.read_losses()
    with pytest.raises(NotFiniteError) as told:
        alone.train_until(STEPS)
    assert str(found.value) == str(told.value)


def test_a_network_that_draws_while_it_trains_is_refused_unchanged(dataset: Dataset) -> None:
    def with_dropout(seed: int) -> Training:
        training = training_of(dataset, seed)
        module = training.network.module
        assert isinstance(module, nn.Sequential)
        module.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
        return training

    members = [with_dropout(seed) for seed in (0, 1)]
    before = [state_of(member) for member in members]
    with pytest.raises(CannotStackError, match="random"):
        Stack(members)
    for member, expected in zip(members, before, strict=True):
        assert all(torch.equal(t, expected[name]) for name, t in state_of(member).items())
        member.train_until(1)


def test_half_precision_is_refused_on_processors(dataset: Dataset) -> None:
    members = [training_of(dataset, seed, precision="bfloat16") for seed in range(2)]
    with pytest.raises(CannotStackError, match="on processors autocast to bfloat16 does not reach"):
        Stack(members)


def test_batch_norms_of_a_stack_can_follow_convolutions_in_half_precision() -> None:
    # As autocast makes them on GPUs.
    images = torch.randn(2, 4, 3, 5, 5).bfloat16()
    layer = nn.BatchNorm2d(3)
    parameters = {
        name: torch.stack([p.detach()] * 2).requires_grad_() for name, p in layer.named_parameters()
    }
    buffers = {name: torch.stack([b] * 2) for name, b in layer.named_buffers()}

    def loss() -> torch.Tensor:
        def one(
            inputs: torch.Tensor, weights: dict[str, torch.Tensor], fixed: dict[str, torch.Tensor]
        ) -> torch.Tensor:
            return functional_call(layer, {**weights, **fixed}, (inputs,))

        normed = torch.vmap(one)(images, parameters, buffers)
        assert normed.dtype == torch.bfloat16, "as of a network alone"
        return normed.float().square().sum()

    with pytest.raises(RuntimeError, match=r"BFloat16.*Float"):
        torch.autograd.grad(loss(), list(parameters.values()))
    give_batch_norms_float32(nn.Sequential(layer))
    gradients = torch.autograd.grad(loss(), list(parameters.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_first_step_without_room_changes_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [training_of(dataset, seed) for seed in (0, 1)]
    stack = Stack(members)

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("too small")

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", full)
        with pytest.raises(torch.OutOfMemoryError):
            stack.take_step()
    stack.dissolve()
    for seed, member in enumerate(members):
        expected = training_of(dataset, seed)
        assert all(torch.equal(t, state_of(expected)[name]) for name, t in state_of(member).items())
        assert member.step == 0


def test_a_batch_of_one_says_what_to_do(dataset: Dataset) -> None:
    pixel = dataset.train.images[:][:, :, :1, :1]
    one = replace(dataset, train=replace(dataset.train, images=pixel))
    with pytest.raises(SpecError, match="must be at least 2 where batch norm"):
        Stack([training_of(one, seed, batch_size=1) for seed in (0, 1)])
