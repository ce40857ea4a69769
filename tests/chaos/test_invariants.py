"""Each invariant sees what it is there to see: a good record passes, and each way to spoil it is told."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import invariants
from tests.chaos.diary import read_attempts, repeats
from tests.chaos.store_view import RunRow, StoreView
from tests.conftest import tiny_trial
from trainables.record import Store, open_store
from trainables.spec import RunOptions
from trainables.trial import run_trial

EXPERIMENT = "test"


@pytest.fixture(scope="module")
def finished(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with one finished trial."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_database, folder / "mlflow.db")
    store = open_store(f"sqlite:///{folder / 'mlflow.db'}", experiment=EXPERIMENT)
    for _ in run_trial(tiny_trial(), store=store, options=RunOptions(), data_root=None):
        pass
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    """A copy of that store, to be spoiled."""
    shutil.copytree(finished, tmp_path / finished.relative_to("/"))
    shutil.copy(finished / "mlflow.db", tmp_path / "mlflow.db")
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", experiment=EXPERIMENT)


@pytest.fixture
def view(store: Store, tmp_path: Path) -> StoreView:
    """The copy, looked at from outside."""
    return StoreView(store.uri, artifacts=tmp_path, experiment=EXPERIMENT)


def all_violations(view: StoreView) -> list[str]:
    trials = view.trials()
    return [
        *invariants.one_run_per_trial(trials, {str(run.trial_id) for run in trials}),
        *invariants.no_zombies(view.runs()),
        *invariants.all_finished(trials),
        *invariants.statuses_are_true(trials),
        *invariants.digests_are_valid(trials),
        *invariants.no_orphaned_files(view),
        *invariants.every_point_once(view.points()),
    ]


def truncate_final(run: RunRow) -> None:
    file = run.folder / run.checkpoints["final"].path
    file.write_bytes(file.read_bytes()[:-1])


def delete_predictions(run: RunRow) -> None:
    (run.folder / "predictions" / "val.parquet").unlink()


def delete_final(run: RunRow) -> None:
    (run.folder / run.checkpoints["final"].path).unlink()


def leave_a_state(run: RunRow) -> None:
    (run.folder / "state").mkdir(exist_ok=True)
    (run.folder / "state" / "state-0000004-0123.safetensors").write_bytes(b"left")


def leave_a_folder(run: RunRow) -> None:
    shutil.copytree(run.folder, run.folder.parent.parent / ("0" * 32) / "artifacts")


def test_a_good_record_violates_nothing(view: StoreView) -> None:
    assert all_violations(view) == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (truncate_final, "final is not what its digest says"),
        (delete_final, "which is missing"),
        (delete_predictions, "has no predictions/val.parquet"),
        (leave_a_state, "nothing points to state/state-0000004-0123.safetensors"),
        (leave_a_folder, "belongs to no run"),
    ],
)
def test_spoiled_files_are_told(view: StoreView, spoil: Callable[[RunRow], None], told: str) -> None:
    spoil(view.trials()[0])
    assert any(told in violation for violation in all_violations(view))


def test_a_run_that_says_it_runs_is_told(view: StoreView, store: Store) -> None:
    store.client.update_run(view.trials()[0].run_id, "RUNNING")
    assert any("is RUNNING" in violation for violation in all_violations(view))


def test_a_failed_trial_is_told_with_its_cause(view: StoreView, store: Store) -> None:
    run_id = view.trials()[0].run_id
    store.client.set_tag(run_id, "cause", "its worker was lost 3 times")
    store.client.set_terminated(run_id, "FAILED")
    assert any("FAILED, its worker was lost 3 times" in violation for violation in all_violations(view))


def test_a_second_run_of_a_trial_is_told(view: StoreView, store: Store) -> None:
    run = view.trials()[0]
    store.client.create_run(store.experiment_id, tags={"trial_id": str(run.trial_id)})
    assert any(f"trial {run.trial_id} has 2 runs" in violation for violation in all_violations(view))


def test_a_trial_without_a_run_is_told(view: StoreView) -> None:
    assert invariants.one_run_per_trial(view.trials(), {"0123456789abcdef"})[0].endswith("has 0 runs")


def test_a_point_that_is_logged_twice_is_told(view: StoreView, store: Store) -> None:
    run_id = view.trials()[0].run_id
    step = next(step for name, step in view.points()[run_id] if name == "val_loss")
    store.client.log_metric(run_id, "val_loss", 0.5, step=step)
    assert any(f"val_loss has 2 values at step {step}" in violation for violation in all_violations(view))


def test_a_series_that_differs_is_told(view: StoreView) -> None:
    [run] = view.trials()
    points = view.points()[run.run_id]
    assert invariants.series_are_those_of(points, points, run_id=run.run_id) == []
    name, step = next(key for key in points if key[0] == "val_loss")
    for found, told in (
        ({key: values for key, values in points.items() if key != (name, step)}, "is missing"),
        ({**points, (name, 99): [0.1]}, "is not in the undisturbed trial"),
        ({**points, (name, step): [0.1]}, "is 0.1, undisturbed"),
    ):
        [violation] = invariants.series_are_those_of(points, found, run_id=run.run_id)
        assert told in violation


def test_other_weights_are_told(view: StoreView, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    [run] = view.trials()
    other = replace(run, folder=tmp_path / "other")
    file = other.folder / other.checkpoints["final"].path
    shutil.copytree(run.folder, other.folder)
    assert invariants.weights_are_those_of(run, other) == []
    weights = run.weights("final")
    changed = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    save_file({**weights, changed: weights[changed] + 1}, file)
    assert any(
        "final weights differ" in violation for violation in invariants.weights_are_those_of(run, other)
    )


def test_a_finished_run_that_is_begun_again_is_told(view: StoreView) -> None:
    [run] = view.trials()
    seen = {run.run_id: (run.end_time, run.tags["attempt"])}
    assert invariants.nothing_finished_is_redone(seen, [run]) == []
    again = replace(run, tags={**run.tags, "attempt": json.dumps("2-abc")})
    assert "was finished" in invariants.nothing_finished_is_redone(seen, [again])[0]


def test_work_that_is_done_again_is_told_unless_nothing_could_be_committed(tmp_path: Path) -> None:
    first = [f"{10 + step}.0 run 1-a step {step}" for step in range(1, 31)]
    second = ["50.0 run 2-b begins 10", "51.0 run 2-b step 11"]
    (tmp_path / "7.diary").write_text(
        "\n".join(["10.0 run 1-a begins 0", *first, *second, "52.0 run 2-b st"])
    )
    attempts = read_attempts(tmp_path)
    assert [(attempt.number, attempt.last_step, attempt.pid) for attempt in attempts] == [
        (1, 30, 7),
        (2, 11, 7),
    ]
    [repeat] = repeats(attempts, outages=[])
    assert (repeat.steps, repeat.excused) == (20, 0)
    assert invariants.little_is_redone([repeat], interval=10) == []
    assert "did 20 steps again" in invariants.little_is_redone([repeat], interval=9)[0]
    assert invariants.little_is_redone([repeat], interval=9, but_not={"run"}) == []
    [excused] = repeats(attempts, outages=[(30.0, 99.0)])
    assert excused.excused == 11
    assert invariants.little_is_redone([excused], interval=9) == []


def test_weights_left_on_a_workers_disk_are_told(tmp_path: Path) -> None:
    assert invariants.nothing_is_left_in(tmp_path) == []
    (tmp_path / "transfusion-spool-1").mkdir()
    assert "is left behind" in invariants.nothing_is_left_in(tmp_path)[0]


def test_what_the_server_was_cut_off_in_is_told_apart_from_orphans(view: StoreView) -> None:
    [run] = view.trials()
    assert run.hidden_files() == []
    cut_off = run.folder / "checkpoints" / ".artifact.uploading.1a2b3c"
    cut_off.write_bytes(b"half")
    assert run.hidden_files() == [cut_off]
    assert all_violations(view) == []
