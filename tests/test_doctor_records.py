"""What doctor finds in a store, what it mends, and that the trials then go on."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback

from study.alone import run_alone
from study.cli import main
from study.doctor import listening
from study.doctor.examination import Examination, examine
from study.doctor.finding import Fate, Treated, treat
from study.doctor.foreign import check_foreign
from study.doctor.leftovers import check_leftovers
from study.doctor.life import Death, death_of
from study.doctor.listening import after_listening, silent_runs
from study.doctor.records import check_records
from study.driver import Driver
from study.tracking import open_study_run
from tests.conftest import tiny_trial as trial_of
from trainables.checkpoints import Contents, digest
from trainables.errors import StaleAttemptError, TrackingError
from trainables.identity import trial_id
from trainables.record import RecordReader, Store, TrialRecord, TrialWriter, names, open_store
from trainables.record.environment import Environment
from trainables.record.process import Process
from trainables.record.runs import StoredRun
from trainables.record.spool import Spool
from trainables.spec import RunOptions, TrialSpec
from trainables.trial import run_trial

DAY_S = 86_400.0
SHORT = {"steps": 6, "batch_size": 16, "evaluation": {"points": 2}}


def tiny_trial(**changes: object) -> TrialSpec:
    return trial_of(**{"training": SHORT, **changes})


@pytest.fixture(autouse=True)
def every_evaluation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a trial can be stopped at any of them, however quick it is."""
    monkeypatch.setattr("trainables.progress.REPORT_AT_MOST_EVERY_S", -1.0)


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def here(pid: int) -> str:
    return replace(Process.here(), pid=pid).text()


def finish(store: Store, spec: TrialSpec) -> TrialRecord:
    assert run_alone(spec, store=store, threads=1, data_root=None) is False
    return record_of(store, spec)


def interrupt(store: Store, spec: TrialSpec, *, at_step: int = 1) -> TrialRecord:
    """Stop a trial in the middle, as a signal does; it holds a state and `initial`."""
    options = RunOptions(state_every_s=0, keep=("initial", "best", "final"))
    with closing(run_trial(spec, store=store, options=options, data_root=None)) as running:
        next(progress for progress in running if progress.step >= at_step)
    return record_of(store, spec)


def leave_running(store: Store, record: TrialRecord, process: str, *, silent_s: float = 5.0) -> None:
    """Make a run look as `kill -9` leaves it."""
    store.client.update_run(record.run_id, "RUNNING")
    store.client.set_tag(record.run_id, names.PROCESS, process)
    store.client.set_tag(record.run_id, names.ALIVE, str(int(time.time() - silent_s)))


def open_writer(store: Store, **changes: object) -> TrialWriter:
    return TrialWriter.open(store, tiny_trial(**changes), study="s", environment=Environment({}, {}))


def record_of(store: Store, spec: TrialSpec) -> TrialRecord:
    record = RecordReader(store).trial(trial_id(spec))
    assert record is not None
    return record


def file_of(store: Store, record: TrialRecord, path: str) -> Path:
    folder = store.client.get_run(record.run_id).info.artifact_uri.removeprefix("file://")
    return Path(folder) / path


def look(store: Store, *, deep: bool = False) -> list[Treated]:
    return list(treat(check_records(examine(store, is_deep=deep)), is_repairing=False))


def mend(store: Store, *, deep: bool = False) -> list[Treated]:
    """Repair everything, and see that a second doctor finds nothing."""
    treated = list(treat(check_records(examine(store, is_deep=deep)), is_repairing=True))
    assert [each.fate for each in treated] == [Fate.REPAIRED] * len(treated)
    assert look(store, deep=deep) == []
    return treated


def what(treated: list[Treated]) -> list[tuple[str, str]]:
    return [(each.finding.check, each.finding.what) for each in treated]


# Processes


def running(tags: dict[str, str], *, start_s: float = 0.0) -> StoredRun:
    return StoredRun("r", "RUNNING", int(1000 * start_s), None, tags, {})


def how(tags: dict[str, str], *, now_s: float) -> str | None:
    death = death_of(running(tags), now_s=now_s)
    return death.how if death else None


