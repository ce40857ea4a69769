"""A process as records name it: no other is ever taken for it."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from study.driver import Driver
from trainables.record.process import Process


@pytest.fixture(scope="module")
def ended() -> Process:
    process = subprocess.Popen(["true"])
    process.wait()
    return replace(Process.here(), pid=process.pid)


@pytest.mark.parametrize("kind", [Process, Driver])
def test_a_process_is_read_back_equal(kind: type[Process]) -> None:
    me = kind.here()
    assert kind.read(me.text()) == me


def test_a_process_begins_with_its_host_and_number_for_people() -> None:
    me = Process.here()
    assert me.text().startswith(f"{me.host}:{os.getpid()} ")
    assert str(me) == f"process {os.getpid()} on {me.host}"


def test_this_process_is_alive_and_one_that_ended_is_not(ended: Process) -> None:
    assert Process.here().is_alive_here is True
    assert ended.is_alive_here is False


def test_a_process_that_has_ended_and_was_not_collected_is_not_alive() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        there = replace(Process.here(), pid=child.pid, started=started)
        assert there.is_alive_here is True
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert there.is_alive_here is False


def test_another_process_that_was_given_the_number_is_not_taken_for_it() -> None:
    assert replace(Process.here(), started=1).is_alive_here is False


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(lambda here: here.replace("pid:[", "pid:[7"), id="a container of the same host name"),
        pytest.param(lambda here: "another-boot " + here.split()[1], id="the host before it was booted"),
        pytest.param(lambda here: "", id="a system without /proc"),
    ],
)
def test_a_process_that_cannot_be_looked_for_is_neither_alive_nor_gone(
    machine: Callable[[str], str], ended: Process
) -> None:
    for process in (Process.here(), ended):
        assert replace(process, machine=machine(process.machine)).is_alive_here is None


def test_what_older_versions_wrote_is_read_and_looked_for_no_more(ended: Process) -> None:
    old = Process.read(f"{ended.host}:{ended.pid}")
    assert old is not None
    assert (old.host, old.pid, old.is_alive_here) == (ended.host, ended.pid, None)


@pytest.mark.parametrize("text", ["", "x", "gpu-3", "gpu-3:", "gpu-3:4x 1 boot", "gpu-3:4 x boot", "{}"])
def test_a_text_spoiled_by_hand_names_no_process(text: str) -> None:
    assert Process.read(text) is None


def test_a_number_that_no_system_gives_out_is_not_alive() -> None:
    assert replace(Process.here(), pid=10**30).is_alive_here is False
