"""The probe of a network: its head is the regression, its backbone stays, and the network itself predicts."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from trainables.architectures.architecture import Stage
from trainables.architectures.stages import Network, build_network
from trainables.datasets.loading import Dataset, load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import UNKNOWN
from trainables.errors import SpecError
from trainables.linear_probe import LinearProbe, fit_linear_probe
from trainables.spec import TrainingSpec
from trainables.training import Training


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    loaded = load_dataset(DatasetSpec(reader="digits", classes=("3", "5", "8"), size_px=16), data_root=None)
    return replace(loaded, train=replace_split(loaded.train, 90), val=replace_split(loaded.val, 60))


def replace_split(split, n: int):
    return replace(
        split,
        images=split.images[:n],
        labels=split.labels[:n],
        sample_ids=split.sample_ids[:n],
        groups=split.groups[:n],
    )


def small_network(n_outputs: int) -> Network:
    """A convolution, a batch norm with statistics of its own, and a linear head behind a dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = OrderedDict(
            conv=nn.Conv2d(1, 6, 5, stride=2),
            bn=nn.BatchNorm2d(6),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flatten=nn.Flatten(),
            head=nn.Sequential(nn.Dropout(0.5), nn.Linear(24, n_outputs)),
        )
    layers["bn"].running_mean.fill_(0.1)
    stages = (Stage("conv1", ("conv", "bn"), "relu"), Stage("head", ("head",), "head"))
    return Network(nn.Sequential(layers), stages)


def training_of(dataset: Dataset, network: Network | None = None) -> Training:
    network = network or small_network(dataset.n_outputs)
    return Training(network, dataset, TrainingSpec(method="linear_probe"), seed=0, device=torch.device("cpu"))


def features(training: Training, name: str) -> np.ndarray:
    """What enters the head, computed without hooks."""
    backbone = training.network.module[:-1].eval()
    images = torch.from_numpy(np.array(getattr(training.dataset, name).images)).float() / 255
    mean, sd = (torch.tensor(v).view(1, -1, 1, 1) for v in (training.dataset.mean, training.dataset.sd))
    with torch.no_grad():
        return backbone((images - mean) / sd).double().numpy()


def test_head_is_the_regression_on_training_and_validation_features_and_the_network_predicts(dataset):
    training = training_of(dataset)
    probe = fit_linear_probe(training, metric="val_accuracy")
    x = np.concatenate([features(training, "train"), features(training, "val")])
    y = np.concatenate([dataset.train.labels, dataset.val.labels])
    expected = LogisticRegression(C=1 / probe.l2, tol=1e-10, max_iter=50_000).fit(x, y)
    np.testing.assert_allclose(
        training.predict(dataset.test), expected.predict_proba(features(training, "test")), atol=2e-3
    )
    assert probe.is_converged
    assert (expected.score(features(training, "test"), dataset.test.labels)) > 0.6


def test_validation_scores_are_of_the_fit_that_has_not_seen_them(dataset):
    training = training_of(dataset)
    probe = fit_linear_probe(training, metric="val_auroc")
    expected = LogisticRegression(C=1 / probe.l2, tol=1e-10, max_iter=50_000).fit(
        features(training, "train"), dataset.train.labels
    )
    unseen = expected.predict_proba(features(training, "val"))
    np.testing.assert_allclose(probe.val_scores, unseen, atol=2e-3)
    assert np.abs(training.predict(dataset.val) - unseen).max() > 0.01
    accuracy = (unseen.argmax(1) == dataset.val.labels).mean()
    assert probe.val_metrics["val_accuracy"] == pytest.approx(accuracy, abs=0.02)


@pytest.mark.parametrize("metric", ["val_auroc", "val_accuracy", "val_loss"])
def test_selected_penalty_is_best_by_the_metric_among_some_of_the_grid(dataset, metric):
    def value(fitted: LogisticRegression) -> float:
        scores = fitted.predict_proba(features(training, "val"))
        labels = dataset.val.labels
        if metric == "val_accuracy":
            return float((scores.argmax(1) == labels).mean())
        return float(np.log(scores[np.arange(len(labels)), labels]).mean())

    training = training_of(dataset)
    probe = fit_linear_probe(training, metric=metric)
    if metric == "val_auroc":
        assert probe.val_metrics["val_auroc"] > 0.8
        return
    others = [
        LogisticRegression(C=1 / l2, max_iter=20_000).fit(features(training, "train"), dataset.train.labels)
        for l2 in (1e4, 10.0, 1.0, 1e-2)
    ]
    sign = -1 if metric == "val_loss" else 1
    assert sign * probe.val_metrics[metric] >= max(map(value, others)) - 1e-3