def test_a_process_of_this_machine_is_known_to_be_gone_at_once(dead_pid: int) -> None:
    now = time.time()
    tags = {names.PROCESS: here(dead_pid), names.ALIVE: str(now)}
    gone = f"process {dead_pid} on {socket.gethostname()} is gone"
    assert death_of(running(tags, start_s=now), now_s=now) == Death(gone, is_certain=True)


def test_a_process_that_lives_here_is_alive_however_long_mlflow_was_away() -> None:
    now = time.time()
    tags = {names.PROCESS: here(os.getpid()), names.ALIVE: str(now)}
    assert how(tags, now_s=now + DAY_S) is None


@pytest.mark.parametrize("process", ["elsewhere:7", f"{socket.gethostname()}:7"], ids=["host", "old version"])
def test_a_process_that_cannot_be_looked_for_is_judged_by_its_signs_of_life(process: str) -> None:
    tags = {names.PROCESS: process, names.ALIVE: "1000"}
    assert how(tags, now_s=1000 + names.DEAD_AFTER_S) is None
    where = process.removesuffix(":7")
    silent = Death(f"no sign of life for 5 min from process 7 on {where}", is_certain=False)
    assert death_of(running(tags), now_s=1301) == silent


@pytest.mark.parametrize("alive", [{}, {names.ALIVE: "yesterday"}, {names.ALIVE: "nan"}])
def test_a_run_without_a_sign_of_life_is_judged_by_its_start(alive: dict[str, str]) -> None:
    assert how(alive, now_s=DAY_S / 2) is None
    assert how(alive, now_s=3 * DAY_S) == "begun 3 days ago, never a sign of life"


# Trials


def test_a_store_in_order_has_no_findings_not_even_deep(store: Store) -> None:
    finish(store, tiny_trial())
    interrupt(store, tiny_trial(seed=1))
    live = open_writer(store, seed=2)
    live.commit_state(Contents({"w": torch.ones(3)}, {"step": 3}))
    live.drain()
    assert look(store) == look(store, deep=True) == []
    live.close()


def test_a_run_that_a_dead_process_left_running_is_killed_and_goes_on(store: Store, dead_pid: int) -> None:
    spec = tiny_trial()
    record = interrupt(store, spec)
    leave_running(store, record, here(dead_pid))
    seen_s = int(store.client.get_run(record.run_id).data.tags[names.ALIVE])
    assert what(look(store)) == [
        ("zombies", f"marked running, but process {dead_pid} on {socket.gethostname()} is gone")
    ]
    assert record_of(store, spec).status == "running"  # looking changes nothing
    mend(store)
    assert record_of(store, spec).status == "killed"
    assert store.client.get_run(record.run_id).info.end_time == max(
        seen_s * 1000, store.client.get_run(record.run_id).info.start_time
    )
    again = finish(store, spec)
    assert (again.status, again.run_id) == ("finished", record.run_id)
    steps = [point.step for point in store.client.get_metric_history(record.run_id, "val_auroc")]
    assert len(steps) == len(set(steps)) > 2


def test_a_run_that_somebody_takes_up_between_look_and_repair_is_left(store: Store, dead_pid: int) -> None:
    spec = tiny_trial()
    open_writer(store).interrupt()
    leave_running(store, record_of(store, spec), here(dead_pid))
    findings = list(check_records(examine(store)))
    writer = open_writer(store)
    (left,) = treat(findings, is_repairing=True)
    assert (left.fate, left.reason) == (Fate.LEFT, "a process has written to it meanwhile")
    assert record_of(store, spec).status == "running"
    writer.close()


def test_a_process_that_comes_back_from_behind_a_cut_network_writes_no_more(store: Store) -> None:
    writer = open_writer(store)
    writer.drain()
    record = record_of(store, tiny_trial())
    leave_running(store, record, "elsewhere:7", silent_s=1000.0)
    mend(store)
    with pytest.raises(StaleAttemptError, match="attempt 2-doctor has taken over from attempt 1-"):
        writer.finish()
    assert finish(store, tiny_trial()).run_id == record.run_id


