"""One driver per study: who holds it, who may take it, and what MLflow may do in the meantime."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from rich.console import Console

from study import lease, patience
from study.cli import main
from study.config import parse_study
from study.cost.foresight import Foresight
from study.driver import Driver
from study.lease import DRIVER, DRIVER_LEFT, holding
from study.patience import Patience, within
from study.progress import StudyDisplay
from study.reach import reaches_store, store_study_file
from study.refusal import explained
from study.runner import run_study
from study.stopping import StopRequest
from study.tracking import StudyRun, open_study_run
from trainables.errors import TrackingError, UserError
from trainables.record import Store

STUDY = """
name: tiny
trial:
  architecture: cbr_tiny
  dataset: {from: digits_5_9, size_px: 16}
  training: {steps: 1}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "RENEW_EVERY_S": 0.1,
        "RENEW_AGAIN_S": 0.1,
        "SETTLE_S": 0.3,
        "WATCH_S": 1.5,
        "HAND_OVER_S": 3.0,
    }.items():
        monkeypatch.setattr(lease, name, seconds)
    monkeypatch.setattr(patience, "ASK_AGAIN_S", 0.05)


@pytest.fixture
def run(store: Store) -> StudyRun:
    return open_study_run(store, "tiny")


def elsewhere(**changes: object) -> Driver:
    """A driver on another host, of which only its signs of life are known."""
    there = replace(Driver.here(), host="node7", user="anna", machine="another boot", pid=123)
    return replace(there, **changes)  # type: ignore[arg-type]


def leave_behind(run: StudyRun, driver: Driver) -> None:
    run.set_tag(DRIVER, driver.text())


def comes_true(condition: Callable[[], bool], *, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_study_is_signed_while_it_is_held_and_not_after(run: StudyRun) -> None:
    with holding(run, take_over=False, note=pytest.fail):
        first = Driver.read(run.tag(DRIVER))
        assert first is not None
        assert (first.pid, first.host) == (os.getpid(), socket.gethostname())
        assert comes_true(lambda: json.loads(run.tag(DRIVER))["alive"] > first.alive)
    assert run.tag(DRIVER) == ""


def test_a_second_driver_is_told_who_holds_the_study_and_what_to_do(run: StudyRun) -> None:
    with holding(run, take_over=False, note=pytest.fail):
        signed = run.tag(DRIVER)
        words = (
            rf"study tiny is being run by .*@{socket.gethostname()}, process {os.getpid()}, since 20.*"
            r"last sign of life 20.*wait for its end, or stop it .* --take-over"
        )
        with pytest.raises(UserError, match=words), holding(run, take_over=False, note=pytest.fail):
            pytest.fail("two drivers hold one study")
        assert json.loads(run.tag(DRIVER))["token"] == json.loads(signed)["token"]


def test_a_refused_driver_leaves_the_run_of_the_study_as_it_is(store: Store) -> None:
    run = open_study_run(store, "tiny")
    run.end("FINISHED")
    leave_behind(run, elsewhere())
    result = CliRunner().invoke(main, ["run", str(_study_file())])
    assert result.exit_code == 2
    assert "error: study tiny is being run by anna@node7, process 123" in result.stderr
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def _study_file() -> Path:
    file = Path("study.yaml")
    file.write_text(STUDY)
    return file


def dead_process() -> Driver:
    process = subprocess.Popen(["true"])
    process.wait()
    return replace(Driver.here(), token="gone", pid=process.pid)


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(dead_process, id="its process has ended"),
        pytest.param(lambda: replace(Driver.here(), started=1), id="its pid was given to another process"),
    ],
)
def test_a_driver_that_died_on_this_machine_frees_the_study_at_once(
    run: StudyRun, gone: Callable[[], Driver]
) -> None:
    leave_behind(run, gone())
    notes: list[str] = []
    began = time.monotonic()
    with holding(run, take_over=False, note=notes.extend):
        assert time.monotonic() - began < 1.4  # no watching
    assert "the driver before this one is gone" in notes[0]


