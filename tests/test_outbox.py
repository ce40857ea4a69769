"""The outbox of a writer: whatever MLflow and the disk do, the record is a beginning of what was written."""

import errno
import gc
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED
from requests import HTTPError, Response

from tests.conftest import tiny_trial
from trainables.checkpoints import Contents
from trainables.errors import DiskFullError, StaleAttemptError, TrackingError
from trainables.record import RecordReader, Store, TrialWriter, names, open_store
from trainables.record.environment import Environment
from trainables.record.process import Process
from trainables.record.spool import PREFIX, Spool, remove_abandoned, temporary_folder
from trainables.spec import FailureOptions

ENVIRONMENT = Environment({"host": "here"}, {"packages": {}})
WRITES = ("log_batch", "log_inputs", "set_terminated")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trainables.record.outage.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("trainables.record.outage.LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr("trainables.record.outage.DISK_PAUSE_S", 0.02)
    monkeypatch.setattr("trainables.record.outage.TELL_AFTER_S", 0.05)
    monkeypatch.setattr("trainables.record.spool.CHECK_DISK_EVERY_S", 0.02)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


class Gate:
    """Stands before every write of a store, and lets through, raises or holds up."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.calls: list[str] = []
        repository = type(store.artifacts(store.client.create_run(store.experiment_id)).repository)
        owners = [(type(store.client), name) for name in WRITES]
        for owner, name in [*owners, (repository, "log_artifact"), (repository, "delete_artifacts")]:
            monkeypatch.setattr(owner, name, self._guarded(name, getattr(owner, name)))

    def _guarded(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            self.calls.append(name)
            self.before(name)
            result = method(*arguments, **keywords)
            self.after(name)
            return result

        return call


@pytest.fixture
def gate(store: Store, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(store, monkeypatch)


def away(_: str) -> None:
    raise MlflowException("503 Service Unavailable")


def refused(_: str) -> None:
    raise MlflowException("you may not", error_code=PERMISSION_DENIED)


def full(_: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def open_writer(store: Store, *, seed: int = 0, **failures: float) -> TrialWriter:
    return TrialWriter.open(
        store,
        tiny_trial(seed=seed),
        study="s",
        environment=ENVIRONMENT,
        failures=FailureOptions(**failures),  # type: ignore[arg-type]
    )


def state(step: int) -> Contents:
    return Contents({"w": torch.full((4,), float(step))}, {"step": step})


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.005)


def spooled() -> list[Path]:
    return [file for file in Path(tempfile.gettempdir()).rglob("*") if file.is_file() and file.name != "lock"]


def values(store: Store, writer: TrialWriter, name: str = "loss") -> list[tuple[int, float]]:
    history = store.client.get_metric_history(writer.run_id, name)
    return sorted((point.step, point.value) for point in history)


def train(writer: TrialWriter) -> None:
    """A whole trial of two steps, which goes on where its state says."""
    begun = writer.load_state()
    writer.log_dataset(name="digits", digest="a" * 64)
    if begun is None:
        writer.commit_checkpoints({"initial": {"w": torch.zeros(4)}}, {"initial": 0})
    for step in range(int(begun.facts["step"]) + 1 if begun else 1, 3):
        writer.log_metrics({"loss": step / 10, "accuracy": step / 5}, step=step)
        writer.commit_state(state(step))
    writer.log_predictions("test", pd.DataFrame({"sample_id": ["a"], "score": [0.5]}))
    writer.log_metrics({"test_loss": 0.5}, step=2)
    writer.commit_checkpoints({"final": {"w": torch.ones(4)}}, {"final": 2})
    writer.finish()


def content(store: Store, writer: TrialWriter) -> dict[str, object]:
    """All that a record says, without what is new in each attempt."""
    reader = RecordReader(store)
    (record,) = reader.trials("s")
    assert reader.notices == []
    run = store.client.get_run(writer.run_id)
    return {
        "status": record.status,
        "metrics": {name: values(store, writer, name) for name in run.data.metrics},
        "weights": {name: reader.weights(record, name)["w"].tolist() for name in record.checkpoints},
        "predictions": reader.predictions(record).to_dict(),
        "inputs": [entry.dataset.digest for entry in run.inputs.dataset_inputs],
        "digest": record.dataset_digest,
        "states": writer.artifacts.paths(names.STATES),
        "n_weights": len(writer.artifacts.paths(names.CHECKPOINTS)),
    }


def drained_at_each_step(writer: TrialWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every step before the next is queued, so that no state is ever replaced while it waits."""
    put = type(writer._open_outbox()).put

    def put_and_wait(outbox: object, send: object) -> None:
        put(outbox, send)  # type: ignore[arg-type]
        outbox.drain()  # type: ignore[attr-defined]

    monkeypatch.setattr(type(writer._open_outbox()), "put", put_and_wait)


@pytest.mark.parametrize("is_processed", [False, True], ids=["lost", "answer lost"])
def test_a_process_that_dies_at_any_write_leaves_a_record_that_the_next_attempt_completes(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch, is_processed: bool
) -> None:
    whole = open_writer(store, seed=0)
    drained_at_each_step(whole, monkeypatch)
    gate.calls.clear()
    train(whole)
    expected, n_writes = content(store, whole), len(gate.calls)
    assert n_writes > 10
    store.client.delete_run(whole.run_id)

    for k in range(n_writes):
        writer = open_writer(store)
        counter = itertools.count()

        def die(_: str, k: int = k, counter: Iterator[int] = counter) -> None:
            if next(counter) >= k:
                raise SystemError("the process is gone")

        setattr(gate, "after" if is_processed else "before", die)
        with pytest.raises(SystemError):
            train(writer)
        writer.close()
        setattr(gate, "after" if is_processed else "before", lambda _: None)
        again = open_writer(store)
        found = {}
        if again.is_finished:
            # Only the last write is missing: a file that nothing points to any more lies there still.
            found = {"states": []}
        else:
            train(again)
        assert content(store, again) | found == expected, f"died at write {k}"
        store.client.delete_run(again.run_id)


def test_training_goes_on_while_mlflow_is_away_and_all_arrives_when_it_is_back(
    store: Store, gate: Gate
) -> None:
    writer = open_writer(store)
    gate.before = away
    began = time.monotonic()
    for step in range(200):
        writer.log_metrics({"loss": step / 10}, step=step)
        writer.flush()
    writer.commit_checkpoints({"final": {"w": torch.ones(4)}}, {"final": 200})
    assert time.monotonic() - began < 2
    until(lambda: writer.notices)
    assert values(store, writer) == []
    gate.before = lambda _: None
    writer.finish()
    assert values(store, writer) == [(step, step / 10) for step in range(200)]
    told, back = writer.notices
    assert told.startswith(f"MLflow at {store.uri} is away since ")
    assert "(503 Service Unavailable); training goes on, " in told
    assert f"writes wait in {tempfile.gettempdir()}/{PREFIX}{os.getpid()}-" in told
    assert "takes writes again, after 0 s" in back
    assert spooled() == []


def test_of_the_states_that_wait_only_the_newest_is_kept_and_no_metric_is_lost(
    store: Store, gate: Gate
) -> None:
    writer = open_writer(store)
    writer.commit_state(state(1))
    writer.drain()
    gate.before = away
    for step in range(2, 30):
        writer.log_metrics({"loss": step / 10}, step=step)
        writer.commit_state(state(step))
        # One that is under way, and one that waits.
        assert len(spooled()) <= 2
    gate.before = lambda _: None
    writer.drain()
    assert spooled() == []
    assert writer.artifacts.paths(names.STATES) == [writer.state.path]  # type: ignore[union-attr]
    assert values(store, writer) == [(step, step / 10) for step in range(2, 30)]
    resumed = open_writer(store).load_state()
    assert resumed is not None
    assert resumed.facts["step"] == 29


@pytest.mark.parametrize("lost_answer", ["log_artifact", "log_batch"])
def test_a_state_that_arrived_though_its_answer_did_not_is_deleted_when_a_newer_replaces_it(
    store: Store, gate: Gate, lost_answer: str
) -> None:
    writer = open_writer(store)
    writer.commit_state(state(1))
    writer.drain()

    def lose(name: str) -> None:
        if name == lost_answer:
            away(name)

    gate.after, n_before = lose, len(gate.calls)
    writer.commit_state(state(2))
    until(lambda: len(gate.calls) > n_before + 5)
    writer.commit_state(state(3))
    gate.after = lambda _: None
    writer.drain()
    assert writer.artifacts.paths(names.STATES) == [writer.state.path]  # type: ignore[union-attr]


def test_a_batch_of_which_the_answer_was_lost_is_sent_again_and_no_point_is_doubled(
    store: Store, gate: Gate
) -> None:
    writer, failures = open_writer(store), itertools.count()

    def lose_twice(name: str) -> None:
        if name == "log_batch" and next(failures) < 2:
            raise MlflowException("Connection reset by peer")

    gate.after = lose_twice
    for step in range(600):
        writer.log_metrics({"loss": step / 10, "gap": float("nan")}, step=step)
    writer.finish()
    assert next(failures) > 3
    assert values(store, writer) == [(step, step / 10) for step in range(600)]
    assert len(values(store, writer, "gap")) == 600


def test_mlflow_itself_ignores_a_batch_that_it_holds_already(store: Store) -> None:
    run = store.client.create_run(store.experiment_id)
    points = [
        Metric("loss", value, 1234, step) for step, value in enumerate([0.5, float("nan"), float("inf")])
    ]
    for batch in (points, points, [*points, Metric("loss", 0.1, 1234, 9)]):
        store.client.log_batch(run.info.run_id, metrics=batch)
    assert len(store.client.get_metric_history(run.info.run_id, "loss")) == 4


def test_a_pointer_comes_after_all_metrics_of_its_commit_however_many(store: Store, gate: Gate) -> None:
    writer = open_writer(store)
    seen: list[int] = []

    def note(name: str) -> None:
        if name == "log_batch" and names.STATE in store.client.get_run(writer.run_id).data.tags:
            seen.append(len(values(store, writer)))

    gate.after = note
    for step in range(2500):
        writer._metrics.append(Metric("loss", float(step), 1, step))
    writer.commit_state(state(2500))
    writer.drain()
    assert seen == [2500]


def test_after_the_time_to_wait_for_mlflow_the_next_call_says_so(store: Store, gate: Gate) -> None:
    writer = open_writer(store, wait_for_mlflow_min=0.2 / 60)
    gate.before = away
    writer.log_metrics({"loss": 0.5}, step=1)
    with pytest.raises(
        TrackingError,
        match=r"MLflow at .* has been away for \d s: 503 Service Unavailable; the trial is as good as its "
        "last state there, and goes on when it is run again",
    ):
        writer.finish()
    with pytest.raises(TrackingError, match="has been away"):
        writer.flush()
    assert RecordReader(store).trials("s")[0].status == "running"


@pytest.mark.parametrize("refusal", [refused, lambda _: raise_http(403)], ids=["mlflow", "artifacts"])
def test_a_refusal_stops_the_sending_at_once_and_is_raised_by_the_next_call(
    store: Store, gate: Gate, refusal: Callable[[str], None]
) -> None:
    writer = open_writer(store)
    gate.before, n_before = refusal, len(gate.calls)
    writer.commit_checkpoints({"final": {"w": torch.ones(4)}}, {"final": 1})
    with pytest.raises(TrackingError, match=r"MLflow at .* refused a write: (you may not|403)"):
        writer.drain()
    with pytest.raises(TrackingError, match="refused a write"):
        writer.log_predictions("test", pd.DataFrame({"a": [1]}))
    assert len(gate.calls) == n_before + 1


def raise_http(status: int) -> None:
    response = Response()
    response.status_code = status
    raise HTTPError(f"{status} Client Error", response=response)


@pytest.mark.parametrize("text", ["QueuePool limit of size 5", "(psycopg2.InterfaceError) connection closed"])
def test_a_database_at_its_limit_is_waited_for_though_mlflow_calls_it_a_bad_request(
    store: Store, gate: Gate, text: str
) -> None:
    writer, failures = open_writer(store), itertools.count()

    def limited(_: str) -> None:
        if next(failures) < 3:
            raise MlflowException(text, error_code=BAD_REQUEST)

    gate.before = limited
    writer.log_metrics({"loss": 0.5}, step=1)
    writer.finish()
    assert values(store, writer) == [(1, 0.5)]


def test_an_attempt_that_became_stale_while_mlflow_was_away_writes_nothing_when_it_is_back(
    store: Store, gate: Gate
) -> None:
    stale = open_writer(store)
    gate.before = away
    stale.log_metrics({"loss": 0.1}, step=1)
    stale.commit_state(state(1))
    until(lambda: stale.notices)
    # The newer attempt is on a machine that reaches MLflow; ours is held up until it has claimed the run.
    reached = threading.current_thread()
    gate.before = lambda name: None if threading.current_thread() is reached else away(name)
    fresh = open_writer(store)
    gate.before = lambda _: None
    with pytest.raises(StaleAttemptError, match=r"attempt 2-\w+ has taken over from attempt 1-\w+"):
        stale.finish()
    fresh.drain()
    assert values(store, fresh) == []
    assert fresh.artifacts.paths(names.STATES) == []


def test_a_full_disk_of_the_artifact_store_is_waited_for(store: Store, gate: Gate) -> None:
    writer = open_writer(store)
    gate.before = lambda name: full(name) if name == "log_artifact" else None
    writer.commit_state(state(1))
    until(lambda: writer.notices)
    assert "cannot write, its disk is full since" in writer.notices[0]
    gate.before = lambda _: None
    writer.drain()
    assert writer.artifacts.paths(names.STATES) == [writer.state.path]  # type: ignore[union-attr]


def test_a_disk_of_the_artifact_store_that_stays_full_ends_the_trial(store: Store, gate: Gate) -> None:
    writer = open_writer(store, wait_for_disk_min=0.1 / 60)
    gate.before = lambda name: full(name) if name == "log_artifact" else None
    writer.commit_state(state(1))
    with pytest.raises(DiskFullError, match=r"its disk is full for \d s: .*No space left on device"):
        writer.drain()


def test_a_full_spool_pauses_the_trial_and_tells_where_while_it_waits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.record import writer as module

    write, seen = module.write_checkpoint, []
    writer = open_writer(store)

    def fill(path: Path, **content: object) -> str:
        if len(seen) < 3:
            seen.append(list(writer.notices))
            path.with_name("torn.partial").write_bytes(b"torn")
            full("")
        return write(path, **content)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_checkpoint", fill)
    writer.commit_state(state(1))
    writer.drain()
    folder = tempfile.gettempdir()
    assert seen[0] == []
    (notice,) = seen[1]
    assert notice.startswith(f"the disk of {folder}/{PREFIX}")
    assert notice.endswith("is full: " + writer.state.path.removeprefix("state/") + " needs 0.1 MiB; waiting")  # type: ignore[union-attr]
    assert spooled() == []


def test_a_spool_that_stays_full_ends_the_trial_with_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.record.writer.write_checkpoint", lambda *_, **__: full(""))
    writer = open_writer(store, wait_for_disk_min=0.0)
    with pytest.raises(
        DiskFullError, match=r"the disk is full, state-.* needs 0.1 MiB.*free some, or set TMPDIR"
    ):
        writer.commit_state(state(1))
    writer.fail("the disk is full")
    assert RecordReader(store).trials("s")[0].status == "failed"


def test_an_open_writer_tells_that_it_lives_and_an_ended_one_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEARTBEAT_EVERY_S", 0.05)
    clock = itertools.count(1000)
    monkeypatch.setattr("trainables.record.sends.now_tag", lambda: {names.ALIVE: str(next(clock))})
    writer = open_writer(store)
    tags = store.client.get_run(writer.run_id).data.tags
    assert abs(int(tags[names.ALIVE]) - time.time()) < 5
    assert Process.read(tags[names.PROCESS]) == Process.here()

    def told() -> int:
        return int(store.client.get_run(writer.run_id).data.tags[names.ALIVE])

    until(lambda: 1003 <= told() < 10**6)
    writer.finish()
    last = told()
    time.sleep(0.2)
    assert told() == last


def test_a_silent_writer_learns_from_its_heartbeat_that_it_was_taken_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEARTBEAT_EVERY_S", 0.05)
    stale = open_writer(store)
    open_writer(store).finish()

    def is_stopped() -> bool:
        try:
            stale.flush()
        except StaleAttemptError:
            return True
        return False

    until(is_stopped)


def test_a_long_upload_does_not_silence_the_signs_of_life(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEARTBEAT_EVERY_S", 0.05)
    clock = itertools.count(1000)
    monkeypatch.setattr("trainables.record.sends.now_tag", lambda: {names.ALIVE: str(next(clock))})
    writer = open_writer(store)
    during: list[dict[str, str]] = []

    def tags() -> dict[str, str]:
        return dict(store.client.get_run(writer.run_id).data.tags)

    def upload_for_long(name: str) -> None:
        if name == "log_artifact":
            before = next(clock)
            until(lambda: before + 3 <= int(tags()[names.ALIVE]) < 10**6)
            during.append(tags())

    gate.before = upload_for_long
    writer.commit_state(state(1))
    writer.finish()
    (seen,) = during
    assert names.STATE not in seen, "the pointer came before its file"
    last = tags()[names.ALIVE]
    time.sleep(0.2)
    assert tags()[names.ALIVE] == last, "a sign of life of a trial that has ended"


def test_a_heartbeat_that_fails_during_an_upload_is_tried_again_and_costs_nothing(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEARTBEAT_EVERY_S", 0.05)
    writer = open_writer(store)
    writer.drain()
    failed: list[str] = []

    def before(name: str) -> None:
        if name == "log_artifact":
            until(lambda: len(failed) >= 2)
        elif name == "log_batch" and len(failed) < 2:
            failed.append(name)
            away(name)

    gate.before = before
    writer.commit_state(state(1))
    writer.drain()
    resumed = open_writer(store)
    assert (resumed.state is not None and resumed.state.step) == 1
    resumed.close()


def test_an_attempt_that_is_taken_over_while_it_uploads_gives_no_sign_of_life_and_no_pointer(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "HEARTBEAT_EVERY_S", 0.05)
    stale = open_writer(store)
    stale.drain()
    uploading, may_go_on = threading.Event(), threading.Event()

    def before(name: str) -> None:
        if name == "log_artifact" and not uploading.is_set():
            uploading.set()
            may_go_on.wait(20)

    gate.before = before
    stale.commit_state(state(1))
    assert uploading.wait(20)
    store.client.set_tag(stale.run_id, names.ATTEMPT, "2-another")
    time.sleep(0.1)  # what was past its fence when the other came
    store.client.set_tag(stale.run_id, names.ALIVE, "7")
    time.sleep(0.3)
    assert store.client.get_run(stale.run_id).data.tags[names.ALIVE] == "7"
    may_go_on.set()
    with pytest.raises(StaleAttemptError):
        stale.drain()
    tags = store.client.get_run(stale.run_id).data.tags
    assert (tags[names.ALIVE], names.STATE in tags) == ("7", False)


def test_a_writer_that_is_dropped_leaves_neither_thread_nor_files(store: Store, gate: Gate) -> None:
    writer = open_writer(store)
    gate.before = away
    writer.commit_state(state(1))
    thread = f"outbox {writer.run_id}"
    assert spooled()
    del writer
    gc.collect()
    until(lambda: thread not in [running.name for running in threading.enumerate()])
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_who_is_told_to_leave_does_not_wait_for_mlflow_for_long(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.record.writer.LEAVING_S", 0.1)
    writer = open_writer(store)
    gate.before = away
    with pytest.raises(TrackingError, match="has been away"):
        writer.interrupt()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_folder_of_a_process_that_was_killed_is_deleted_and_that_of_a_living_one_is_not() -> None:
    told, telling = os.pipe()
    child = os.fork()
    if child == 0:
        spool = Spool([], wait_s=0)
        spool.write("x.bin", lambda file: file.write_bytes(b"x"), n_bytes=1)
        os.write(telling, str(spool.folder).encode())
        time.sleep(60)
        os._exit(0)
    survivor = Spool([], wait_s=0)
    try:
        folder = Path(os.read(told, 1000).decode())
        remove_abandoned()
        assert (folder / "1" / "x.bin").read_bytes() == b"x"
        survivor.write("y.bin", lambda file: file.write_bytes(b"y"), n_bytes=1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(telling)
    assert folder.exists()
    survivor.close()  # nobody may come after it
    assert not folder.exists()


class Unauthorized(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        type(self).n_requests += 1  # type: ignore[attr-defined]
        body = b"You are not authenticated."
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_wrong_credentials_are_named_at_once_and_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "mary")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-canary")
    Unauthorized.n_requests = 0  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unauthorized)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(
            TrackingError,
            match=r"MLflow at http://127.0.0.1:\d+ refused the credentials "
            r"\(MLFLOW_TRACKING_USERNAME=mary\); set MLFLOW_TRACKING_USERNAME and _PASSWORD anew",
        ) as raised:
            open_store(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert "hunter2" not in str(raised.value)
    assert Unauthorized.n_requests == 1  # type: ignore[attr-defined]


def test_no_notice_cause_or_traceback_holds_a_password(
    store: Store, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-canary")

    def leak(_: str) -> None:
        raise MlflowException(
            "no answer from http://me:p@ss/w@host?password=hunter2-canary with hunter2-canary"
        )

    writer = open_writer(store)
    gate.before = leak
    writer.flush()
    writer.log_metrics({"loss": 1.0}, step=1)
    writer.flush()
    until(lambda: writer.notices)
    gate.before = lambda _: None
    writer.fail("sent hunter2-canary", details="token=hunter2-canary\nhunter2-canary")
    with writer.artifacts.downloaded(names.TRACEBACK_FILE) as file:
        told = [*writer.notices, file.read_text(), str(store.client.get_run(writer.run_id).to_dictionary())]
    assert not [text for text in told if "hunter2" in text]
    assert "no answer from http://" in writer.notices[0]


def test_what_a_process_was_downloading_when_it_was_killed_is_deleted_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    killed = """
import os, sys
from trainables.record.spool import temporary_folder
with temporary_folder() as folder:
    (folder / "state").mkdir()
    (folder / "state" / "half.safetensors").write_bytes(b"half")
    os._exit(9)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", killed], env=environment, check=False).returncode == 9

    def folders() -> list[Path]:
        return list(tmp_path.glob(f"{PREFIX}*"))

    [left] = folders()
    assert (left / "state" / "half.safetensors").exists()
    with temporary_folder() as mine:
        assert folders() == [mine]
        remove_abandoned()
        assert mine.exists(), "its process lives"
    assert folders() == []