def test_backbone_and_its_running_statistics_stay_as_they_were(dataset):
    training = training_of(dataset)
    before = {key: value.clone() for key, value in training.network.module.state_dict().items()}
    fit_linear_probe(training, metric="val_auroc")
    moved = {key for key, v in training.network.module.state_dict().items() if not v.equal(before[key])}
    assert moved == {"head.1.weight", "head.1.bias"}


def test_probe_does_not_depend_on_the_heads_random_weights(dataset):
    def probe_with_head_of(seed: int) -> tuple[LinearProbe, Tensor]:
        training = training_of(dataset)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            training.network.module.head[1].reset_parameters()
        return fit_linear_probe(training, metric="val_loss"), training.network.module.head[1].weight

    (one, weight), (other, other_weight) = probe_with_head_of(1), probe_with_head_of(2)
    assert one.l2 == other.l2
    assert weight.equal(other_weight)


def test_multilabel_probe_leaves_unknown_marks_out(dataset):
    def marked(split, *, hidden: bool):
        marks = np.eye(3, dtype=np.uint8)[split.labels]
        if hidden:
            marks[::3, 1] = UNKNOWN
        return replace(split, labels=marks)

    def probe(hidden: bool) -> tuple[LinearProbe, Training]:
        parts = {name: marked(getattr(dataset, name), hidden=hidden) for name in ("train", "val", "test")}
        training = training_of(replace(dataset, task="multilabel", **parts))
        return fit_linear_probe(training, metric="val_loss"), training

    masked, training = probe(hidden=True)
    known = np.arange(90) % 3 != 0, np.arange(60) % 3 != 0
    x = np.concatenate([features(training, "train")[known[0]], features(training, "val")[known[1]]])
    y = np.concatenate([dataset.train.labels[known[0]], dataset.val.labels[known[1]]]) == 1
    expected = LogisticRegression(C=1 / masked.l2, tol=1e-10, max_iter=50_000).fit(x, y)
    predicted = training.predict(dataset.test)[:, 1]
    np.testing.assert_allclose(predicted, expected.predict_proba(features(training, "test"))[:, 1], atol=5e-3)


def test_head_of_a_catalog_network_is_found(dataset):
    network = build_network("cbr_tiny", n_outputs=3, channels=1)
    training = training_of(dataset, network)
    before = network.module.head.weight.clone()
    fit_linear_probe(training, metric="val_loss")
    assert not network.module.head.weight.equal(before)


def test_head_without_a_bias_is_refused(dataset):
    network = small_network(3)
    network.module.head[1].bias = None
    with pytest.raises(SpecError, match=r"one linear layer with a bias, got 1 with weights \(Linear\); use"):
        fit_linear_probe(training_of(dataset, network), metric="val_auroc")


def deep_head() -> Network:
    plain = small_network(3)
    module = nn.Sequential(OrderedDict(plain.module.named_children()))
    module.head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))
    return Network(module, plain.stages)


def test_head_of_several_layers_is_refused_where_the_catalog_does_not_know_it(dataset):
    with pytest.raises(SpecError) as caught:
        fit_linear_probe(training_of(dataset, deep_head()), metric="val_auroc")
    assert str(caught.value) == (
        "training.method linear_probe: the head must be one linear layer with a bias, got 2 with "
        "weights (Linear, Linear); use another network"
    )


@pytest.mark.parametrize("metric", ["val_auroc", "val_kappa"])
def test_metric_that_validation_does_not_define_is_refused(dataset, metric):
    lone = dataset.val.labels == 0
    val = replace(
        dataset.val,
        images=dataset.val.images[lone],
        labels=dataset.val.labels[lone],
        sample_ids=dataset.val.sample_ids[lone],
        groups=dataset.val.groups[lone],
    )
    with pytest.raises(SpecError) as caught:
        fit_linear_probe(training_of(replace(dataset, val=val)), metric=metric)
    assert str(caught.value) == (
        f"training.selection_metric {metric} must be defined on the validation split, got nan for every "
        "penalty (a class may be missing there); use val_loss, or a larger dataset.validation_fraction"
    )
