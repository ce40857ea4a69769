"""Ray for this machine alone: nobody else can reach it, and what is sent to the driver's group spares it.

Ray listens on every interface, and its processes share the driver's process group: a SIGTERM to the group,
or the SIGHUP of a closed terminal, would end them while the trials commit their states. Ray has no public
setting for either, so three of its private names are replaced while it starts; `tests/test_signals.py` sees
to it that they still mean what is meant here. Ray's processes end with the driver all the same: the kernel
kills them when it dies.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from ray._private import ray_constants, services, utils


@contextmanager
def apart() -> Iterator[None]:
    """Have Ray start, within the block, in sessions of its own and on the loopback interface."""
    own_session = partial(services.ConsolePopen, start_new_session=True)
    with ExitStack() as stack:
        stack.enter_context(replaced(services, "ConsolePopen", own_session))
        stack.enter_context(replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
        yield


@contextmanager
def our_signals() -> Iterator[None]:
    """Keep what handles SIGTERM while Ray starts within the block: Ray puts two handlers in its place.

    One is of Python, and would exit; the other, in C++, aborts the process after ours has been called.
    """
    ours = signal.getsignal(signal.SIGTERM)
    if not callable(ours) or threading.current_thread() is not threading.main_thread():
        yield
        return
    with replaced(utils, "set_sigterm_handler", lambda handler: None):
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a name of a module another value within the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
