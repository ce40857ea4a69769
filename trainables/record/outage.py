"""How long MLflow or a disk may be away, and what people are told meanwhile."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlflow.exceptions import MlflowException

from trainables.errors import DiskFullError, TrackingError
from trainables.record.trouble import is_disk_full, is_refusal, worded
from trainables.spec import FailureOptions

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
DISK_PAUSE_S = 5.0
# A call that fails once and works again is not worth a word.
TELL_AFTER_S = 2.0


@dataclass
class Outage:
    """The trouble of one sender, if it has any now.

    Attributes:
        place: the address of MLflow, for people.
        failures: for how long to wait.
        notices: what is told.
        waiting: describes what waits.
        at_most_s: a limit below those of `failures`, for who must leave soon.
    """

    place: str
    failures: FailureOptions
    notices: list[str]
    waiting: Callable[[], str]
    at_most_s: float = float("inf")
    _began: float | None = None
    _told: bool = False
    _pause_s: float = field(default=0.0)

    def pause_after(self, error: Exception) -> float:
        """Return for how many seconds to wait before another try.

        Raises:
            TrackingError: MLflow refused, or has been away for too long.
            DiskFullError: a disk has been full for too long.
        """
        if isinstance(error, TrackingError) or not isinstance(error, MlflowException | OSError):
            raise error
        if is_refusal(error):
            raise TrackingError(f"{self.place} refused a write: {worded(error)}") from error
        is_full = is_disk_full(error)
        now = time.monotonic()
        if self._began is None:
            self._began, self._pause_s = now, FIRST_PAUSE_S
        lasted_s = now - self._began
        self._give_up_after(lasted_s, error, is_full=is_full)
        if not self._told and lasted_s >= TELL_AFTER_S:
            self._told = True
            self.notices.append(self._telling(lasted_s, error, is_full=is_full))
        pause_s = DISK_PAUSE_S if is_full else self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return min(pause_s, max(self._limit_s(is_full) - lasted_s, 0.0))

    def over(self) -> None:
        """Note that a try has succeeded."""
        if self._told and self._began is not None:
            lasted_s = time.monotonic() - self._began
            self.notices.append(f"{self.place} takes writes again, after {lasted_s:.0f} s")
        self._began, self._told = None, False

    def _limit_s(self, is_full: bool) -> float:
        minutes = self.failures.wait_for_disk_min if is_full else self.failures.wait_for_mlflow_min
        return min(60 * minutes, self.at_most_s)

    def _give_up_after(self, lasted_s: float, error: Exception, *, is_full: bool) -> None:
        if lasted_s < self._limit_s(is_full):
            return
        after = f"for {lasted_s:.0f} s: {worded(error)}"
        if is_full:
            raise DiskFullError(
                f"{self.place}: its disk is full {after}; free some space, then run again"
            ) from error
        raise TrackingError(
            f"{self.place} has been away {after}; the trial is as good as its last state there, "
            "and goes on when it is run again"
        ) from error

    def _telling(self, lasted_s: float, error: Exception, *, is_full: bool) -> str:
        since = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() - lasted_s))
        what = "cannot write, its disk is full" if is_full else "is away"
        return f"{self.place} {what} since {since} ({worded(error)}); training goes on, {self.waiting()}"
