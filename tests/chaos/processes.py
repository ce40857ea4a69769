"""Processes of a chaos run: each in a session of its own, so that all it started can be found and killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PYTHON = sys.executable


class Owned:
    """A process with what it starts.

    Args:
        command: program and arguments.
        log: gets both outputs; begun anew.
        env: added to this process' own.
    """

    def __init__(self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **env},
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        send(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the process and everything in its session, and wait until they are gone."""
        self.kill_alone()
        for member in (survivors := session_members(self.pid)):
            send(member, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, survivors)), "killed processes are gone", within_s=20)

    def kill_alone(self) -> None:
        """SIGKILL the process, nothing that it started."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """Stop everything in the session, as a machine that hangs does."""
        for member in session_members(self.pid):
            send(member, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for member in session_members(self.pid):
            send(member, signal.SIGCONT)

    def wait(self, *, within_s: float) -> int:
        """Return its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self._process.wait(within_s)

    def wait_for(self, words: str, *, within_s: float) -> None:
        """Wait until it has printed something.

        Raises:
            TimeoutError: it did not in time, or ended before.
        """

        def has_come() -> bool:
            if words not in self.output and self.exit_code is not None:
                raise TimeoutError(f"ended with {self.exit_code} before {words!r}:\n{self.output[-2000:]}")
            return words in self.output

        wait_until(has_come, f"{words!r} in {self.log}", within_s=within_s)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and is not yet waited for does not."""
    return process_state(pid) not in ("", "Z", "X")


def process_state(pid: int) -> str:
    """Return the letter by which Linux names the state of a process; nothing if it is gone."""
    return _state_and_session(pid)[0]


def session_of(pid: int) -> int:
    """Return the session of a process: the id of the `Owned` that it belongs to; 0 if it is gone."""
    return _state_and_session(pid)[1]


def session_members(session: int) -> list[int]:
    """Return the living processes of a session."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if session_of(pid) == session and is_alive(pid)]


def named(pids: Sequence[int], program: str) -> list[int]:
    """Return those of the processes that run a program of this name."""

    def name(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return ""

    return [pid for pid in pids if name(pid) == program]


def _state_and_session(pid: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0
    state, _, _, session, *_ = text.rpartition(")")[2].split()
    return state, int(session)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, *, within_s: float) -> None:
    """Ask until a condition holds.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.1)
