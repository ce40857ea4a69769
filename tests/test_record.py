"""The record of a trial in a real MLflow store."""

import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tests.conftest import tiny_trial
from trainables.checkpoints import Contents, write_checkpoint
from trainables.errors import CheckpointError, DataError, StaleAttemptError, TrackingError
from trainables.identity import trial_id
from trainables.record import RecordReader, Store, TrialWriter, default_tracking_uri, open_store
from trainables.record.environment import Environment, describe_environment
from trainables.record.store import Artifacts

ENVIRONMENT = Environment({"host": "here"}, {"packages": {}})
WEIGHTS = {"w": torch.arange(4.0)}


def open_writer(store: Store, *, study: str | None = "s", **changes: object) -> TrialWriter:
    return TrialWriter.open(store, tiny_trial(**changes), study=study, environment=ENVIRONMENT)


def upload_uncommitted(writer: TrialWriter, folder: str) -> None:
    with tempfile.TemporaryDirectory() as local:
        file = Path(local) / "left-0000009.safetensors"
        write_checkpoint(file, {"w": torch.ones(4)}, facts={"step": 9})
        writer.artifacts.upload(file, folder=folder)


def artifact_file(store: Store, run_id: str, path: str) -> Path:
    return Path(store.client.get_run(run_id).info.artifact_uri.removeprefix("file://")) / path


def test_a_trial_has_one_run_however_often_it_is_opened(store: Store) -> None:
    run_ids = {open_writer(store).run_id for _ in range(3)}
    assert len(run_ids) == 1
    assert [r.trial_id for r in RecordReader(store).trials()] == [trial_id(tiny_trial())]


def test_of_two_processes_that_create_a_run_at_once_both_keep_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run = type(store.client).create_run
    others: list[TrialWriter] = []

    def create_after_another(client: object, *arguments: object, **keywords: object) -> Run:
        if not others:
            # The other process looks, creates and claims between our look and our creation.
            others.append(None)  # type: ignore[arg-type]
            others[0] = open_writer(store)
        return create_run(client, *arguments, **keywords)

    monkeypatch.setattr(type(store.client), "create_run", create_after_another)
    ours = open_writer(store)
    assert ours.run_id == others[0].run_id
    assert len(store.search("trial_id", trial_id(tiny_trial()))) == 1
    with pytest.raises(StaleAttemptError):
        others[0].finish()
    ours.finish()
    assert [record.status for record in RecordReader(store).trials()] == ["finished"]


def test_everyone_picks_the_same_of_two_runs_and_a_finished_one_first(store: Store) -> None:
    writer = open_writer(store)
    tags = {key: v for key, v in store.client.get_run(writer.run_id).data.tags.items() if key != "attempt"}
    twin = store.client.create_run(store.experiment_id, tags=tags)
    assert open_writer(store).run_id == writer.run_id
    store.client.set_terminated(twin.info.run_id, "FINISHED")
    reader = RecordReader(store)
    found = reader.trial(trial_id(tiny_trial()))
    assert found is not None
    assert found.run_id == twin.info.run_id == open_writer(store).run_id == reader.trials()[0].run_id


def test_the_run_is_named_for_people_and_filterable_by_every_axis(store: Store) -> None:
    run = store.client.get_run(open_writer(store, seed=3).run_id)
    assert run.data.tags["mlflow.runName"] == "cbr_tiny · random · digits 5–6 · seed 3"
    expected = {"architecture": "cbr_tiny", "init": "random", "transfusion_depth": "0", "seed": "3"}
    assert expected.items() <= run.data.params.items()
    assert run.data.params["training.optimizer.lr"] == "0.01"


def test_seeds_of_one_cell_share_the_cell_tag_and_other_cells_do_not(store: Store) -> None:
    runs = [
        store.client.get_run(open_writer(store, **changes).run_id)
        for changes in ({"seed": 0}, {"seed": 1}, {"training": {"steps": 13}})
    ]
    cells = [run.data.tags["cell"] for run in runs]
    assert cells[0] == cells[1] != cells[2]


