import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis.load import load_trials
from analysis.networks.batch_statistics import estimate_batch_norm
from analysis.networks.loss_line import (
    BETWEEN_SEEDS,
    FROM_START,
    LossLine,
    barrier_height,
    interpolated,
    line_alphas,
    line_images,
    loss_line,
    plan_lines,
)
from tests.conftest import tiny_trial
from tests.fake_records import FakeReader, small_study
from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network
from trainables.datasets.loading import Dataset, load_dataset
from trainables.objectives import Objective, build_objective
from trainables.scores import score
from trainables.training import Training

CPU = torch.device("cpu")
STAGES = (Stage("conv1", ("conv1",), "conv1"), Stage("head", ("head",), "head"))


class Plain(nn.Module):
    """Convolution, dropout, pooling, head; with batch norm if asked for."""

    def __init__(self, *, batch_norm: bool) -> None:
        super().__init__()
        norm = [nn.BatchNorm2d(8)] if batch_norm else []
        self.conv1 = nn.Sequential(nn.Conv2d(1, 8, 3), *norm, nn.ReLU())
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.conv1(images).mean((2, 3))))


def network_of(seed: int, *, batch_norm: bool = False) -> Network:
    torch.manual_seed(seed)
    return Network(Plain(batch_norm=batch_norm), STAGES)


def state_of(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.module.state_dict().items()}


def images(n: int, *, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def measure(network: Network, a, b, *, n: int = 90, alphas=None, batches=None) -> LossLine:
    return loss_line(
        network,
        a,
        b,
        calibration_batches=[images(16, seed=9), images(16, seed=8)] if batches is None else batches,
        images=images(n),
        labels=torch.arange(n) % 2,
        objective=build_objective("multiclass"),
        task="multiclass",
        alphas=alphas,
    )


def evaluated(network: Network, state) -> float:
    network.module.load_state_dict(state)
    network.module.eval()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(network.module(images(90)), torch.arange(90) % 2))


def at(line: LossLine, alpha: float) -> pd.Series:
    return line.points.set_index("alpha").loc[alpha]


def test_the_ends_are_the_networks_themselves():
    network, a, b = network_of(0), state_of(network_of(1)), state_of(network_of(2))
    line = measure(network, a, b)
    assert at(line, 0)["loss"] == pytest.approx(evaluated(network, a), rel=1e-6)
    assert at(line, 1)["loss"] == pytest.approx(evaluated(network, b), rel=1e-6)
    with torch.no_grad():
        scores = network.module(images(90)).double().softmax(1).numpy()
    expected = score("multiclass", scores, np.arange(90) % 2)
    assert at(line, 1)[["accuracy", "auroc"]].to_dict() == pytest.approx(
        {name: expected[name] for name in ("accuracy", "auroc")}
    )


def test_with_batch_norm_the_ends_have_statistics_of_the_calibration_images():
    network = network_of(0, batch_norm=True)
    a, b = (state_of(network_of(seed, batch_norm=True)) for seed in (1, 2))
    batches = [images(16, seed=9), images(16, seed=8)]
    line = measure(network, a, b, batches=batches)
    # By hand: means of the batch means and of the (unbiased) batch variances.
    network.module.load_state_dict(b)
    with torch.no_grad():
        outputs = [network.module.conv1[0](batch) for batch in batches]
    by_hand = b | {
        "conv1.1.running_mean": torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0),
        "conv1.1.running_var": torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0),
    }
    assert at(line, 1)["loss"] == pytest.approx(evaluated(network, by_hand), rel=1e-5)
    assert line.n_calibration == 32


def test_the_loss_of_a_quadratic_model_is_the_parabola():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            return self.head.weight.T.expand(len(images), 2) + 0 * self.body.weight

    stages = (Stage("body", ("body",), "body"), Stage("head", ("head",), "head"))
    squares = Objective(
        loss=lambda logits, _: (logits**2).sum(1).mean(),
        each=lambda logits, _: (logits**2).sum(1),
        weights=torch.ones_like,
        scores=lambda logits: logits.softmax(1),
    )
    network = Network(Constant(), stages)
    a, b = ({**state_of(network), "head.weight": torch.tensor(w)} for w in ([[3.0], [0.0]], [[0.0], [4.0]]))
    line = loss_line(
        network,
        a,
        b,
        calibration_batches=[],
        images=images(4),
        labels=torch.tensor([0, 1, 0, 1]),
        objective=squares,
        task="multiclass",
    )
    alphas = line.points["alpha"].to_numpy()
    np.testing.assert_allclose(line.points["loss"], 9 * (1 - alphas) ** 2 + 16 * alphas**2, rtol=1e-6)
    assert line.barrier == 0  # convex
    assert line.n_calibration == 0