def test_a_stopped_process_on_this_machine_still_holds_the_study(run: StudyRun) -> None:
    leave_behind(run, replace(Driver.here(), alive=time.time() - 1000))
    with pytest.raises(UserError, match="is being run by"), holding(run, take_over=False, note=pytest.fail):
        pass


def test_a_lease_without_a_sign_of_life_is_taken_with_a_note(run: StudyRun) -> None:
    leave_behind(run, elsewhere(alive=time.time() - 100))
    notes: list[str] = []
    with holding(run, take_over=False, note=notes.extend):
        pass
    assert notes[0].startswith("looking 2 s for a sign of life of anna@node7")
    assert notes[1].startswith("the driver before this one is gone: anna@node7")


@pytest.mark.parametrize("skew_s", [-1000.0, 1000.0])
def test_a_clock_that_is_wrong_hides_no_driver_that_renews(run: StudyRun, skew_s: float) -> None:
    leave_behind(run, elsewhere(alive=time.time() + skew_s))

    def renew() -> None:
        time.sleep(0.6)
        leave_behind(run, elsewhere(alive=time.time() + skew_s))

    renewing = threading.Thread(target=renew)
    renewing.start()
    with pytest.raises(UserError, match="run by anna@node7"), holding(run, take_over=False, note=len):
        pass
    renewing.join()


def test_a_clock_that_is_wrong_keeps_no_dead_driver_alive(run: StudyRun) -> None:
    leave_behind(run, elsewhere(alive=time.time() + 1000))
    with holding(run, take_over=False, note=len):
        pass


@pytest.mark.parametrize("text", ["{", "[1]", '{"token": "a"}', "null", '{"token": "a", "pid": 1e999}'])
def test_a_signature_spoiled_by_hand_is_no_signature(run: StudyRun, text: str) -> None:
    run.set_tag(DRIVER, text)
    with holding(run, take_over=False, note=pytest.fail):
        pass


def test_of_drivers_that_come_at_the_same_moment_exactly_one_goes_on(run: StudyRun) -> None:
    gate, over = threading.Barrier(6), threading.Event()
    went_on, refused = [], []

    def drive() -> None:
        gate.wait()
        try:
            with holding(run, take_over=False, note=len) as held:
                went_on.append(held)
                over.wait(20)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        # One whose first look or write came late may go on for a moment: then the older leaves.
        assert comes_true(lambda: len(went_on) + len(refused) == 6)
        assert comes_true(lambda: sum(held.taken_over_by is None for held in went_on) == 1)
        assert len(refused) >= 4
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_who_takes_over_makes_the_older_driver_leave_first(run: StudyRun) -> None:
    lost, order = threading.Event(), []

    def older() -> None:
        with holding(run, take_over=False, note=len, on_loss=lost.set) as held:
            assert lost.wait(10)
            time.sleep(0.5)  # its trials commit their states
            order.append(f"older left to {held.taken_over_by.pid if held.taken_over_by else None}")

    thread = threading.Thread(target=older)
    thread.start()
    assert comes_true(lambda: run.tag(DRIVER) != "")
    time.sleep(0.5)
    notes: list[str] = []
    with holding(run, take_over=True, note=notes.extend):
        order.append("newer goes on")
        token = json.loads(run.tag(DRIVER))["token"]
        thread.join()
        assert json.loads(run.tag(DRIVER))["token"] == token, "the older has touched the signature"
    assert order == [f"older left to {os.getpid()}", "newer goes on"]
    assert notes[0].startswith("taking over from")
    assert run.tag(DRIVER) == ""
    assert run.tag(DRIVER_LEFT) != token


def test_a_driver_that_does_not_answer_is_not_waited_for_for_ever(run: StudyRun) -> None:
    leave_behind(run, elsewhere())
    notes: list[str] = []
    with holding(run, take_over=True, note=notes.extend):
        pass
    assert "anna@node7 does not answer; its trials are taken over" in notes[-1]


