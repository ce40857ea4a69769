"""One trial against a real MLflow store, without Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow.exceptions import MlflowException
from torch import Tensor

from tests.conftest import tiny_trial
from trainables.errors import TrackingError
from trainables.identity import trial_id
from trainables.progress import Progress
from trainables.record import RecordReader, Store, TrialRecord, TrialWriter, open_store
from trainables.spec import FailureOptions, RunOptions, TrialSpec
from trainables.trial import run_trial


@pytest.fixture(autouse=True)
def every_evaluation_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.progress.REPORT_AT_MOST_EVERY_S", -1.0)


EVERY_EVALUATION = RunOptions(state_every_s=0.0)


def start(store: Store, spec: TrialSpec, options: RunOptions = EVERY_EVALUATION) -> Iterator[Progress]:
    return run_trial(spec, store=store, options=options, data_root=None, study="s")


def finish(store: Store, spec: TrialSpec, options: RunOptions = EVERY_EVALUATION) -> TrialRecord:
    *_, last = start(store, spec, options)
    assert last.status == "finished", last.cause
    return find(store, spec)


def find(store: Store, spec: TrialSpec) -> TrialRecord:
    record = RecordReader(store).trial(trial_id(spec))
    assert record is not None
    return record


def final_weights(store: Store, record: TrialRecord, checkpoint: str = "final") -> dict[str, Tensor]:
    return RecordReader(store).weights(record, checkpoint)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def pretrained_from(source: TrialSpec, **init: object) -> TrialSpec:
    content = {"kind": "pretrained", **init, "source": {"trial": source.model_dump(mode="json")}}
    return tiny_trial(init=content)


SOURCE = tiny_trial(dataset={"reader": "digits", "classes": ["0", "1"], "size_px": 16})


def test_a_finished_trial_has_a_whole_record(store: Store) -> None:
    record = finish(store, tiny_trial())
    reader = RecordReader(store)
    assert record.status == "finished"
    assert reader.history(record, "val_auroc")["step"].tolist() == [0, 1, 2, 5, 12]
    assert {"test_auroc", "test_auprc", "test_accuracy", "test_f1", "best_step", "n_params"} <= set(
        record.metrics
    )
    assert {name: ref.step for name, ref in record.checkpoints.items()}.items() >= {
        "initial": 0,
        "final": 12,
    }.items()
    table = reader.predictions(record)
    assert list(table.columns) == ["sample_id", "group", "label", "score_5", "score_6"]
    assert table[["score_5", "score_6"]].sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert table["sample_id"].is_unique


def test_the_test_scores_are_those_of_the_best_checkpoint(store: Store) -> None:
    from sklearn.metrics import roc_auc_score

    record = finish(store, tiny_trial())
    table = RecordReader(store).predictions(record)
    assert roc_auc_score(table["label"], table["score_6"]) == pytest.approx(record.metrics["test_auroc"])
    assert record.checkpoints["best"].step == record.metrics["best_step"]
    history = RecordReader(store).history(record, "val_auroc")
    assert history["value"].max() == history.set_index("step")["value"][record.checkpoints["best"].step]


@pytest.mark.parametrize("n_reports", [1, 3, 5])
def test_an_interrupted_trial_ends_bit_equal_to_an_uninterrupted_one(
    store: Store, n_reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = finish(store, tiny_trial())
    expected = final_weights(store, straight), RecordReader(store).history(straight, "val_loss")
    monkeypatch.setenv("TRANSFUSION_EXPERIMENT", "second")
    other = open_store(store.uri)
    running = start(other, tiny_trial())
    for _ in range(n_reports):
        next(running)
    running.close()  # type: ignore[attr-defined]
    assert find(other, tiny_trial()).status == "killed"
    assert find(other, tiny_trial()).resumes_at_step == [0, None, 2, None, 12][n_reports - 1]
    resumed = finish(other, tiny_trial())
    assert resumed.run_id != straight.run_id
    assert equal(final_weights(other, resumed), expected[0])
    assert RecordReader(other).history(resumed, "val_loss").equals(expected[1])
    points = other.client.get_metric_history(resumed.run_id, "val_loss")
    assert len(points) == len(expected[1])


def test_a_trial_without_a_state_begins_anew_and_logs_no_point_twice(store: Store) -> None:
    running = start(store, tiny_trial(), RunOptions(state_every_s=1000.0))
    for _ in range(3):
        next(running)
    # Its process dies: nothing is committed, the run stays RUNNING, another process starts.
    resumed = finish(store, tiny_trial())
    assert len(store.client.get_metric_history(resumed.run_id, "val_loss")) == 5
    *_, last = running
    assert last.status == "taken over"
    assert find(store, tiny_trial()).status == "finished"


def test_a_finished_trial_is_not_trained_again(store: Store) -> None:
    before = finish(store, tiny_trial())
    assert [progress.status for progress in start(store, tiny_trial())] == ["reused"]
    assert find(store, tiny_trial()) == before


def test_a_fine_tuning_starts_from_the_best_weights_of_its_pretraining(store: Store) -> None:
    parent = finish(store, SOURCE)
    child = finish(store, pretrained_from(SOURCE))
    best, begun = final_weights(store, parent, "best"), final_weights(store, child, "initial")
    same = {name for name in best if torch.equal(best[name], begun[name])}
    assert {name for name in best if not name.startswith("head.")} <= same
    assert "head.weight" not in same


def test_trials_of_one_seed_share_every_weight_that_is_not_transfused(store: Store) -> None:
    finish(store, SOURCE)
    none = final_weights(store, finish(store, tiny_trial()), "initial")
    half = final_weights(
        store, finish(store, pretrained_from(SOURCE, kind="transfusion", depth=2)), "initial"
    )
    changed = {name.split(".")[0] for name in none if not torch.equal(none[name], half[name])}
    assert changed == {"conv1", "conv2"}


def test_a_trial_whose_pretraining_is_missing_fails_with_its_name(store: Store) -> None:
    *_, last = start(store, pretrained_from(SOURCE))
    assert last.status == "failed"
    assert (
        last.cause == "the pretraining cbr_tiny · random · digits 0–1 · seed 0 has not been run; run it first"
    )
    assert find(store, pretrained_from(SOURCE)).cause == last.cause


def test_a_trial_whose_pretraining_is_damaged_fails_with_what_to_do(store: Store) -> None:
    parent = finish(store, SOURCE)
    folder = Path(store.client.get_run(parent.run_id).info.artifact_uri.removeprefix("file://"))
    (folder / parent.checkpoints["best"].path).write_bytes(b"torn")
    *_, last = start(store, pretrained_from(SOURCE))
    assert last.status == "failed"
    assert "checkpoint 'best' cannot be used" in (last.cause or "")
    assert f"delete run {parent.run_id} in MLflow" in (last.cause or "")


def test_a_bug_leaves_its_traceback_in_the_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("somewhere")

    monkeypatch.setattr("trainables.gradient_trial.Training", explode)
    *_, last = start(store, tiny_trial())
    assert last.cause == "ZeroDivisionError: somewhere"
    with store.artifact(find(store, tiny_trial()).run_id, "traceback.txt") as file:
        assert "in explode" in file.read_text()


def test_missing_data_fails_the_trial_with_what_to_do(store: Store) -> None:
    spec = tiny_trial(dataset={"reader": "medmnist", "path": "absent.npz"})
    *_, last = start(store, spec)
    assert last.status == "failed"
    assert "TRANSFUSION_DATA" in (last.cause or "")


def test_no_steps_scores_the_network_at_initialization(store: Store) -> None:
    record = finish(store, tiny_trial(training={"steps": 0}))
    assert record.checkpoints["final"].step == 0
    assert equal(final_weights(store, record), final_weights(store, record, "initial"))


def test_which_checkpoints_are_kept_changes_neither_the_id_nor_the_result(store: Store) -> None:
    few = finish(store, tiny_trial(seed=1), RunOptions(keep=("final",)))
    assert set(few.checkpoints) == {"final"}
    many = finish(store, tiny_trial(seed=2), RunOptions(series_points=3))
    assert set(many.checkpoints) == {
        "initial", "best", "final", "step-0000000", "step-0000001", "step-0000003", "step-0000012",
    }  # fmt: skip


def test_a_damaged_state_costs_the_work_and_is_noticed(store: Store) -> None:
    running = start(store, tiny_trial())
    for _ in range(3):
        next(running)
    running.close()  # type: ignore[attr-defined]
    record = find(store, tiny_trial())
    assert record.state is not None
    folder = Path(store.client.get_run(record.run_id).info.artifact_uri.removeprefix("file://"))
    (folder / record.state.path).write_bytes(b"torn")
    *_, last = start(store, tiny_trial())
    assert last.status == "finished"
    assert "the resumable state is damaged, beginning anew" in last.notices[0]


def test_early_stopping_ends_the_trial(store: Store) -> None:
    training = {"steps": 500, "batch_size": 16, "evaluation": {"points": 100, "spacing": "linear"}}
    record = finish(store, tiny_trial(training={**training, "early_stopping": {"patience": 2}}))
    assert record.checkpoints["final"].step < 500


def test_a_checkpoint_loads_into_the_plain_network(store: Store) -> None:
    record = finish(store, tiny_trial(training={"steps": 0}))
    from trainables.architectures.stages import build_network

    network = build_network("cbr_tiny", n_outputs=2, channels=1)
    assert network.module.load_state_dict(final_weights(store, record))


def find_step(store: Store) -> int:
    record = RecordReader(store).trial(trial_id(tiny_trial()))
    return record.resumes_at_step if record else 0


def test_a_store_that_goes_away_fails_no_trial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.record.store.RETRY_AFTER_S", (0.0,))
    impatient = EVERY_EVALUATION.model_copy(update={"failures": FailureOptions(wait_for_mlflow_min=0)})
    running = start(store, tiny_trial(), impatient)
    while find_step(store) < 2:
        next(running)

    def away(*_: object, **__: object) -> None:
        raise MlflowException("503 Service Unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(type(store.client), "log_batch", away)
        with pytest.raises(TrackingError, match="503"):
            list(running)
    assert find(store, tiny_trial()).status == "running"
    assert find(store, tiny_trial()).resumes_at_step >= 2
    assert finish(store, tiny_trial()).status == "finished"


def test_a_trial_that_died_before_it_was_marked_finished_is_marked_and_not_trained_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(writer: TrialWriter) -> None:
        writer.drain()
        raise TrackingError("the process ends here")

    with monkeypatch.context() as patch:
        patch.setattr(TrialWriter, "finish", die)
        with pytest.raises(TrackingError):
            list(start(store, tiny_trial()))
    assert find(store, tiny_trial()).status == "running"
    with monkeypatch.context() as patch:
        patch.setattr("trainables.gradient_trial.Training", None)
        record = finish(store, tiny_trial())
    assert record.state is None
    run = store.client.get_run(record.run_id)
    assert store.artifacts(run).paths("state") == []


def test_a_trial_that_was_marked_failed_after_its_end_is_trained_again(store: Store) -> None:
    finished = finish(store, tiny_trial())
    store.client.set_terminated(finished.run_id, "FAILED")
    *_, last = start(store, tiny_trial())
    assert last.status == "finished"
    assert last.step == 12
