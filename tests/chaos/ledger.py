"""What was done to the system, how long it took to go on, and what was found wrong."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.diary import Repeat
from tests.chaos.store_view import RunRow


@dataclass
class Strike:
    """One fault that was made.

    Attributes:
        at: seconds of the monotonic clock.
        run_id: the run that it hit; None when it hit them all.
        detail: what exactly was done, for who reads the log.
        wrong: what was seen to be wrong at once.
        waits_for_driver: what is committed before the driver runs again is no recovery yet.
        episode: the study that it hit.
        recovered_at: when a run that it hit had committed more than before; None until then.
    """

    kind: str
    at: float
    run_id: str | None = None
    detail: str = ""
    wrong: str = ""
    waits_for_driver: bool = False
    episode: str = ""
    recovered_at: float | None = None

    def is_over(self, run_id: str) -> bool:
        """Say whether progress of this run is the first since the fault."""
        return self.recovered_at is None and not self.waits_for_driver and self.run_id in (None, run_id)


@dataclass
class Ledger:
    """Strikes and violations of all episodes.

    Attributes:
        n_hidden: files that MLflow's server left of uploads it was killed in, which no client can see.
    """

    strikes: list[Strike] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    repeats: list[tuple[str, Repeat]] = field(default_factory=list)
    _marks: dict[str, tuple[bool, int]] = field(default_factory=dict)
    last_progress: float = 0.0
    n_hidden: int = 0

    def begin_episode(self, now: float) -> None:
        """Forget the runs of the episode before: what its strikes hit is finished."""
        self._marks, self.last_progress = {}, now

    def note(self, runs: Iterable[RunRow], now: float) -> None:
        """Take up what is committed now: whatever moved on has recovered from what hit it."""
        for run in runs:
            mark = (run.status == "FINISHED", run.state_step)
            before = self._marks.get(run.run_id, (False, 0))
            self._marks[run.run_id] = mark
            if mark > before:
                self.last_progress = now
                for strike in self.strikes:
                    if strike.is_over(run.run_id):
                        strike.recovered_at = now

    def note_driver(self) -> None:
        """Take up that a driver has been started again."""
        for strike in self.strikes:
            strike.waits_for_driver = False

    def add_repeats(self, repeats: Iterable[Repeat]) -> None:
        """Take up what was trained twice, each under the kind of the fault before it."""
        for repeat in repeats:
            before = [strike for strike in self.strikes if strike.at <= repeat.at]
            self.repeats.append((before[-1].kind if before else "no fault", repeat))

    def has_moved_on_since_last_strike(self) -> bool:
        """Say whether anything was committed after the last strike."""
        return not self.strikes or self.last_progress > self.strikes[-1].at

    def seconds_to_recover(self, kind: str) -> list[float]:
        """Return, for each fault of a kind, the seconds from the fault to the next committed progress."""
        return [s.recovered_at - s.at for s in self.strikes if s.kind == kind and s.recovered_at is not None]


def median_and_most(values: list[float]) -> str:
    """Word a list of numbers."""
    return f"{statistics.median(values):.1f} / {max(values):.1f}" if values else "–"
