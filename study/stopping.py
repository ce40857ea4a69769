"""Leaving on request: the first SIGINT or SIGTERM asks for it, the second leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked this process to stop. Filled in while `watching`."""

    def __init__(self) -> None:
        self.is_made = False

    @contextmanager
    def watching(self) -> Iterator["StopRequest"]:
        """Handle both signals until the block ends."""

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.is_made:
                raise KeyboardInterrupt
            self.is_made = True

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
