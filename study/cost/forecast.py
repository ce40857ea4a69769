"""How long a run of a study still takes, by the estimate, corrected by what the trials took so far."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from study.cost.estimate import ANNOUNCED, Estimate
from study.timetable import schedule


@dataclass
class Forecast:
    """Of one run of a study.

    Attributes:
        estimate: made when the run began, all its seconds and its slots known.
    """

    estimate: Estimate
    _took: dict[str, float] = field(default_factory=dict)
    _stands_for: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, estimate: Estimate) -> "Forecast | None":
        """Return a forecast; None if the seconds of a trial, or the slots, are not known."""
        return None if estimate.timetable is None else cls(estimate)

    @property
    def wall_s(self) -> float:
        """Seconds that the run should take in all."""
        wall = self.estimate.wall_s
        assert wall is not None, "made by `of`"
        return wall

    @property
    def ratio(self) -> float:
        """Measured seconds of the trials done in this run, by estimated; 1 before the first."""
        took = dict(self._took)  # the screen is drawn by another thread
        expected = sum(self.estimate.trials[key].left_s or 0.0 for key in took)
        return sum(took.values()) / expected if expected > 0 else 1.0

    def note_done(self, trial_id: str, seconds: float) -> None:
        """Take up what a trial took; one that was not known then stands for one that was announced."""
        if (key := self._key(trial_id)) is not None:
            self._took[key] = seconds

    def seconds_left(
        self, running: Mapping[str, float], *, n_workers: int | None = None, dropped: Collection[str] = ()
    ) -> float:
        """Return the seconds until the last trial ends.

        Args:
            running: by trial in flight, the fraction that is done.
            n_workers: that train them; None is one for each.
            dropped: trials that will not run, or are not to be waited for.
        """
        running = {key: done for trial, done in running.items() if (key := self._key(trial)) is not None}
        over, ratio = {*self._took, *dropped}, self.ratio
        left = {
            key: (cost.left_s or 0.0) * ratio * (1 - running.get(key, 0.0))
            for key, cost in self.estimate.open_trials.items()
            if key not in over
        }
        n_slots = max(self.estimate.n_slots or 1, len(running) if n_workers is None else n_workers)
        return schedule(left, self.estimate.parents, n_slots=n_slots, running=running.keys()).makespan

    def _key(self, trial_id: str) -> str | None:
        open_trials = self.estimate.open_trials
        if trial_id in open_trials:
            return trial_id
        if trial_id not in self._stands_for:
            taken = self._stands_for.values()
            free = (key for key in open_trials if key.startswith(ANNOUNCED) and key not in taken)
            if (key := next(free, None)) is None:
                return None
            self._stands_for[trial_id] = key
        return self._stands_for[trial_id]
