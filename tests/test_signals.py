"""Leaving on request, through the command line: statuses stay true, and no process stays behind."""

import ipaddress
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study.lease import DRIVER
from study.stopping import SAME_SIGNAL_S, StopRequest
from study.tuning import LEAVE_WITHIN_S
from tests.test_study_run import (
    by_label,
    nothing_stays,  # noqa: F401
    start,
    transfusion,
    wait_for_trials_in_flight,
    write_study,
)
from trainables.record import RecordReader, Store

TRIAL = """
architecture: cbr_tiny
dataset: {from: digits_5_9, size_px: 16}
training: {steps: 100000, batch_size: 16, evaluation: {points: 1000}}
"""


@pytest.fixture(autouse=True)
def hangups_are_heard() -> Iterator[None]:
    """Programs that are started here hear them, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def family(pid: int) -> set[int]:
    """A process and all it has started."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,stat"], capture_output=True, text=True, check=True).stdout
    found = {pid}
    rows = [line.split() for line in listed.splitlines()[1:]]
    while more := {int(child) for child, parent, _ in rows if int(parent) in found} - found:
        found |= more
    return found


def living(pids: set[int]) -> list[str]:
    """The names of those that are there, without the remains of the dead."""
    names = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] not in "ZX":
            names.append(stat.split(" ", 1)[1].rpartition(")")[0])
    return names


def assert_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 30
    while left := living(pids):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def listening_addresses(pids: set[int]) -> set[str]:
    """The addresses on which processes accept connections."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(descriptor))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(_address(fields[1].split(":")[0]))
    return found


def _address(digits: str) -> str:
    # The kernel prints words of four bytes in its own order.
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def status_of_study(store: Store) -> str:
    (run,) = store.search("kind", "study")
    return str(run.info.status)


@pytest.mark.programs
def test_a_signal_to_the_whole_group_lets_the_trials_commit_and_ray_is_for_this_machine_alone(
    store: Store, tmp_path: Path
) -> None:
    """What `timeout`, a service manager or a closed terminal does: the signal reaches every process."""
    process = start("run", write_study(tmp_path, steps=20000, inits="random"))
    # Both slots, so that no trial is caught before its first step.
    wait_for_trials_in_flight(store, process, n_finished=0, n_in_flight=2)
    started = family(process.pid)
    assert any("gcs_server" in name for name in living(started))
    addresses = listening_addresses(started)
    assert addresses
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), addresses
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopping: trials in flight commit their states; once more leaves at once" in output
    assert "interrupted: 0 trials ran" in output
    assert "transfusion resume study" in output
    assert "Traceback" not in output
    assert_gone(started)
    records = RecordReader(store).trials()
    assert {record.status for record in records} == {"killed"}
    assert all(record.resumes_at_step > 0 for record in records)
    assert status_of_study(store) == "KILLED"


@pytest.mark.programs
def test_a_second_driver_is_refused_or_takes_over_and_two_signals_leave_at_once(
    store: Store, tmp_path: Path
) -> None:
    file = write_study(tmp_path, steps=20000, inits="random")
    first = start("run", file)
    wait_for_trials_in_flight(store, first, n_finished=0, n_in_flight=2)
    refused = transfusion("run", file, expect=2)
    assert re.search(rf"error: study study is being run by .*@.*, process {first.pid}, since", refused)
    assert "--take-over" in refused

    second = start("resume", "study", "--take-over")
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 130, output
    assert re.search(rf"study was taken over by .*, process {second.pid}, .*this process has left it", output)
    assert "Traceback" not in output
    # What it had in flight was committed, not torn: the second goes on from there.
    left = {label: record.resumes_at_step for label, record in by_label(store).items()}
    assert all(step > 0 for step in left.values())
    assert {record.status for record in by_label(store).values()} == {"killed"}
    wait_until(lambda: {r.status for r in by_label(store).values()} == {"running"}, second)
    started = family(second.pid)
    began = time.monotonic()
    second.send_signal(signal.SIGINT)
    time.sleep(2 * SAME_SIGNAL_S)
    second.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 130, output
    assert time.monotonic() - began < LEAVE_WITHIN_S, "as long as it may take trials to commit"
    assert "Traceback" not in output
    assert_gone(started)
    records = by_label(store)
    assert {record.status for record in records.values()} <= {"running", "killed"}
    assert all(record.resumes_at_step >= left[label] for label, record in records.items())
    assert status_of_study(store) == "KILLED"
    assert "continues at step" in transfusion("plan", file)


@pytest.mark.programs
def test_a_signal_while_ray_starts_leaves_at_once_and_nothing_behind(store: Store, tmp_path: Path) -> None:
    process = start("run", write_study(tmp_path))
    wait_until(lambda: any("gcs_server" in name for name in living(family(process.pid))), process)
    started = family(process.pid)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "left before any trial began" in output
    assert "Traceback" not in output
    assert_gone(started | family(process.pid))
    assert RecordReader(store).trials() == []
    (run,) = store.search("kind", "study")
    assert run.info.status == "KILLED"
    assert run.data.tags[DRIVER] == ""


def test_a_closed_terminal_lets_a_trial_that_runs_alone_commit_and_leave(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(TRIAL)
    process = start("trial", file, "--threads", "1")
    wait_until(
        lambda: any("train_loss" in record.metrics for record in RecordReader(store).trials()), process
    )
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "interrupted: run it again, and it goes on from here" in output
    assert "Traceback" not in output
    (record,) = RecordReader(store).trials()
    assert record.status == "killed"
    assert record.resumes_at_step > 0


def test_while_nothing_is_in_flight_the_first_signal_leaves() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest().watching() as request:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert request.is_made
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_flight_the_first_signal_asks_and_the_second_leaves() -> None:
    with StopRequest().watching() as request:
        request.defer()
        signal.raise_signal(signal.SIGTERM)
        assert request.is_made
        signal.raise_signal(signal.SIGHUP)  # the same event, told twice
        time.sleep(1.1 * SAME_SIGNAL_S)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_third_signal_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr("study.stopping.SAME_SIGNAL_S", -1.0)
    monkeypatch.setattr("study.stopping.os._exit", left.append)
    with StopRequest().watching() as request:
        request.defer()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert left == [130]


def test_nohup_keeps_its_meaning() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest().watching() as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request.is_made
    finally:
        signal.signal(signal.SIGHUP, before)
