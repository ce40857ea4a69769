"""Predictions as arrays: they score like the trial did, in whatever order they were stored."""

import numpy as np
import pandas as pd
import pytest

from analysis.numerics.resampling import resample_metrics
from analysis.predictions import (
    Predictions,
    align,
    decided_columns,
    ensemble,
    ensemble_metrics,
    load_predictions,
    metrics,
    ranked_columns,
    read_predictions,
)
from tests.fake_records import FakeReader, record_of, spec_of
from trainables.datasets.loading import Dataset, Split
from trainables.datasets.table import UNKNOWN
from trainables.errors import CheckpointError
from trainables.predictions import record_predictions

CASES = {"two classes": 2, "several classes": 4, "grades": 5, "labels": 3}


class Writer:
    """Keeps what a trial logs."""

    def __init__(self) -> None:
        self.tables: dict[str, pd.DataFrame] = {}

    def log_predictions(self, split: str, table: pd.DataFrame) -> None:
        self.tables[split] = table


def stored(case: str, *, n: int = 60, seed: int = 0):
    """Return predictions as a trial stores them, the metrics it logs, and the grade of its dataset."""
    k = CASES[case]
    rng = np.random.default_rng(seed)
    data = np.random.default_rng(99)
    labels: np.ndarray = data.permutation(np.arange(n) % k)
    scores = np.round(rng.dirichlet(np.ones(k), n) + 0.3 * np.eye(k)[labels], 2) / 1.3
    grade = 2 if case == "grades" else None
    task = {"grades": "ordinal", "labels": "multilabel"}.get(case, "multiclass")
    if case == "labels":
        labels = data.choice([0, 1, UNKNOWN], size=(n, k), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    ids, groups = (np.array([f"{kind}{i // size}" for i in range(n)]) for kind, size in (("s", 1), ("p", 2)))
    split = Split(np.zeros((n, 1, 8, 8), np.uint8), labels, ids, groups)
    names = tuple(f"class {i}" for i in range(k))
    dataset = Dataset(names, task, split, split, split, "", (0.5,), (0.5,), grade)  # type: ignore[arg-type]
    writer = Writer()
    logged = record_predictions(writer, dataset, val_scores=scores, test_scores=scores)  # type: ignore[arg-type]
    return writer.tables["test"], logged, grade


def read(case: str, *, seed: int = 0) -> Predictions:
    table, _, grade = stored(case, seed=seed)
    return read_predictions(table, referable_grade=grade)


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_the_trial_logged(case: str) -> None:
    table, logged, grade = stored(case)
    found = metrics(read_predictions(table, referable_grade=grade))
    assert found == {name: pytest.approx(logged[f"test_{name}"]) for name in found}
    assert not np.isnan(list(found.values())).any()


@pytest.mark.parametrize("case", CASES)
def test_what_is_resampled_is_what_the_trial_logged(case: str) -> None:
    table, logged, grade = stored(case)
    found = read_predictions(table, referable_grade=grade)
    whole = np.ones((1, len(table)), int)
    replicates = resample_metrics(ranked_columns(found), decided_columns(found), weights=whole)
    for name in ("auroc", "auprc", "f1"):
        assert getattr(replicates, name)[0] == pytest.approx(logged[f"test_{name}"], abs=1e-12)


def test_unknown_marks_become_nan_whether_stored_as_a_number_or_as_nan() -> None:
    table, _, _ = stored("labels")
    found = read_predictions(table)
    of_labels = [name for name in table if name.startswith("label_")]
    as_nan = table.astype(dict.fromkeys(of_labels, float)).replace(
        {name: {255.0: np.nan} for name in of_labels}
    )
    np.testing.assert_array_equal(np.isnan(found.labels), (table[of_labels] == UNKNOWN).to_numpy())
    np.testing.assert_array_equal(read_predictions(as_nan).labels, found.labels)


def test_task_follows_from_the_labels_and_the_grade() -> None:
    tasks = {case: read(case).task for case in CASES}
    assert tasks == {
        "two classes": "multiclass",
        "several classes": "multiclass",
        "grades": "ordinal",
        "labels": "multilabel",
    }
    assert read_predictions(stored("grades")[0], referable_grade="none").task == "multiclass"
    assert read("grades").classes == tuple(f"class {i}" for i in range(5))
    assert read("grades").n_groups == 30


@pytest.mark.parametrize("case", CASES)
def test_trials_in_another_order_are_aligned_by_sample(case: str) -> None:
    table, _, grade = stored(case)
    plain = read_predictions(table, referable_grade=grade)
    shuffled = read_predictions(table.sample(frac=1, random_state=0), referable_grade=grade)
    [first, found] = align([plain, shuffled])
    assert first is plain
    for name in ("sample_ids", "groups", "labels", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


def test_an_ensemble_is_the_mean_probability() -> None:
    table, _, _ = stored("several classes", seed=1)
    other = read_predictions(table.sample(frac=1, random_state=3))
    mine = read("several classes")
    found = ensemble([mine, other])
    theirs = table[[f"score_class {i}" for i in range(4)]].to_numpy()
    np.testing.assert_allclose(found.scores, (mine.scores + theirs) / 2)
    assert ensemble_metrics([mine, other]) == metrics(found)


def test_an_ensemble_of_one_or_of_equals_is_the_trial() -> None:
    one = read("grades")
    assert metrics(ensemble([one])) == metrics(one)
    assert ensemble_metrics([one, one, one])["auroc"] == pytest.approx(metrics(one)["auroc"])


def test_trials_that_cannot_be_compared_are_refused() -> None:
    table, _, _ = stored("several classes")
    first = read_predictions(table)
    with pytest.raises(ValueError, match="60 and 59 of which 1 are in one only, such as 's59'"):
        align([first, read_predictions(table[:-1])])
    with pytest.raises(
        ValueError, match=r"predictions of one task, got multiclass of .* and ordinal of .* from 2"
    ):
        align([first, read_predictions(table, referable_grade=2)])
    relabelled = table.assign(
        label=table["label"].where(table["sample_id"] != "s7", 0 if table["label"][7] else 1)
    )
    with pytest.raises(ValueError, match="the label of sample 's7' differs between trials"):
        align([first, read_predictions(relabelled)])
    with pytest.raises(ValueError, match="the group of sample 's0' differs"):
        align([first, read_predictions(table.assign(group="one"))])
    with pytest.raises(ValueError, match="an ensemble needs at least one trial, got none"):
        ensemble([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="group"), "lack the columns group$"),
        (lambda t: t.drop(columns="label"), "lack the columns label_class 0, label_class 1$"),
        (lambda t: t[["sample_id", "group", "label"]], "lack the columns score_<class>"),
        (lambda t: t[:0], "have no samples"),
        (lambda t: t.assign(sample_id="same"), "name sample 'same' more than once"),
        (lambda t: t.assign(**{"score_class 0": np.nan}), "the scores of sample 's0' are not finite"),
        (lambda t: t.assign(label=2), "the label of sample 's0' must be one of 0, 1, got 2"),
    ],
    ids=["group", "label", "scores", "empty", "twice", "not finite", "no class"],
)
def test_damaged_predictions_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_predictions(change(stored("two classes")[0]))


def test_what_cannot_be_read_is_noted_and_hides_nothing_else() -> None:
    records = [record_of(spec_of("random", seed)) for seed in range(3)]
    table = stored("two classes")[0]

    class Reader(FakeReader):
        def predictions(self, record, split="test"):
            if record is records[0]:
                raise CheckpointError(f"artifact predictions/{split}.parquet is missing")
            return table if record is records[1] else table[:0]

    found = load_predictions(Reader(records), records)
    assert list(found.by_trial) == [records[1].trial_id]
    assert found.missing == {
        records[0].trial_id: "artifact predictions/test.parquet is missing",
        records[2].trial_id: "predictions have no samples",
    }
