"""Trees on pixels: scores as networks give them, for every kind of task."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from trainables.architectures.catalog import ARCHITECTURES
from trainables.baselines import BASELINES, fit_baseline
from trainables.datasets.loading import Dataset, Split, load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import UNKNOWN
from trainables.errors import DataError


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    spec = DatasetSpec(reader="digits", classes=("3", "5", "8"), size_px=16)
    loaded = load_dataset(spec, data_root=None)
    return replace(loaded, train=chosen(loaded.train, slice(0, 120)), test=chosen(loaded.test, slice(0, 60)))


def chosen(split: Split, rows: slice | np.ndarray) -> Split:
    return Split(split.images[rows], split.labels[rows], split.sample_ids[rows], split.groups[rows])


def flat(split: Split) -> np.ndarray:
    return np.asarray(split.images).reshape(len(split.images), -1)


def with_marks(dataset: Dataset) -> Dataset:
    """The task as three labels, some of whose training marks are not known."""
    marks = np.eye(3, dtype=np.uint8)[dataset.train.labels]
    marks[::4, 2] = UNKNOWN
    return replace(dataset, task="multilabel", train=replace(dataset.train, labels=marks))


@pytest.mark.parametrize("name", BASELINES)
class TestEveryBaseline:
    @pytest.mark.parametrize("task", ["multiclass", "ordinal", "multilabel"])
    def test_scores_are_probabilities_that_tell_the_classes_apart(self, dataset, name, task):
        target = with_marks(dataset) if task == "multilabel" else replace(dataset, task=task)
        scores = fit_baseline(name, target, seed=0, threads=1).scores(dataset.test)
        assert scores.shape == (60, 3)
        assert scores.dtype == np.float64
        assert scores.min() >= 0
        assert scores.max() <= 1
        if task != "multilabel":
            np.testing.assert_allclose(scores.sum(1), 1)
        assert (scores.argmax(1) == dataset.test.labels).mean() > 0.7

    def test_depends_on_the_seed_and_not_on_the_threads(self, dataset, name):
        def scores(seed: int, threads: int) -> np.ndarray:
            return fit_baseline(name, dataset, seed=seed, threads=threads).scores(dataset.test)

        once = scores(0, 1)
        assert np.array_equal(once, scores(0, 2))
        assert not np.array_equal(once, scores(1, 1))

    def test_class_that_training_lacks_is_scored_zero_in_its_own_column(self, dataset, name):
        lacking = replace(dataset, train=chosen(dataset.train, dataset.train.labels != 1))
        scores = fit_baseline(name, lacking, seed=0, threads=1).scores(dataset.test)
        assert scores.shape == (60, 3)
        assert not scores[:, 1].any()
        seen = dataset.test.labels != 1
        assert (scores.argmax(1) == dataset.test.labels)[seen].mean() > 0.8

    def test_label_is_fitted_on_its_known_marks_alone(self, dataset, name):
        marked = with_marks(dataset)
        known = marked.train.labels[:, 2] != UNKNOWN
        alone = replace(
            marked,
            classes=("8",),
            train=replace(chosen(marked.train, known), labels=marked.train.labels[known, 2:]),
        )
        together, single = (
            fit_baseline(name, task, seed=0, threads=1).scores(dataset.test) for task in (marked, alone)
        )
        assert np.array_equal(together[:, 2], single[:, 0])

    @pytest.mark.parametrize("mark", [0, 1])
    def test_label_that_is_always_the_same_is_scored_so(self, dataset, name, mark):
        labels = np.stack([np.full(120, mark), dataset.train.labels == 0], axis=1).astype(np.uint8)
        task = replace(
            dataset, task="multilabel", classes=("a", "b"), train=replace(dataset.train, labels=labels)
        )
        scores = fit_baseline(name, task, seed=0, threads=1).scores(dataset.test)
        assert (scores[:, 0] == mark).all()
        assert 0 < scores[:, 1].mean() < 1

    def test_label_without_a_known_mark_is_refused(self, dataset, name):
        marked = with_marks(dataset)
        marked.train.labels[:, 2] = UNKNOWN
        with pytest.raises(DataError) as caught:
            fit_baseline(name, marked, seed=0, threads=1)
        assert str(caught.value) == (
            f"{name}: 8 must have a known mark in the training split, got none; "
            "leave it out of dataset.classes"
        )


def test_settings_are_scikit_learns_own(dataset):
    for name, build in {
        "decision_tree": DecisionTreeClassifier,
        "random_forest": RandomForestClassifier,
    }.items():
        (fitted,) = fit_baseline(name, dataset, seed=5, threads=1).classifiers
        different = {
            key for key, value in fitted.get_params().items() if value != build().get_params()[key]
        } - {"n_jobs"}
        assert different == {"random_state"}
        expected = build(random_state=5).fit(flat(dataset.train), dataset.train.labels)
        found = fit_baseline(name, dataset, seed=5, threads=1).scores(dataset.test)
        assert np.array_equal(found, expected.predict_proba(flat(dataset.test)))


@pytest.mark.parametrize("is_multilabel", [False, True])
def test_balanced_classes_weigh_alike_however_many_samples_they_have(dataset, is_multilabel):
    """Splitting on weighted counts, a tree of unlimited depth sees a repeated class no more often."""
    task = with_marks(dataset) if is_multilabel else dataset
    rows = np.arange(len(task.train.labels))
    is_third = dataset.train.labels == 2
    repeated = replace(task, train=chosen(task.train, np.concatenate([rows, rows[is_third], rows[is_third]])))

    def weights(task: Dataset) -> np.ndarray:
        fitted = fit_baseline("decision_tree", task, seed=0, threads=1, class_weights="balanced")
        return np.concatenate([tree.tree_.value[0].ravel() for tree in fitted.classifiers])

    np.testing.assert_allclose(weights(repeated), weights(task))
    np.testing.assert_allclose(weights(task), 1 / 2 if is_multilabel else 1 / 3)


def test_every_catalog_entry_that_is_no_network_is_a_baseline():
    assert {name for name, entry in ARCHITECTURES.items() if not entry.is_network} == set(BASELINES)


def test_unknown_baseline_names_the_known_ones(dataset):
    with pytest.raises(
        ValueError, match=r"^baseline must be one of 'decision_tree', 'random_forest', got 'tree'"
    ):
        fit_baseline("tree", dataset, seed=0, threads=1)