def test_without_new_statistics_the_middle_collapses(monkeypatch):
    spec = tiny_trial()
    dataset = load_dataset(spec.dataset, data_root=None)
    trained = [trained_network(dataset, spec, seed) for seed in (0, 1)]
    network = build_network("cbr_tiny", n_outputs=2, channels=1)
    chosen = line_images(dataset, n_images=100, n_calibration=128, device=CPU)
    line = partial(
        loss_line,
        network,
        *trained,
        calibration_batches=chosen.calibration_batches,
        images=chosen.images,
        labels=chosen.labels,
        objective=build_objective(dataset.task),
        task=dataset.task,
        alphas=(0, 0.5, 1),
    )
    estimated = line()
    monkeypatch.setattr("analysis.networks.loss_line.estimate_batch_norm", lambda module, _: module.eval())
    interpolated_statistics = line()
    assert at(estimated, 0)["auroc"] > 0.95
    assert at(interpolated_statistics, 0.5)["loss"] > 1.2 * at(estimated, 0.5)["loss"]


def trained_network(dataset: Dataset, spec, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    network = build_network("cbr_tiny", n_outputs=2, channels=1)
    training = Training(network, dataset, spec.training, seed=seed, device=CPU)
    training.train_until(training.total_steps)
    return state_of(network)


def test_a_line_is_the_same_every_time_and_reversed_it_is_mirrored():
    network = network_of(0, batch_norm=True)
    a, b = (state_of(network_of(seed, batch_norm=True)) for seed in (1, 2))
    there, again, back = measure(network, a, b), measure(network, a, b), measure(network, b, a)
    pd.testing.assert_frame_equal(there.points, again.points)
    np.testing.assert_allclose(there.points["loss"], back.points["loss"][::-1], rtol=1e-5)


def test_the_network_is_given_back_as_it_was():
    network = network_of(0, batch_norm=True)
    network.module.train()
    network.module.dropout.eval()
    before, other = state_of(network), state_of(network_of(1, batch_norm=True))
    measure(network, before, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())
    assert network.module.training
    assert not network.module.dropout.training
    assert network.module.conv1[1].momentum == 0.1


def test_whole_numbers_are_not_interpolated():
    network = network_of(0, batch_norm=True)
    a, b = (state_of(network_of(seed, batch_norm=True)) for seed in (1, 2))
    a["conv1.1.num_batches_tracked"] += 5
    b["conv1.1.num_batches_tracked"] += 8
    mixed = interpolated(network.module, a, b, alpha=0.5)
    assert mixed["conv1.1.num_batches_tracked"].item() == 5
    torch.testing.assert_close(mixed["head.weight"], (a["head.weight"] + b["head.weight"]) / 2)
    assert torch.equal(interpolated(network.module, a, b, alpha=1)["head.weight"], b["head.weight"])
    torch.testing.assert_close(
        interpolated(network.module, a, b, alpha=-0.25)["head.weight"],
        1.25 * a["head.weight"] - 0.25 * b["head.weight"],
    )


def test_dropout_is_off_while_statistics_are_estimated():
    network = Network(
        nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1)),
        (Stage("norm", ("1",), "1"), Stage("head", ("2",), "2")),
    )
    estimate_batch_norm(network.module, [images(8), images(8, seed=1)])
    expected = (images(8).mean() + images(8, seed=1).mean()) / 2
    torch.testing.assert_close(network.module[1].running_mean, expected[None])
    assert network.module[1].num_batches_tracked.item() == 2
    assert not any(part.training for part in network.module.modules())


def test_points_hold_both_ends_whatever_their_number():
    assert line_alphas(2) == (-0.25, 0.0, 1.0, 1.25)
    assert len(line_alphas(13)) == 13
    assert {0.0, 1.0} <= set(line_alphas(26))