def test_all_that_is_wrong_with_one_run_is_repaired_at_once(store: Store, dead_pid: int) -> None:
    record = interrupt(store, tiny_trial())
    leave_running(store, record, here(dead_pid))
    assert record.state is not None
    truncate(file_of(store, record, record.state.path))
    file_of(store, record, "state/orphan.safetensors").write_bytes(b"x")
    assert [each.finding.check for each in mend(store)] == ["zombies", "checkpoints", "orphans"]
    assert finish(store, tiny_trial()).status == "finished"


def test_of_several_runs_of_a_trial_the_one_that_counts_stays(store: Store, dead_pid: int) -> None:
    spec = tiny_trial()
    record = interrupt(store, spec)
    tags = store.client.get_run(record.run_id).data.tags
    twin = store.client.create_run(store.experiment_id, tags={**tags, names.PROCESS: here(dead_pid)})
    (found,) = look(store)
    assert found.finding.what == f"a second run of trial {trial_id(spec)}; run {record.run_id} counts"
    mend(store)
    assert [run.info.run_id for run in store.search(names.TRIAL_ID, trial_id(spec))] == [record.run_id]
    assert store.client.get_run(twin.info.run_id).info.lifecycle_stage == "deleted"
    assert finish(store, spec).run_id == record.run_id


def test_a_second_run_that_a_process_writes_is_not_deleted(store: Store) -> None:
    writer = open_writer(store)
    writer.interrupt()
    tags = store.client.get_run(writer.run_id).data.tags
    alive = {names.PROCESS: here(os.getpid()), names.ALIVE: str(int(time.time()))}
    store.client.create_run(store.experiment_id, tags={**tags, **alive})
    (treated,) = treat(check_records(examine(store)), is_repairing=True)
    assert treated.fate == Fate.FOUND
    assert treated.finding.todo == "a process writes it: wait, and look again"
    assert len(store.search(names.TRIAL_ID, trial_id(tiny_trial()))) == 2


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 0xFF]))


