"""What the tests of hostile input share: a payload that leaves a trace when it runs, and what a refusal is.

A hostile input is refused with an error that a person can mend, which names the file or field. It runs no
code, takes neither long nor much memory, and leaves no traceback.
"""

import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trainables.errors import UserError

# Of the processor's time, for the machine may have other things to do; what sleeps longer hangs.
LONGEST_S = 5.0
HANGS_AFTER_S = 60.0
MOST_MEBIBYTES = 1024
CANARY = "canary-was-here"


class Payload:
    """A pickle of this writes the canary into the working folder of whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Fail if the block runs the payload, takes long or much memory; `folder` is the working folder."""
    before_kib, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    usual = signal.signal(signal.SIGALRM, _hangs)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    seconds = time.process_time() - began
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert seconds < LONGEST_S, f"took {seconds:.1f} s"
    assert grown_mib < MOST_MEBIBYTES, f"took {grown_mib:.0f} MiB"
    assert not any(folder.rglob(CANARY)), "the payload was run"


def _hangs(*_: object) -> None:
    raise AssertionError(f"hangs: no answer after {HANGS_AFTER_S:.0f} s")


@contextmanager
def refused(folder: Path, words: str, *, kind: type[UserError] = UserError) -> Iterator[None]:
    """Expect an error of `kind` with these words (a regular expression) in one message of bounded length."""
    with watched(folder):
        with pytest.raises(kind) as caught:
            yield
        message = str(caught.value)
    assert re.search(words, message), f"expected {words!r} in: {message[:2000]}"
    assert len(message) < 20_000, f"{len(message)} characters"
    message.encode()  # so that it can be printed


@contextmanager
def read_or_refused(folder: Path, words: str) -> Iterator[None]:
    """Expect no error, or one that a person can mend, with these words (a regular expression)."""
    with watched(folder):
        try:
            yield
        except UserError as error:
            if not re.search(words, str(error)):
                raise AssertionError(f"expected {words!r} in: {str(error)[:2000]}") from error