def test_an_older_attempt_cannot_write_once_a_newer_has_taken_over(store: Store) -> None:
    stale = open_writer(store)
    stale.log_metrics({"val_auroc": 0.1}, step=1)
    fresh = open_writer(store)
    with pytest.raises(StaleAttemptError, match=r"attempt 2-\w+ has taken over from attempt 1-\w+"):
        stale.drain()
    for write in (stale.finish, stale.interrupt, lambda: stale.fail("late")):
        with pytest.raises(StaleAttemptError):
            write()
    fresh.log_metrics({"val_auroc": 0.2}, step=1)
    fresh.finish()
    (record,) = RecordReader(store).trials()
    assert (record.status, record.metrics["val_auroc"]) == ("finished", 0.2)


def test_every_point_is_logged_once_though_a_resumed_trial_repeats_steps(store: Store) -> None:
    first = open_writer(store)
    for step in range(5):
        first.log_metrics({"val_auroc": step / 10, "val_loss": float("nan")}, step=step)
    first.drain()
    second = open_writer(store)
    for step in range(3, 8):
        second.log_metrics({"val_auroc": step / 10, "val_loss": float("nan")}, step=step)
    second.finish()
    points = store.client.get_metric_history(second.run_id, "val_auroc")
    assert [(p.step, p.value) for p in points] == [(step, step / 10) for step in range(8)]
    assert len(store.client.get_metric_history(second.run_id, "val_loss")) == 8


def test_history_comes_back_sorted_by_step(store: Store) -> None:
    writer = open_writer(store)
    for step in (100, 2, 30):
        writer.log_metrics({"val_auroc": step / 100}, step=step)
    writer.finish()
    reader = RecordReader(store)
    history = reader.history(reader.trials()[0], "val_auroc")
    assert history["step"].tolist() == [2, 30, 100]
    assert reader.history(reader.trials()[0], "absent").empty