DAMAGES = {
    "missing": (Path.unlink, "which is missing"),
    "truncated": (truncate, "bytes instead of"),
    "altered": (flip, "has SHA-256"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_given_up_and_the_trial_begins_anew(store: Store, damage: str) -> None:
    do_damage, words = DAMAGES[damage]
    spec = tiny_trial()
    record = interrupt(store, spec)
    assert record.state is not None
    do_damage(file_of(store, record, record.state.path))
    is_deep = damage == "altered"
    if is_deep:
        assert look(store) == []
    (found,) = mend(store, deep=is_deep)
    assert words in found.finding.what
    assert found.finding.todo == "drop the pointers; the trial begins anew"
    assert record_of(store, spec).resumes_at_step == 0
    assert finish(store, spec).status == "finished"
    assert look(store, deep=True) == []


def test_a_damaged_checkpoint_that_the_state_has_passed_is_written_again(store: Store) -> None:
    spec = tiny_trial()
    record = interrupt(store, spec)
    truncate(file_of(store, record, record.checkpoints["initial"].path))
    (found,) = mend(store)
    assert "initial points to checkpoints/" in found.finding.what
    options = RunOptions(keep=("initial", "best", "final"))
    for _ in run_trial(spec, store=store, options=options, data_root=None):
        pass
    reader = RecordReader(store)
    again = record_of(store, spec)
    assert again.status == "finished"
    assert reader.weights(again, "initial")


def test_a_checkpoint_after_the_state_costs_no_more_than_itself(store: Store) -> None:
    writer = open_writer(store)
    writer.commit_state(Contents({"w": torch.ones(3)}, {"step": 3}))
    writer.commit_checkpoints({"step-0000006": {"w": torch.ones(3)}}, {"step-0000006": 6})
    writer.interrupt()
    record = record_of(store, tiny_trial())
    file_of(store, record, record.checkpoints["step-0000006"].path).unlink()
    (found,) = mend(store)
    assert found.finding.todo.endswith("goes on from its state, and writes them again")
    assert record_of(store, tiny_trial()).resumes_at_step == 3


def test_a_pointer_edited_by_hand_is_dropped_with_the_file_it_hid(store: Store) -> None:
    spec = tiny_trial()
    record = interrupt(store, spec)
    store.client.set_tag(record.run_id, names.STATE, "../../somewhere")
    assert {check for check, _ in what(look(store))} == {"checkpoints", "orphans"}
    list(treat(check_records(examine(store)), is_repairing=True))
    assert look(store) == []
    assert finish(store, spec).status == "finished"


def test_a_finished_trial_with_damaged_weights_is_trained_again(store: Store) -> None:
    source = tiny_trial(dataset={"reader": "digits", "classes": ["0", "1"], "size_px": 16})
    source_spec = source.model_dump(mode="json")
    child = tiny_trial(init={"kind": "pretrained", "source": {"trial": source_spec}})
    finish(store, child)
    record = record_of(store, source)
    before = RecordReader(store).weights(record, "final")
    truncate(file_of(store, record, record.checkpoints["final"].path))
    assert look(store) == []  # the files of finished trials are looked at on request
    (found,) = mend(store, deep=True)
    assert f"; 1 trials started from it: {child.label} (run " in found.finding.what
    failed = record_of(store, source)
    assert failed.status == "failed"
    assert str(failed.cause).startswith("found damaged by transfusion doctor: ")
    assert "final points to checkpoints/" in str(failed.cause)
    again = finish(store, source)
    assert (again.status, again.cause, again.run_id) == ("finished", None, record.run_id)
    after = RecordReader(store).weights(again, "final")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert look(store, deep=True) == []


def test_a_download_that_was_cut_short_once_makes_no_finished_trial_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(store, tiny_trial())
    answers = iter(["cut short"])
    monkeypatch.setattr("study.doctor.checkpoints.digest", lambda file: next(answers, "") or digest(file))
    assert look(store, deep=True) == []
    assert next(answers, None) is None


def test_a_finished_trial_whose_pointer_was_edited_is_found_without_looking_at_files(store: Store) -> None:
    record = finish(store, tiny_trial())
    store.client.set_tag(record.run_id, "checkpoint.best", "gone")
    (found,) = mend(store)
    assert "tag 'checkpoint.best' does not point to a file of its run" in found.finding.what
    assert record_of(store, tiny_trial()).status == "failed"
    assert {"best", "final"} <= finish(store, tiny_trial()).checkpoints.keys()


def test_files_that_nothing_points_to_are_deleted_with_their_size_told(store: Store) -> None:
    done, open_ = finish(store, tiny_trial(seed=1)), interrupt(store, tiny_trial())
    for record in (done, open_):
        for folder in ("state", "checkpoints"):
            file = file_of(store, record, f"{folder}/orphan.safetensors")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x" * 600)
    (found,) = look(store)
    assert "2 files (1,200 bytes) that nothing points to: checkpoints/orphan.safetensors, state/orphan" in (
        found.finding.what
    )
    assert len(mend(store, deep=True)) == 2
    assert finish(store, tiny_trial()).status == "finished"
    assert RecordReader(store).weights(record_of(store, tiny_trial(seed=1)), "best")


def test_files_of_a_run_that_is_written_are_not_looked_at(store: Store) -> None:
    writer = open_writer(store)
    record = record_of(store, tiny_trial())
    file = file_of(store, record, "state/coming.safetensors")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert look(store, deep=True) == []
    writer.close()


def test_a_description_edited_by_hand_is_found_and_mended_by_running(store: Store) -> None:
    writer = open_writer(store)
    writer.interrupt()
    for text in ("{}", '{"architecture": "cbr_huge"}', "[" * names.MAX_TAG_CHARACTERS, "7"):
        store.client.set_tag(writer.run_id, names.SPEC, text)
        (found,) = look(store)
        assert found.finding.what.startswith("its tag 'spec' ")
        assert found.finding.repair is None
    assert finish(store, tiny_trial()).status == "finished"
    assert look(store) == []


def test_a_finished_trial_with_the_description_of_another_is_trained_again(store: Store) -> None:
    record = finish(store, tiny_trial())
    other = json.dumps(tiny_trial(seed=5).model_dump(mode="json"))
    store.client.set_tag(record.run_id, names.SPEC, other)
    (found,) = treat(check_records(examine(store)), is_repairing=True)
    assert found.fate == Fate.REPAIRED
    assert found.finding.what == "its tag 'spec' is that of another trial: it was edited by hand"
    assert finish(store, tiny_trial()).spec == tiny_trial()
    assert look(store) == []


def test_runs_of_another_version_are_none_of_its_business(store: Store) -> None:
    writer = open_writer(store)
    writer.finish()
    content = {**tiny_trial().model_dump(mode="json"), "spec_version": 1}
    store.client.set_tag(writer.run_id, names.SPEC, json.dumps(content))
    assert look(store) == []


# Studies


def sign(store: Store, driver: Driver | None) -> str:
    run = open_study_run(store, "cells")
    store.client.set_tag(run.run_id, "driver", driver.text() if driver else "")
    return run.run_id


def test_a_study_whose_driver_is_gone_is_killed_and_may_go_on(store: Store) -> None:
    run_id = sign(store, replace(Driver.here(), started=1))
    (found,) = mend(store)
    assert re.fullmatch(r"marked running, but .*, process \d+, since .* is gone", found.finding.what)
    assert found.finding.todo == "mark it killed; go on with: transfusion resume cells"
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags["driver"]) == ("KILLED", "")


@pytest.mark.parametrize(("silent_s", "is_found"), [(30.0, False), (90.0, True)])
def test_a_driver_elsewhere_is_judged_by_its_signs_of_life(
    store: Store, silent_s: float, is_found: bool
) -> None:
    sign(store, replace(Driver.here(), machine="elsewhere", host="elsewhere", alive=time.time() - silent_s))
    assert bool(look(store)) == is_found


def test_a_study_that_is_driven_or_has_just_begun_is_left(store: Store) -> None:
    sign(store, Driver.here())
    assert look(store) == []
    sign(store, None)
    assert look(store) == []
    old = examine(store, now_s=time.time() + 3 * DAY_S)
    (found,) = check_records(old)
    assert found.what == "marked running, but begun 3 days ago, never a sign of life"


# Those who are only silent


@pytest.fixture
def quick_ears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LISTEN_S", 0.8)
    monkeypatch.setattr(listening, "LOOK_EVERY_S", 0.05)


def listen(store: Store, *, meanwhile: Callable[[], object] = lambda: None) -> Examination:
    """Listen, while something happens once."""
    happening = iter([meanwhile])
    return after_listening(examine(store), progress=lambda *_: next(happening, lambda: None)())


def repaired(seen: Examination) -> list[str]:
    return [each.finding.check for each in treat(check_records(seen), is_repairing=True)]


def set_alive(store: Store, record: TrialRecord, *, silent_s: float) -> None:
    store.client.set_tag(record.run_id, names.ALIVE, str(int(time.time() - silent_s)))


@pytest.mark.usefixtures("quick_ears")
def test_of_the_silent_those_that_are_heard_are_left_whatever_their_clocks_say(store: Store) -> None:
    specs = [tiny_trial(seed=seed) for seed in (1, 2)]
    for seed, spec in enumerate(specs, 1):
        open_writer(store, seed=seed).interrupt()
        leave_running(store, record_of(store, spec), "elsewhere:7", silent_s=1000)
    lives = record_of(store, specs[0])
    seen = listen(store, meanwhile=lambda: set_alive(store, lives, silent_s=900))
    assert repaired(seen) == ["zombies"]
    assert [record_of(store, spec).status for spec in specs] == ["running", "killed"]


@pytest.mark.usefixtures("quick_ears")
def test_a_second_run_and_a_driver_that_are_heard_are_left(store: Store) -> None:
    open_writer(store).interrupt()
    tags = store.client.get_run(record_of(store, tiny_trial()).run_id).data.tags
    silent = {names.PROCESS: "elsewhere:7", names.ALIVE: "1000"}
    twin = store.client.create_run(store.experiment_id, tags={**tags, **silent})
    driver = replace(Driver.here(), machine="elsewhere", alive=time.time() - 1000)
    sign(store, driver)

    def both_live() -> None:
        store.client.set_tag(twin.info.run_id, names.ALIVE, "1030")
        sign(store, replace(driver, alive=driver.alive + 10))

    (left,) = treat(check_records(listen(store, meanwhile=both_live)), is_repairing=True)
    assert (left.fate, left.finding.todo) == (Fate.FOUND, "a process writes it: wait, and look again")
    assert repaired(listen(store)) == ["duplicates", "studies"]


@pytest.mark.usefixtures("quick_ears")
def test_a_trial_that_waits_out_an_outage_is_not_fenced_by_a_doctor_right_after_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEARTBEAT_EVERY_S", 0.05)
    monkeypatch.setattr(listening, "LISTEN_S", 20.0)  # it ends when all are heard
    monkeypatch.setattr("trainables.record.outage.FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr("trainables.record.outage.LONGEST_PAUSE_S", 0.4)
    of_doctor = open_store(store.uri)
    writer = open_writer(store)
    with monkeypatch.context() as patch:

        def away(*_: object, **__: object) -> None:
            raise MlflowException("503 Service Unavailable")

        patch.setattr(store.client, "log_batch", away)
        of_doctor.client.set_tag(writer.run_id, names.PROCESS, "elsewhere:7")
        of_doctor.client.set_tag(writer.run_id, names.ALIVE, str(int(time.time() - 1000)))
        time.sleep(0.5)
        just_after = examine(of_doctor)
        assert [run.run_id for run in silent_runs(just_after)] == [writer.run_id]
    assert repaired(after_listening(just_after, progress=lambda *_: None)) == []
    writer.finish()
    assert record_of(store, tiny_trial()).status == "finished"


def test_nobody_is_listened_to_where_nobody_is_silent(
    store: Store, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_writer(store).interrupt()
    leave_running(store, record_of(store, tiny_trial()), here(dead_pid))
    monkeypatch.setattr("study.doctor.listening.time.sleep", lambda _: pytest.fail("it waits"))
    assert repaired(after_listening(examine(store), progress=lambda *_: None)) == ["zombies"]


@pytest.mark.usefixtures("quick_ears")
def test_the_listening_begins_anew_when_mlflow_was_away_meanwhile_and_ends_some_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SLOW_LOOK_S", 0.3)
    open_writer(store).interrupt()
    leave_running(store, record_of(store, tiny_trial()), "elsewhere:7", silent_s=1000)
    seen, look_for = examine(store), Store.runs
    slow = iter([0.0, 0.0, 0.5])  # the third look meets an outage

    def slowly(of: Store, query: str) -> list[Run]:
        time.sleep(next(slow, 0.0))
        return look_for(of, query)

    monkeypatch.setattr(Store, "runs", slowly)
    began = time.monotonic()
    after_listening(seen, progress=lambda *_: None)
    assert time.monotonic() - began > 0.5 + 0.8
    monkeypatch.setattr(listening, "GIVE_UP_AFTER_S", 1.0)
    slow = iter([0.4] * 100)
    with pytest.raises(TrackingError, match="answers too slowly to tell who lives; nothing was repaired"):
        after_listening(seen, progress=lambda *_: None)


# Plain Ray Tune


class TuneTrial:
    """What Ray's callback needs of a trial of Tune."""

    def __init__(self, name: str) -> None:
        self.name, self.config = name, {"lr": 0.1}

    def __str__(self) -> str:
        return self.name


def sweep(store: Store, ends: Callable[[MLflowLoggerCallback, TuneTrial], None], *, steps: int = 3) -> None:
    """Do what Ray Tune's own callback does for one trial, in a process of its own."""
    callback = MLflowLoggerCallback(tracking_uri=store.uri, experiment_name="plain")
    callback.setup()
    trial = TuneTrial("train_abc_00000")
    callback.log_trial_start(trial)
    for step in range(1, steps + 1):
        callback.log_trial_result(step, trial, {"loss": 1 / step, "training_iteration": step})
    ends(callback, trial)
    time.sleep(0.01)


def is_killed(callback: MLflowLoggerCallback, trial: TuneTrial) -> None:
    """The driver dies: nothing is written."""


def plain_runs(store: Store) -> list[str]:
    experiment = store.client.get_experiment_by_name("plain")
    runs = store.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run.info.status for run in runs]


def treat_plain(store: Store, *, later_s: float = 0.0, repair: bool = True) -> list[Treated]:
    return list(treat(check_foreign(store, "plain", now_s=time.time() + later_s), is_repairing=repair))


def test_runs_that_ray_tune_forked_are_told_and_the_zombie_is_killed(store: Store) -> None:
    sweep(store, is_killed, steps=7)
    sweep(store, MLflowLoggerCallback.log_trial_end)
    assert plain_runs(store) == ["RUNNING", "FINISHED"]
    (found,) = treat_plain(store, repair=False)
    assert "one of 2 runs of this name, still marked running after another began" in found.finding.what
    assert found.finding.where.startswith("train_abc_00000 (run ")
    treat_plain(store)
    assert plain_runs(store) == ["KILLED", "FINISHED"]
    assert treat_plain(store) == []


def test_a_run_of_ray_tune_that_may_live_is_left(store: Store) -> None:
    sweep(store, is_killed)
    assert treat_plain(store) == []
    (found,) = treat_plain(store, later_s=3 * DAY_S)
    assert found.finding.what == "marked running, nothing was written for 3 days"
    assert plain_runs(store) == ["KILLED"]


def test_an_experiment_that_is_not_there_is_an_error_with_those_that_are(store: Store) -> None:
    with pytest.raises(TrackingError, match=r"no experiment 'tst' in .*; did you mean 'test'\?"):
        list(check_foreign(store, "tst", now_s=0.0))


# This machine, and the command


def test_what_a_dead_process_left_on_the_disk_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    live = Spool([], wait_s=0)
    live.write("a.bin", lambda path: path.write_bytes(b"x" * 10), n_bytes=10)
    assert list(check_leftovers()) == []
    assert live._lock is not None
    os.close(live._lock)  # as the end of a process does
    live._lock = None
    (found,) = treat(check_leftovers(), is_repairing=True)
    assert found.finding.what == "10 bytes that a dead process had not sent to MLflow yet"
    assert list(check_leftovers()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_command_looks_then_repairs_and_tells_by_its_exit_code(
    store: Store, dead_pid: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("study.doctor.nodes.LITTLE_DISK_BYTES", 0.0)
    open_writer(store).interrupt()
    leave_running(store, record_of(store, tiny_trial()), here(dead_pid))

    def doctor(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["doctor", *arguments])
        return result.exit_code, result.output

    code, output = doctor()
    assert code == 4
    assert "→ --repair would mark it killed; it goes on when its study is run again" in output
    assert "1 node, 1 trials, 0 studies: 1 found, 1 of them --repair can mend" in output
    code, output = doctor("--json")
    (row,) = json.loads(output)["findings"]
    assert (code, row["check"], row["fate"], row["can_be_repaired"]) == (4, "zombies", "found", True)
    code, output = doctor("--repair")
    assert code == 0
    assert "→ repaired: mark it killed" in output
    assert "silent" not in output
    code, output = doctor()
    assert code == 0
    assert "1 node, 1 trials, 0 studies: nothing is wrong" in output
    assert record_of(store, tiny_trial()).status == "killed"


@pytest.mark.usefixtures("quick_ears")
def test_the_command_says_for_how_long_it_would_listen_and_listens_before_it_repairs(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("study.doctor.nodes.LITTLE_DISK_BYTES", 0.0)
    open_writer(store).interrupt()
    leave_running(store, record_of(store, tiny_trial()), "elsewhere:7", silent_s=1000)
    looked = CliRunner().invoke(main, ["doctor"]).output
    assert "marked running, but no sign of life for 17 min from process 7 on elsewhere" in looked
    assert "→ --repair would listen to it for 90 s, and if it stays silent mark it killed" in looked
    assert record_of(store, tiny_trial()).status == "running"
    mended = CliRunner().invoke(main, ["doctor", "--repair", "--json"])
    told = "1 silent runs may be alive, if MLflow was away: listening to them for up to 1 s"
    assert told in mended.stderr
    (row,) = json.loads(mended.stdout)["findings"]
    assert (row["fate"], row["todo"].startswith("mark it killed")) == ("repaired", True)