@contextmanager
def away(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow, as its client tells of a server that does not answer."""

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr("trainables.record.store.RETRY_AFTER_S", ())
        for name in ("get_run", "set_tag", "set_terminated", "search_runs", "log_batch"):
            patch.setattr(store.client, name, refuse)
        yield


def test_the_holder_goes_on_while_mlflow_is_away_and_leaves_when_it_finds_another(
    store: Store, run: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()
    with holding(run, take_over=False, note=len, on_loss=lost.set) as held:
        with away(store, monkeypatch):
            time.sleep(0.5)
            assert not lost.is_set()
        before = json.loads(run.tag(DRIVER))["alive"]
        assert comes_true(lambda: json.loads(run.tag(DRIVER))["alive"] > before)
        # Written again and again, for a renewal under way may cover it, as for a driver that takes over.
        other = elsewhere()
        assert comes_true(lambda: leave_behind(run, other) or lost.is_set())
        assert held.taken_over_by == other
    assert Driver.read(run.tag(DRIVER)) == other


def test_a_lease_that_mlflow_does_not_take_back_is_left_with_a_note(
    store: Store, run: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    context = holding(run, take_over=False, note=notes.extend)
    context.__enter__()
    with away(store, monkeypatch):
        context.__exit__(None, None, None)
    assert "could not be told that this driver has left" in notes[0]


def test_a_driver_that_was_taken_over_does_not_touch_the_study_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_taken_over(*_: object, request: StopRequest, **__: object) -> None:
        run = open_study_run(store, "tiny")
        run.end("FINISHED")  # as the other driver may have by now
        assert comes_true(lambda: leave_behind(run, elsewhere()) or request.is_made)

    monkeypatch.setattr("study.runner.ray_session", lambda: within_nothing())
    monkeypatch.setattr("study.runner.check_resources", lambda plan: None)
    monkeypatch.setattr("study.runner.check_store_is_shared", lambda store: None)
    monkeypatch.setattr("study.runner.unused_gpus", lambda plan: [])
    monkeypatch.setattr("study.cost.foresight.foresee", lambda *_, **__: Foresight())
    monkeypatch.setattr("study.runner.fit", be_taken_over)
    result = CliRunner().invoke(main, ["run", str(_study_file())])
    assert result.exit_code == 130, result.output
    assert re.search(
        r"tiny was taken over by anna@node7, process 123.*; this process has left", result.output
    )
    assert "transfusion resume" not in result.output
    run = open_study_run(store, "tiny")
    assert store.client.get_run(run.run_id).info.status == "FINISHED"
    assert "plan.json" not in store.artifacts(store.client.get_run(run.run_id)).paths()


@contextmanager
def within_nothing() -> Iterator[None]:
    yield


def test_two_runs_made_for_one_study_at_the_same_moment_become_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_study_run(store, "tiny")
    created = store.client.create_run(store.experiment_id, tags={"kind": "study", "study": "tiny"})
    monkeypatch.setattr(Store, "find_or_create", lambda *_, **__: created)
    assert open_study_run(store, "tiny").run_id == first.run_id
    assert len(store.search("study", "tiny")) == 1


def begun_elsewhere(store: Store, driver: Driver | None = None) -> StudyRun:
    """A run of the same study that another host began a little earlier, by its clock."""
    tags = {"kind": "study", "study": "tiny", DRIVER: driver.text() if driver else ""}
    created = store.client.create_run(store.experiment_id, tags=tags, start_time=1000)
    return StudyRun(store, created.info.run_id, "tiny")


def test_of_two_runs_signed_at_the_same_moment_the_one_that_counts_wins_and_the_other_names_its_holder(
    store: Store, run: StudyRun
) -> None:
    theirs = begun_elsewhere(store, elsewhere())
    with pytest.raises(UserError, match="study tiny is being run by anna@node7, process 123"):
        lease._write(run, Driver.here(), None)
    assert [found.info.run_id for found in store.search("study", "tiny")] == [theirs.run_id]


def test_a_holder_that_finds_a_run_that_counts_more_leaves_it_the_study(store: Store, run: StudyRun) -> None:
    lost = threading.Event()
    with holding(run, take_over=False, note=len, on_loss=lost.set) as held:
        theirs = begun_elsewhere(store)
        time.sleep(0.5)
        assert not lost.is_set()  # nobody has signed it
        other = elsewhere()
        leave_behind(theirs, other)
        assert lost.wait(10)
        assert held.taken_over_by == other
    assert [found.info.run_id for found in store.search("study", "tiny")] == [theirs.run_id]
    assert Driver.read(theirs.tag(DRIVER)) == other


def test_of_drivers_that_begin_a_study_at_the_same_moment_one_goes_on_with_its_only_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, over = threading.Barrier(4), threading.Event()
    went_on, refused = [], []

    def create(store: Store, tag: str, value: str, *, tags: dict[str, str]) -> Run:
        gate.wait()  # everybody has looked, and found none
        return store.client.create_run(store.experiment_id, tags={**tags, tag: value})

    def drive() -> None:
        try:
            with holding(open_study_run(store, "tiny"), take_over=False, note=len) as held:
                went_on.append(held)
                over.wait(20)
        except UserError as error:
            refused.append(str(error))

    monkeypatch.setattr(Store, "find_or_create", create)
    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert comes_true(lambda: len(went_on) + len(refused) == 4)
        assert comes_true(lambda: sum(held.taken_over_by is None for held in went_on) == 1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert len(store.search("study", "tiny")) == 1


def test_a_renewal_that_is_under_way_does_not_sign_after_the_study_was_given_back(
    run: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_renewing, write = threading.Event(), StudyRun.set_tag

    def write_late(of: StudyRun, name: str, value: str) -> None:
        if threading.current_thread().name == "lease":
            is_renewing.set()
            time.sleep(0.5)
        write(of, name, value)

    monkeypatch.setattr(StudyRun, "set_tag", write_late)
    with holding(run, take_over=False, note=pytest.fail):
        assert is_renewing.wait(10)
    time.sleep(0.7)
    assert run.tag(DRIVER) == ""


# --- MLflow away in the middle of a study


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter([error] * times)

    def call() -> str:
        for one in left:
            raise one
        return "answer"

    return call


def test_an_outage_is_waited_for_and_told(run: StudyRun) -> None:
    notes: list[str] = []
    patient = Patience(1.0, notes.extend, is_over=lambda: False)
    assert patient.ask("the outcome", failing(3, TrackingError("MLflow is away"))) == "answer"
    assert notes[0] == "MLflow is away; waiting up to 1 min for the outcome, trials go on"
    assert notes[1].startswith("MLflow is back after")
    assert len(notes) == 2


def test_the_waiting_ends_with_its_time_with_a_request_to_stop_and_with_a_refusal() -> None:
    away_for_ever = failing(10**6, TrackingError("away"))
    with pytest.raises(TrackingError):
        Patience(0.001, len, is_over=lambda: False).ask("it", away_for_ever)
    with pytest.raises(TrackingError):
        Patience(60, len, is_over=lambda: True).ask("it", away_for_ever)
    refusal = TrackingError("no")
    refusal.__cause__ = MlflowException.invalid_parameter_value("no")
    with pytest.raises(TrackingError):
        Patience(60, pytest.fail, is_over=lambda: False).ask("it", failing(10**6, refusal))


def test_a_call_that_hangs_or_fails_is_left_alone() -> None:
    assert within(5, lambda: None)
    assert not within(0.1, lambda: time.sleep(1))
    assert not within(5, failing(1, TrackingError("away")))


def test_a_study_whose_books_meet_an_outage_ends_finished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its trials: MLflow goes away when they are done, for longer than a call retries."""
    outage = away(store, monkeypatch)

    def end_in_an_outage(*_: object, **__: object) -> None:
        outage.__enter__()
        threading.Timer(0.5, lambda: outage.__exit__(None, None, None)).start()

    monkeypatch.setattr("study.runner._Drive._run_open_trials", end_in_an_outage)
    display = StudyDisplay(Console(record=True, width=200, file=open(os.devnull, "w")))  # noqa: SIM115
    outcome = run_study(parse_study(STUDY), store=store, display=display)
    display.console.file.close()
    told = display.console.export_text()
    assert "waiting up to 240 min for storing the outcome of the study" in told
    assert "MLflow is back" in told
    assert not outcome.was_interrupted
    (run,) = store.search("kind", "study")
    assert run.info.status == "FINISHED"


# --- credentials and places, before any Ray


class _Refusing(BaseHTTPRequestHandler):
    status, body = 401, "You are not authenticated."

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body.encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture(
    params=[(401, "You are not authenticated."), (403, "Permission denied"), (403, "Invalid Host header")]
)
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[str, int, str]]:
    status, body = request.param
    handler = type("Handler", (_Refusing,), {"status": status, "body": body})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", status, body
    server.shutdown()
    thread.join()
    server.server_close()


