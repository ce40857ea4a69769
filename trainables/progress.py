"""What a running trial tells those who wait for it, and when."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from trainables.training import Training

Status = Literal["running", "finished", "reused", "failed", "taken over"]

# A report costs a round trip to the driver: the evaluations of a quick trial go in one.
REPORT_AT_MOST_EVERY_S = 0.25
REPORT_EVERY_S = 2.0


@dataclass(frozen=True)
class Progress:
    """Where a trial stands.

    Attributes:
        metrics: of the evaluation just made; empty between evaluations.
        status: `reused` is a trial that was already finished, `taken over` one that another process
            has begun to train.
        cause: why it failed.
        is_diverged: it failed because its loss became NaN or infinite.
        notices: what went wrong without stopping the trial.
    """

    step: int
    total_steps: int
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    cause: str | None = None
    is_diverged: bool = False
    notices: tuple[str, ...] = ()


def reports_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the trials of a worker have reported to Tune: fields of `Progress`, and `trial_id`."""
    return result.get("reports") or []


@dataclass(frozen=True)
class StepsWanted:
    """A trial asks to be trained.

    Attributes:
        until: the step at which something is due.
        is_report_due: says, after any step, whether it wants to be asked before.
        notices: those of the trial; what is added here is reported.
    """

    training: "Training"
    until: int
    is_report_due: Callable[[], bool]
    notices: list[str]


class ReportClock:
    """Seconds since the last report."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def restart(self) -> None:
        """Note that a report goes out."""
        self._last = time.monotonic()

    def has_been_quiet(self) -> bool:
        """Say whether it is time for a report of who has nothing to tell but that it is there.

        Sooner than it is due: a trial that finds that it is due has looked at a clock of its own.
        """
        return time.monotonic() - self._last > REPORT_EVERY_S / 2

    def is_due(self) -> bool:
        """Say whether those who wait should hear something."""
        return time.monotonic() - self._last > REPORT_EVERY_S

    def is_allowed(self) -> bool:
        """Say whether an evaluation is worth a report of its own."""
        return time.monotonic() - self._last > REPORT_AT_MOST_EVERY_S
