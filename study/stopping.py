"""Leaving on request: by Ctrl-C, by SIGTERM, or because the terminal was closed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# One press of a key, or one `kill`, may arrive twice: from the terminal and from the shell, say.
SAME_SIGNAL_S = 0.2
EXIT_INTERRUPTED = 130


class StopRequest:
    """Whether somebody asked this process to stop. Signals are taken up while `watching`.

    The first signal leaves at once while nothing is in flight, and only asks after `defer`; the second
    leaves at once; a third one does not even wait for that.

    Attributes:
        is_made: to be looked at by whoever is in the middle of something.
        is_deferring: something is in flight.
    """

    def __init__(self) -> None:
        self.is_made = False
        self.is_deferring = False
        self._n_signals = 0
        self._last_at = float("-inf")
        self._terminals = [
            file.fileno() for file in (sys.__stdout__, sys.__stderr__) if file and file.isatty()
        ]

    def make(self) -> None:
        """Ask for it from within."""
        self.is_made = True

    @contextmanager
    def watching(self) -> Iterator["StopRequest"]:
        """Handle SIGINT, SIGTERM and SIGHUP until the block ends; `nohup` keeps its meaning."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def defer(self) -> None:
        """From now on let the first signal only ask: something is in flight, and would be lost."""
        self.is_deferring = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            self._leave_terminal()
        now = time.monotonic()
        if now - self._last_at < SAME_SIGNAL_S:
            return
        self._last_at, self.is_made = now, True
        self._n_signals += 1
        if self._n_signals > 2:
            os._exit(EXIT_INTERRUPTED)
        if self._n_signals == 2 or not self.is_deferring:
            raise KeyboardInterrupt

    def _leave_terminal(self) -> None:
        """Write to nowhere what would be written to a terminal that is gone, and fail."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for terminal in self._terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)
