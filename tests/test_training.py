"""The training loop on real digits: reproducible, resumable to the bit, and honest about NaN."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conftest import tiny_trial
from trainables import training as training_module
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network
from trainables.architectures.stages import build_network as build
from trainables.checkpoints import Contents, read_checkpoint, write_checkpoint
from trainables.datasets.loading import Dataset, Split, load_dataset
from trainables.errors import NotFiniteError, SpecError
from trainables.schedules import evaluation_steps, learning_rate
from trainables.seeding import seeded
from trainables.selection import Selection
from trainables.spec import EvaluationSpec, TrainingSpec, parse_trial
from trainables.training import Training

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny_trial().dataset, data_root=None)


def training_spec(**changes: object) -> TrainingSpec:
    content = {"steps": 12, "batch_size": 16, "evaluation": {"points": 4}, **changes}
    return parse_trial(
        {"architecture": "cbr_tiny", "dataset": {"reader": "digits"}, "training": content}
    ).training


def make_training(dataset: Dataset, *, seed: int = 0, **changes: object) -> Training:
    with seeded(seed, "weights"):
        network = build("cbr_tiny", n_outputs=dataset.n_outputs, channels=1)
    return Training(network, dataset, training_spec(**changes), seed=seed, device=CPU)


def run_to_end(training: Training, *, pause: Callable[[], bool] = lambda: False) -> list[dict[str, float]]:
    metrics = []
    for step in evaluation_steps(training.spec.evaluation, training.total_steps):
        if step < training.step or (step == training.step and step > 0):
            continue
        while not training.train_until(step, pause=pause):
            pass
        metrics.append(training.evaluate())
    return metrics


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.network.module.parameters()])


def without_time(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "train_seconds"} for row in metrics]


RECIPES: dict[str, dict[str, object]] = {
    "momentum": {},
    "in parts": {"micro_batch_size": 5, "gradient_clip": 0.5},
    "frozen": {"trainable": "first_last"},
    "half precision": {"precision": "bfloat16"},
    "everything drawn": {"augment": {"crop_area": [0.5, 1.0], "rotation_degrees": 10.0, "brightness": 0.2}},
    "balanced": {"class_weights": "balanced", "batch_norm_momentum": 0.8},
    "adam": {"optimizer": {"kind": "adam", "lr": 0.001}},
    "augmented": {"augment": {"horizontal_flip": True, "shift_px": 2}},
    "scheduled": {"schedule": {"kind": "step", "warmup_epochs": 0.2, "milestones_epochs": [0.5]}},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_seeds_give_bit_equal_weights_and_other_seeds_do_not(dataset: Dataset, recipe: str) -> None:
    first, second, other = (make_training(dataset, seed=seed, **RECIPES[recipe]) for seed in (0, 0, 1))
    metrics = [run_to_end(training) for training in (first, second, other)]
    assert torch.equal(weights(first), weights(second))
    assert without_time(metrics[0]) == without_time(metrics[1])
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_resumed_training_equals_uninterrupted_training(
    dataset: Dataset, recipe: str, stop_at: int, tmp_path: Path
) -> None:
    straight = make_training(dataset, **RECIPES[recipe])
    expected = run_to_end(straight)
    stopped = make_training(dataset, **RECIPES[recipe])
    metrics = []
    for step in evaluation_steps(stopped.spec.evaluation, stopped.total_steps):
        if step > stop_at:
            break
        stopped.train_until(step)
        metrics.append(stopped.evaluate())
    stopped.train_until(stop_at)
    state = stopped.take_state()
    sha256 = write_checkpoint(tmp_path / "state", state.tensors, facts=state.facts)
    resumed = make_training(dataset, seed=0, **RECIPES[recipe])
    torch.rand(7)  # the global generator is elsewhere
    resumed.restore_state(read_checkpoint(tmp_path / "state", sha256=sha256))
    metrics += run_to_end(resumed)
    assert torch.equal(weights(resumed), weights(straight))
    assert without_time(metrics) == without_time(expected)
    assert resumed.selection.step == straight.selection.step


def test_pauses_change_nothing(dataset: Dataset) -> None:
    straight, paused = make_training(dataset), make_training(dataset)
    assert without_time(run_to_end(straight)) == without_time(run_to_end(paused, pause=lambda: True))
    assert torch.equal(weights(straight), weights(paused))


def test_an_epoch_sees_every_sample_at_most_once_and_epochs_differ(dataset: Dataset) -> None:
    training = make_training(dataset, epochs=2, steps=None)
    seen = [training.batches.draw(step).chosen for step in range(2 * training.steps_per_epoch)]
    first, second = (
        np.concatenate(seen[i * training.steps_per_epoch : (i + 1) * training.steps_per_epoch])
        for i in range(2)
    )
    assert len(set(first)) == len(first) == training.steps_per_epoch * 16
    assert first.tolist() != second.tolist()


def test_training_learns_the_digits(dataset: Dataset) -> None:
    metrics = run_to_end(make_training(dataset, steps=30))
    assert metrics[-1]["val_auroc"] > 0.97 > metrics[0]["val_auroc"]
    assert metrics[-1]["images_seen"] == 30 * 16


def test_evaluation_does_not_move_the_weights_or_the_batch_statistics(dataset: Dataset) -> None:
    training = make_training(dataset)
    before = {k: v.clone() for k, v in training.network.module.state_dict().items()}
    training.evaluate()
    assert all(torch.equal(before[k], v) for k, v in training.network.module.state_dict().items())


def test_a_loss_that_is_not_finite_stops_at_its_step(dataset: Dataset) -> None:
    training = make_training(dataset, optimizer={"kind": "sgd", "lr": 0.1})

    calls = iter(range(1, 100))

    def poison(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if next(calls) >= 4 else output

    training.network.module.get_submodule("gap").register_forward_hook(poison)
    with pytest.raises(
        NotFiniteError, match=r"train_loss became nan at step 4 \(lr=0.1\); the trial is marked failed"
    ):
        training.train_until(12)


def test_the_best_weights_are_those_of_the_best_evaluation(dataset: Dataset) -> None:
    network = make_training(dataset).network
    selection = Selection("val_auroc")
    for step, value in enumerate([0.5, 0.9, float("nan"), 0.7]):
        with torch.no_grad():
            next(network.module.parameters()).fill_(float(step))
        selection.consider(value, step, network, min_delta=0.0)
    assert (selection.step, selection.value, selection.evaluations_since) == (1, 0.9, 2)
    assert next(iter(selection.weights.values())).unique().tolist() == [1.0]


def test_a_small_improvement_is_kept_but_does_not_restart_the_patience(dataset: Dataset) -> None:
    network = make_training(dataset).network
    selection = Selection("val_loss")
    seen = []
    for step, loss in enumerate([1.0, 0.95, 0.92, 0.8, 2.0]):
        is_better = selection.consider(loss, step, network, min_delta=0.1)
        seen.append((is_better, selection.step, selection.evaluations_since))
    assert seen == [(True, 0, 0), (True, 1, 1), (True, 2, 2), (True, 3, 0), (False, 3, 1)]


def test_early_stopping_waits_for_its_patience(dataset: Dataset) -> None:
    training = make_training(dataset, early_stopping={"patience": 2})
    training.selection.evaluations_since = 1
    assert not training.should_stop_early
    training.selection.evaluations_since = 2
    assert training.should_stop_early
    assert not make_training(dataset).should_stop_early


@given(total=st.integers(0, 100_000), points=st.integers(1, 60), spacing=st.sampled_from(["log", "linear"]))
def test_evaluations_include_the_start_and_the_end_and_ascend(total: int, points: int, spacing: str) -> None:
    steps = evaluation_steps(EvaluationSpec(points=points, spacing=spacing), total)  # type: ignore[arg-type]
    assert steps[0] == 0
    assert steps[-1] == total
    assert list(steps) == sorted(set(steps))
    assert len(steps) <= points + 1


def test_log_spaced_evaluations_are_dense_early() -> None:
    assert evaluation_steps(EvaluationSpec(points=5), 10_000) == (0, 1, 10, 100, 1000, 10_000)
    assert evaluation_steps(EvaluationSpec(points=1), 10_000) == (0, 10_000)
    assert evaluation_steps(EvaluationSpec(points=4, spacing="linear"), 100) == (0, 25, 50, 75, 100)


def test_the_chexpert_schedule_of_the_paper() -> None:
    # papers: linear warm-up from 0 to 0.1·32/256 over 5 epochs, then /10 at epochs 30, 60 and 90.
    spec = training_spec(
        epochs=100,
        steps=None,
        optimizer={"kind": "sgd", "lr": 0.0125},
        schedule={"kind": "step", "warmup_epochs": 5, "milestones_epochs": [30, 60, 90]},
    )

    def rate(epoch: float) -> float:
        return learning_rate(spec, round(epoch * 1000), steps_per_epoch=1000, total_steps=100_000)

    assert rate(0) == pytest.approx(0.0125 / 5000)
    assert rate(2.5) == pytest.approx(0.0125 / 2, rel=1e-3)
    assert [rate(e) for e in (5, 29.9, 30, 60, 90)] == pytest.approx(
        [0.0125, 0.0125, 1.25e-3, 1.25e-4, 1.25e-5]
    )


def test_a_cosine_ends_near_zero() -> None:
    spec = training_spec(schedule={"kind": "cosine"}, optimizer={"kind": "sgd", "lr": 1.0})
    rates = [learning_rate(spec, step, steps_per_epoch=10, total_steps=100) for step in (0, 50, 99)]
    assert rates == pytest.approx([1.0, 0.5, 0.000247], abs=1e-6)


def test_a_state_holds_no_hyper_parameters(dataset: Dataset) -> None:
    state = make_training(dataset).take_state()
    assert isinstance(state, Contents)
    assert "lr" not in str(state.facts)


def without_batch_norm(training: Training) -> None:
    """Let batch norms use their running statistics, which do not depend on the batch."""

    def freeze_statistics(norm: nn.Module, _inputs: object) -> None:
        norm.eval()

    for module in training.network.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(freeze_statistics)


@pytest.mark.parametrize("size", [1, 5, 8])
def test_in_parts_the_gradient_is_that_of_the_whole_batch(dataset: Dataset, size: int) -> None:
    whole = make_training(dataset, class_weights="balanced")
    parts = make_training(dataset, class_weights="balanced", micro_batch_size=size)
    for training in (whole, parts):
        without_batch_norm(training)
        training.train_until(3)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-6)
    assert parts.evaluate()["train_loss"] == pytest.approx(whole.evaluate()["train_loss"], rel=1e-5)


def test_micro_batches_differ_by_one_sample_at_most(dataset: Dataset) -> None:
    training = make_training(dataset, batch_size=9, micro_batch_size=4)
    sizes: list[int] = []
    training.network.module.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    training.train_until(1)
    assert sizes == [3, 3, 3]


def test_batch_norm_of_a_lone_value_says_what_to_change(dataset: Dataset) -> None:
    training = make_training(dataset, batch_size=1)
    size = dataset.train.images.shape[-1]
    training.network.module.conv1.register_forward_pre_hook(
        lambda _module, inputs: (nn.functional.avg_pool2d(inputs[0], size),)
    )
    with pytest.raises(
        SpecError, match=r"^training.batch_size and micro_batch_size must be at least 2 where"
    ):
        training.train_until(1)


def test_large_images_are_scored_in_smaller_batches(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_training(dataset).evaluate()
    pixels = dataset.val.images[0][0].size
    monkeypatch.setattr(training_module, "MOST_PIXELS", 10 * pixels + 1)
    training = make_training(dataset)
    sizes: list[int] = []
    training.network.module.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    assert training.evaluate()["val_loss"] == pytest.approx(whole["val_loss"])
    assert set(sizes[:-1]) == {10}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "val_auroc",
            "must be defined on the validation split, got nan .a class, or all others, may be miss",
        ),
        ("val_kappa", "is not defined for this task; take one of .*val_loss"),
    ],
)
def test_a_metric_that_chooses_nothing_is_refused(dataset: Dataset, metric: str, message: str) -> None:
    """Otherwise the first evaluation, that of the untrained network, would be tested."""
    val = replace(dataset.val, labels=np.zeros_like(dataset.val.labels))
    training = make_training(replace(dataset, val=val), selection_metric=metric)
    with pytest.raises(SpecError, match=rf"^training.selection_metric {metric} {message}"):
        training.evaluate()


def test_a_clipped_gradient_is_no_longer_than_asked_for(dataset: Dataset) -> None:
    training = make_training(dataset, gradient_clip=0.01)
    norms = []
    step = training.optimizer.step

    def noting(*arguments: object) -> None:
        gradients = [p.grad for p in training.network.module.parameters() if p.grad is not None]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        step(*arguments)

    training.optimizer.step = noting  # type: ignore[method-assign]
    training.train_until(3)
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_kept_statistics_are_the_complement_of_torchs_momentum(dataset: Dataset) -> None:
    training = make_training(dataset, batch_norm_momentum=0.75)
    momenta = {m.momentum for m in training.network.module.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.25}


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [
        ("all", ["conv1", "conv2", "conv3", "conv4", "head"]),
        ("head", ["head"]),
        ("first", ["conv1", "head"]),
        ("first_last", ["conv1", "conv4", "head"]),
        ({"first": 0, "last": 2}, ["conv3", "conv4", "head"]),
    ],
)
@pytest.mark.parametrize("statistics", ["fixed", "updated"])
def test_only_what_is_trainable_moves(
    dataset: Dataset, trainable: object, moved: list[str], statistics: str
) -> None:
    spec = training_spec(trainable=trainable).trainable.model_copy(update={"frozen_statistics": statistics})
    training = make_training(dataset, trainable=spec.model_dump(), optimizer={"lr": 0.1, "weight_decay": 0.1})
    before = {key: value.clone() for key, value in training.network.module.state_dict().items()}
    run_to_end(training)
    network = training.network

    def changed(stage: str, *, running: bool) -> bool:
        state = network.stage_state(stage)
        statistics = {key for key in state if key.endswith(("_mean", "_var", "_tracked"))}
        keys = statistics if running else state.keys() - statistics
        return any(not torch.equal(state[key], before[key]) for key in keys)

    assert [stage.name for stage in network.stages if changed(stage.name, running=False)] == moved
    of_statistics = [name for name in network.backbone if changed(name, running=True)]
    expected = network.backbone if statistics == "updated" else [n for n in network.backbone if n in moved]
    assert of_statistics == list(expected)


def test_weights_stay_in_full_precision(dataset: Dataset) -> None:
    half, full = make_training(dataset, precision="bfloat16"), make_training(dataset)
    for training in (half, full):
        run_to_end(training)
    assert {value.dtype for value in half.network.module.parameters()} == {torch.float32}
    difference = (weights(half) - weights(full)).abs().max()
    assert 0 < float(difference) < 0.05


def test_evaluation_has_the_precision_of_the_training(dataset: Dataset) -> None:
    half, full = make_training(dataset, precision="bfloat16"), make_training(dataset)
    (of_half, _), (of_full, _) = half.logits(dataset.val), full.logits(dataset.val)
    assert of_half.dtype == torch.float32
    assert 0 < float((of_half - of_full).abs().max()) < 0.05


def test_colours_change_before_normalisation(dataset: Dataset) -> None:
    images, _ = make_training(dataset, augment={"brightness": 0.5}).batches.at(0)
    pixels = images * dataset.sd[0] + dataset.mean[0]
    # Black stays black under every brightness.
    assert float(pixels.flatten(1).amin(1).abs().max()) < 1e-6
    assert float(pixels.max()) <= 1 + 1e-6


def test_balanced_classes_have_equal_parts_in_the_loss(dataset: Dataset) -> None:
    labels = dataset.train.labels
    kept = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:20]])
    train = Split(*(getattr(dataset.train, f.name)[kept] for f in fields(Split)))
    unequal = replace(dataset, train=train)
    zeros, ones = (torch.from_numpy(train.labels[train.labels == k]) for k in (0, 1))
    assert len(zeros) > 2 * len(ones)
    balanced = make_training(unequal, class_weights="balanced").objective
    assert float(balanced.weight(zeros)) == pytest.approx(float(balanced.weight(ones)), rel=1e-5)
    assert make_training(unequal).objective.weight(zeros) == len(zeros)


def test_images_are_drawn_in_proportion_to_their_weights(dataset: Dataset) -> None:
    n_train = len(dataset.train.labels)
    sample_weights = np.where(dataset.train.labels == 1, 3.0, 1.0)
    sample_weights[0] = 0.0
    with seeded(0, "weights"):
        network = build("cbr_tiny", n_outputs=dataset.n_outputs, channels=1)
    training = Training(network, dataset, training_spec(), seed=0, device=CPU, sample_weights=sample_weights)
    drawn = np.concatenate([training.batches.order(epoch) for epoch in range(200)])
    assert len(training.batches.order(0)) == n_train
    assert not np.array_equal(training.batches.order(0), training.batches.order(1))
    shares = np.bincount(drawn, minlength=n_train) / len(drawn)
    assert shares[0] == 0
    expected = sample_weights / sample_weights.sum()
    sd = np.sqrt(expected / len(drawn))
    assert (np.abs(shares - expected) <= 6 * sd + 1e-12).all()


class TwoHeads(nn.Module):
    """Returns what a network with an auxiliary head does: two logits while it trains, one otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.LazyLinear(8))
        self.head, self.side = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        features = self.body(images)
        return (self.head(features), self.side(features)) if self.training else self.head(features)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_an_auxiliary_head_takes_part_in_the_loss_by_its_weight(dataset: Dataset, weight: float) -> None:
    module = TwoHeads()
    module(torch.zeros(1, 1, dataset.train.images.shape[2], dataset.train.images.shape[3]))
    stages = (Stage("conv1", ("body",), "body"), Stage("head", ("head", "side"), "head"))
    training = Training(
        Network(module, stages, auxiliary_weight=weight), dataset, training_spec(), seed=0, device=CPU
    )
    images, labels = training.batches.at(training.step)
    module.train()
    main, side = module(images)
    expected = training.objective.loss(main, labels) + weight * training.objective.loss(side, labels)
    torch.testing.assert_close(training.loss_of(training.forward(images), labels), expected)
    before = module.side.weight.detach().clone()
    training.train_until(1)
    assert torch.equal(module.side.weight, before) == (weight == 0)
    assert set(training.evaluate()) >= {"val_auroc", "train_loss"}
