"""Who drives a study: a process on a host, as it signs in MLflow."""

import getpass
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Self

from trainables.record.process import Process


@dataclass(frozen=True)
class Driver(Process):
    """A process that runs a study. Times are seconds since 1970, on its own clock.

    Attributes:
        token: tells it from every other.
        since: when it began to drive.
        alive: its last sign of life.
    """

    token: str
    user: str
    since: float
    alive: float

    @classmethod
    def here(cls) -> Self:
        """Describe this process."""
        now = time.time()
        me = asdict(Process.here())
        return cls(**me, token=uuid.uuid4().hex, user=_user(), since=now, alive=now)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Return the driver that a text describes; None if it describes none."""
        kinds = {**Process.__annotations__, **Driver.__annotations__}
        try:
            content = json.loads(text)
            return cls(**{name: kind(content[name]) for name, kind in kinds.items()})
        except (ValueError, TypeError, KeyError, OverflowError):
            return None  # empty, or written by a hand

    def text(self) -> str:
        """Return what `read` reads."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        began, seen = (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) for at in (self.since, self.alive)
        )
        return f"{self.user}@{self.host}, process {self.pid}, since {began}, last sign of life {seen}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container may run under an id that has no name