def test_weights_of_one_step_are_stored_once_and_stay_while_any_name_points_to_them(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_checkpoints({"initial": WEIGHTS}, {"initial": 0})
    other = {"w": torch.ones(4)}
    writer.commit_checkpoints({"final": other, "best": other}, {"final": 9, "best": 9})
    writer.drain()
    assert len(writer.artifacts.paths("checkpoints")) == 2
    assert writer.checkpoints["final"].path == writer.checkpoints["best"].path
    again = open_writer(store)
    again.commit_checkpoints({"final": WEIGHTS}, {"final": 12})
    again.drain()
    reader = RecordReader(store)
    (record,) = reader.trials()
    assert torch.equal(reader.weights(record, "best")["w"], torch.ones(4))
    assert torch.equal(reader.weights(record, "final")["w"], WEIGHTS["w"])


def test_a_checkpoint_comes_back_equal_and_a_later_one_replaces_it(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_checkpoints({"best": WEIGHTS}, {"best": 5})
    writer.drain()
    before = writer.checkpoints["best"].path
    again = open_writer(store)
    again.commit_checkpoints({"best": {"w": torch.ones(4)}}, {"best": 9})
    again.finish()
    reader = RecordReader(store)
    (record,) = reader.trials()
    assert record.checkpoints["best"].step == 9
    assert torch.equal(reader.weights(record, "best")["w"], torch.ones(4))
    assert not artifact_file(store, record.run_id, before).exists()


def test_an_upload_that_was_never_committed_is_never_read(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    writer.drain()
    # The process dies between the upload and the move of the pointer.
    upload_uncommitted(writer, "state")
    state = open_writer(store).load_state()
    assert state is not None
    assert state.facts["step"] == 3


def test_one_resumable_state_replaces_itself_and_goes_when_the_trial_ends(store: Store) -> None:
    writer = open_writer(store)
    for step in (3, 6, 9):
        writer.commit_state(Contents(WEIGHTS, {"step": step}))
        writer.drain()
        assert len(store.client.list_artifacts(writer.run_id, "state")) == 1
    assert RecordReader(store).trials()[0].resumes_at_step == 9
    writer.finish()
    assert store.client.list_artifacts(writer.run_id, "state") == []
    assert RecordReader(store).trials()[0].state is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_named_and_never_used(store: Store, damage: str) -> None:
    writer = open_writer(store)
    writer.commit_checkpoints({"final": WEIGHTS}, {"final": 12})
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    writer.drain()
    for ref in (writer.checkpoints["final"], writer.state):
        file = artifact_file(store, writer.run_id, ref.path)
        content = file.read_bytes()
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(content[:-5] if damage == "truncate" else content[:-1] + b"\xff")
    reader = RecordReader(store)
    with pytest.raises(CheckpointError, match=r"seed 0: checkpoint 'final' cannot be used: .*delete run \w+"):
        reader.weights(reader.trials()[0], "final")
    resumed = open_writer(store)
    assert resumed.load_state() is None
    assert "the resumable state is damaged, beginning anew" in resumed.notices[0]


@contextmanager
def cut_short(n_downloads: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Artifacts of which the first downloads end early without an error, as through some proxies."""
    whole, seen = Artifacts.download, []

    def download(artifacts: Artifacts, path: str, folder: str) -> Path:
        file = whole(artifacts, path, folder)
        seen.append(path)
        if len(seen) <= n_downloads:
            copy = file.with_name("copy")
            copy.write_bytes(file.read_bytes()[:-5])  # the store is a folder: its own file stays whole
            return copy
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Artifacts, "download", download)
        yield seen


def test_a_download_that_was_cut_short_once_costs_neither_a_state_nor_a_checkpoint(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(store)
    writer.commit_checkpoints({"final": WEIGHTS}, {"final": 12})
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    writer.drain()
    resumed = open_writer(store)
    with cut_short(1, monkeypatch) as seen:
        state = resumed.load_state()
    assert state is not None
    assert (state.facts["step"], len(seen), resumed.notices) == (3, 2, [])
    reader = RecordReader(store)
    with cut_short(1, monkeypatch):
        assert reader.weights(reader.trials()[0], "final").keys() == WEIGHTS.keys()


def test_a_download_that_is_cut_short_every_time_is_called_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(store)
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    writer.drain()
    resumed = open_writer(store)
    with cut_short(2, monkeypatch) as seen:
        assert resumed.load_state() is None
    assert len(seen) == 2
    assert "the resumable state is damaged, beginning anew" in resumed.notices[0]


def test_a_checkpoint_that_was_not_kept_is_named_with_those_that_were(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_checkpoints({"final": WEIGHTS}, {"final": 12})
    writer.drain()
    reader = RecordReader(store)
    with pytest.raises(CheckpointError, match="no checkpoint 'best'; it has final"):
        reader.weights(reader.trials()[0], "best")


def test_statuses_and_causes_are_true(store: Store) -> None:
    endings = {"finished": TrialWriter.finish, "killed": TrialWriter.interrupt, "running": TrialWriter.drain}
    for seed, (status, end) in enumerate(endings.items()):
        end(open_writer(store, seed=seed))
        assert RecordReader(store).trials()[-1].status == status
    failing = open_writer(store, seed=9)
    failing.fail("train_loss became nan", details="Traceback …")
    record = RecordReader(store).trials()[-1]
    assert (record.status, record.cause) == ("failed", "train_loss became nan")
    # A trial that is run again is no longer failed.
    open_writer(store, seed=9).finish()
    record = RecordReader(store).trials()[-1]
    assert (record.status, record.cause) == ("finished", None)


def test_a_finished_trial_is_shared_with_another_study_and_not_touched(store: Store) -> None:
    open_writer(store, study="first").finish()
    shared = open_writer(store, study="second")
    assert shared.is_finished
    (record,) = RecordReader(store).trials("second")
    assert record.status == "finished"
    assert record.studies == {"first", "second"}
    assert RecordReader(store).trials("third") == []


def test_data_that_changed_under_a_begun_trial_stops_it(store: Store) -> None:
    writer = open_writer(store)
    writer.log_dataset(name="digits", digest="a" * 64)
    writer.drain()
    resumed = open_writer(store)
    resumed.log_dataset(name="digits", digest="a" * 64)
    with pytest.raises(DataError, match="digits: the images or labels changed since this trial began"):
        resumed.log_dataset(name="digits", digest="b" * 64)
    inputs = store.client.get_run(writer.run_id).inputs.dataset_inputs
    assert [entry.dataset.digest for entry in inputs] == ["a" * 36]


def test_two_processes_may_be_the_first_to_name_a_dataset_at_the_same_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_writer(store, seed=1), open_writer(store, seed=2)
    log_inputs = type(store.client).log_inputs
    raced = iter([True])

    def racing(client: object, run_id: str, datasets: list) -> None:
        if next(raced, False):
            first.log_dataset(name="digits", digest="a" * 64)
            first.drain()
            raise MlflowException("UNIQUE constraint failed: datasets.digest")
        log_inputs(client, run_id, datasets)

    monkeypatch.setattr(type(store.client), "log_inputs", racing)
    second.log_dataset(name="digits", digest="a" * 64)
    second.drain()
    for writer in (first, second):
        (entry,) = store.client.get_run(writer.run_id).inputs.dataset_inputs
        assert entry.dataset.name == "digits"


def test_predictions_come_back_equal(store: Store) -> None:
    table = pd.DataFrame({"sample_id": ["a", "b"], "label": [0, 1], "score_x": [0.25, 0.75]})
    writer = open_writer(store)
    writer.log_predictions("test", table)
    writer.drain()
    reader = RecordReader(store)
    pd.testing.assert_frame_equal(reader.predictions(reader.trials()[0]), table)
    with pytest.raises(CheckpointError, match=r"artifact predictions/val.parquet is missing"):
        reader.predictions(reader.trials()[0], "val")


def test_a_long_lineage_that_fits_no_tag_is_read_from_its_artifact(store: Store) -> None:
    spec: dict[str, object] | None = None
    for seed, _ in itertools.product(range(12), [None]):
        init = {"kind": "pretrained", "source": {"trial": spec}} if spec else "random"
        spec = tiny_trial(init=init, seed=seed).model_dump(mode="json")
    assert len(json.dumps(spec)) > 8000
    changes = {key: value for key, value in spec.items() if key in ("init", "seed")}
    open_writer(store, **changes).finish()
    assert RecordReader(store).trials()[0].spec == tiny_trial(**changes)


def test_a_tag_edited_by_hand_hides_no_other_trial_and_is_mended_by_running(store: Store) -> None:
    open_writer(store, seed=1).finish()
    writer = open_writer(store)
    writer.commit_checkpoints({"best": WEIGHTS}, {"best": 3})
    writer.drain()
    store.client.set_tag(writer.run_id, "spec", '{"architecture": "cbr_huge"}')
    store.client.set_tag(writer.run_id, "checkpoint.best", "gone")
    reader = RecordReader(store)
    assert [record.spec.seed for record in reader.trials()] == [1]
    (notice,) = reader.notices
    assert f"run {writer.run_id}: its tag 'spec' is not the spec of a trial" in notice
    assert "restore the tag, or delete the run" in notice
    open_writer(store).finish()
    assert {record.spec.seed: record.checkpoints for record in reader.trials()} == {0: {}, 1: {}}


def test_a_run_of_a_long_lineage_that_was_never_claimed_hides_no_other(store: Store) -> None:
    open_writer(store).finish()
    store.client.create_run(store.experiment_id, tags={"kind": "trial", "trial_id": "f" * 16})
    reader = RecordReader(store)
    assert len(reader.trials()) == 1
    assert "artifact spec.json is missing" in reader.notices[0]


def away(*_: object, **__: object) -> None:
    raise MlflowException("503 Service Unavailable")


def test_a_state_that_cannot_be_read_now_is_not_taken_for_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_writer(store)
    first.commit_state(Contents(WEIGHTS, {"step": 3}))
    first.drain()
    writer = open_writer(store)
    with monkeypatch.context() as patch:
        patch.setattr("trainables.record.store.RETRY_AFTER_S", (0.0, 0.0))
        patch.setattr(type(writer.artifacts.repository), "download_artifacts", away)
        with pytest.raises(TrackingError, match=r"reading state/.* failed: 503 Service Unavailable"):
            writer.load_state()
    state = writer.load_state()
    assert state is not None
    assert state.facts["step"] == 3


def test_a_call_that_fails_once_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.record.store.RETRY_AFTER_S", (0.0, 0.0))
    writer = open_writer(store)
    log_batch, failures = type(store.client).log_batch, iter([True, True])

    def flaky(*arguments: object, **keywords: object) -> None:
        if next(failures, False):
            away()
        log_batch(*arguments, **keywords)

    monkeypatch.setattr(type(store.client), "log_batch", flaky)
    writer.log_metrics({"val_auroc": 0.5}, step=1)
    writer.finish()
    assert RecordReader(store).trials()[0].metrics["val_auroc"] == 0.5


def test_a_file_that_cannot_be_deleted_does_not_fail_a_finished_trial(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(store)
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    monkeypatch.setattr(type(writer.artifacts.repository), "delete_artifacts", away)
    writer.finish()
    assert "could not be deleted: 503" in writer.notices[0]
    assert RecordReader(store).trials()[0].status == "finished"


def test_a_state_committed_twice_at_one_step_never_touches_the_first_file(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    first = writer.state
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    assert first is not None
    assert writer.state is not None
    assert first.path != writer.state.path


def test_what_was_uploaded_and_never_committed_goes_at_the_next_attempt(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_state(Contents(WEIGHTS, {"step": 3}))
    writer.drain()
    upload_uncommitted(writer, "state")
    upload_uncommitted(writer, "checkpoints")
    again = open_writer(store)
    again.drain()
    assert again.state is not None
    assert again.artifacts.paths("state") == [again.state.path]
    assert again.artifacts.paths("checkpoints") == []


def test_a_store_that_cannot_be_used_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match=r"cannot write /proc/none/x.db; run in another folder"):
        open_store("sqlite:////proc/none/x.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        TrackingError, match=r"MLflow at http://127.0.0.1:9 cannot be used.*start it, or mend"
    ) as raised:
        open_store("http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(raised.value)


def test_the_default_store_is_the_same_file_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert default_tracking_uri() == f"sqlite:///{tmp_path}/other.db"


def test_the_environment_names_versions_and_commit() -> None:
    environment = describe_environment(torch.device("cpu"))
    assert torch.__version__.startswith(environment.details["packages"]["torch"])
    assert environment.tags["device"] == "cpu"


def test_runs_of_another_version_are_counted_and_left_out(store: Store) -> None:
    open_writer(store, seed=1).finish()
    for seed in (2, 3):
        writer = open_writer(store, seed=seed)
        old = {**tiny_trial(seed=seed).model_dump(mode="json"), "spec_version": 1}
        store.client.set_tag(writer.run_id, "spec", json.dumps(old))
    reader = RecordReader(store)
    assert [record.spec.seed for record in reader.trials()] == [1]
    (notice,) = reader.notices
    assert notice.startswith("2 runs were written by another version of this program")
    with pytest.raises(TrackingError, match=r"its spec has version 1, this program has 3; use the program"):
        reader.trial(trial_id(tiny_trial(seed=3)))