@pytest.mark.parametrize(("n_points", "low"), [(1, -0.25), (5, 0.1)])
def test_points_that_cannot_hold_both_ends_are_refused(n_points, low):
    with pytest.raises(ValueError, match="a range that holds 0 and 1"):
        line_alphas(n_points, low=low)


def test_the_barrier_is_the_excess_over_the_straight_line():
    alphas = np.array([-0.5, 0, 0.25, 0.5, 1, 1.5])
    assert barrier_height(alphas, np.array([99, 1, 1, 3.5, 2, 99])) == pytest.approx(2.0)
    assert barrier_height(alphas, np.array([99, 1, 1.25, 1.5, 2, 99])) == 0
    # Adding a straight line to the losses changes nothing.
    tilted = np.array([99, 1, 1, 3.5, 2, 99]) + 7 * alphas
    assert barrier_height(alphas, tilted) == pytest.approx(2.0)


def test_a_barrier_that_cannot_be_computed_is_nan():
    alphas = np.array([0, 0.5, 1])
    assert math.isnan(barrier_height(alphas, np.array([1, np.nan, 1])))
    assert math.isnan(barrier_height(alphas, np.array([np.inf, 1, 1])))
    assert math.isnan(barrier_height(np.array([0, 1]), np.array([1.0, 1.0])))
    assert barrier_height(alphas, np.array([1, np.inf, 1])) == math.inf
    with pytest.raises(ValueError, match="alpha 0 and alpha 1 once each"):
        barrier_height(alphas[:2], np.array([1.0, 1.0]))


def test_inputs_that_give_no_line_are_refused():
    plain, normed = network_of(0), network_of(0, batch_norm=True)
    state = state_of(normed)
    with pytest.raises(ValueError, match="from batches of at least 2 images, got no batch"):
        measure(normed, state, state, batches=[])
    with pytest.raises(ValueError, match=r"got batches of \[1\]"):
        measure(normed, state, state, batches=[images(1)])
    with pytest.raises(ValueError, match="expected images with a label each, got 0 images"):
        measure(plain, state_of(plain), state_of(plain), n=0)
    with pytest.raises(ValueError, match="expected 0 and 1, once each, among the alphas"):
        measure(plain, state_of(plain), state_of(plain), alphas=(0, 0.5))
    with pytest.raises(ValueError, match="is missing; the state dict is of another network"):
        measure(normed, state, state_of(plain))


def test_metrics_that_are_not_defined_are_nan():
    network = network_of(0)
    state = state_of(network)
    state["head.weight"] = state["head.weight"] * math.inf
    line = measure(network, state_of(network), state, alphas=(0, 1))
    assert at(line, 1).isna().all()
    one_class = measure(network, state_of(network), state_of(network), n=1, alphas=(0, 1))
    assert math.isnan(at(one_class, 0)["auroc"])
    assert at(one_class, 0)["loss"] > 0


def test_the_images_of_a_line_are_seeded_and_batches_are_whole():
    dataset = load_dataset(tiny_trial().dataset, data_root=None)
    draw = partial(line_images, dataset, n_images=20, n_calibration=50, batch_size=16, device=CPU)
    one, same, other = draw(), draw(), draw(seed=1)
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert [len(batch) for batch in one.calibration_batches] == [16, 16, 16]
    assert one.images.shape == (20, 1, 16, 16)
    assert len(one.labels) == 20
    everything = line_images(dataset, n_images=10**6, device=CPU)
    assert len(everything.images) == len(dataset.test.labels)


def test_few_lines_are_planned_of_each_cell():
    finished = load_trials(FakeReader(small_study(inits=("random", "pretrained"))), "fake").finished
    planned = plan_lines(finished)
    lines = [(c.kind, c.x.init, c.x.seed, c.x.checkpoint, c.y.seed, c.y.checkpoint) for c in planned]
    assert lines == [
        (kind, init, 0, checkpoint, seed, "final")
        for init in ("random", "pretrained")
        for kind, checkpoint, seed in ((FROM_START, "initial", 0), (BETWEEN_SEEDS, "final", 1))
    ]
    assert [c.kind for c in plan_lines(finished[finished["seed"] == 2])] == [FROM_START] * 2
    assert plan_lines(finished.assign(protocol="trains head")) == []