WAYS_OUT = {
    "You are not authenticated.": "refused the credentials (MLFLOW_TRACKING_USERNAME is not set); set",
    "Permission denied": "refused the credentials (MLFLOW_TRACKING_USERNAME is not set); set",
    "Invalid Host header": "start its server with --allowed-hosts",
}


def test_a_refusal_stops_a_study_before_ray_starts_and_says_what_to_do(
    refusing: tuple[str, int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _, body = refusing
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//anna:secret@"))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr("study.cluster.ray.init", lambda **_: pytest.fail("Ray was started"))
    result = CliRunner().invoke(main, ["run", str(_study_file())])
    assert result.exit_code == 2, result.output
    assert WAYS_OUT[body] in result.stderr
    assert "secret" not in result.output
    assert "Traceback" not in result.output
    assert WAYS_OUT[body] in (reaches_store(uri, "any") or "")


def test_a_user_who_may_only_read_is_told_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(store.client, "create_run", deny)
    with (
        pytest.raises(TrackingError, match=r"failed: Permission denied\n.*permission EDIT"),
        explained(),
    ):
        open_study_run(store, "tiny")


def test_an_artifact_store_that_cannot_be_written_is_named(
    store: Store, run: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.record.store.RETRY_AFTER_S", ())
    folder = Path(run.artifact_uri.removeprefix("file://"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder should be")
    with pytest.raises(
        TrackingError, match=r"the artifact store of sqlite:.* cannot be used: uploading study.yaml.*\n.*room"
    ):
        store_study_file(run, STUDY)


def test_an_artifact_store_that_loses_or_changes_files_is_named(
    run: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_study_file(run, STUDY)
    assert run.read_study_file() == STUDY
    monkeypatch.setattr(StudyRun, "log_study_file", lambda self, text: None)
    with pytest.raises(TrackingError, match="returned another study file than was written"):
        store_study_file(run, STUDY + "# more")


@pytest.mark.parametrize(
    ("uri", "address", "is_refused"),
    [
        ("http://10.0.0.1:5000", None, True),
        ("http://127.0.0.1:5000", "auto", True),
        ("http://127.0.0.1:5000", None, False),
        ("http://localhost:5000", None, False),
    ],
)
def test_artifacts_in_a_folder_of_the_server_are_refused_where_others_cannot_see_it(
    store: Store,
    run: StudyRun,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    address: str | None,
    is_refused: bool,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    there = StudyRun(replace(store, uri=uri), run.run_id, "tiny")
    monkeypatch.setattr(StudyRun, "log_study_file", lambda self, text: None)
    monkeypatch.setattr(StudyRun, "read_study_file", lambda self: STUDY)
    if not is_refused:
        store_study_file(there, STUDY)
        return
    with pytest.raises(
        TrackingError, match="another one on every machine; start the server with --serve-artifacts"
    ):
        store_study_file(there, STUDY)


def test_a_node_that_cannot_connect_says_so_at_once(store: Store, run: StudyRun) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        why = reaches_store(f"http://127.0.0.1:{port}", "any")
    assert why is not None
    assert why.startswith(f"cannot connect to 127.0.0.1:{port}: ")
    assert reaches_store(store.uri, store.experiment) is None
