"""One cell's search: what it has tried, what goes on, what comes next, and which setting was best."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from study.axes import label
from study.grid import PlannedTrial, SearchedCell
from study.search.pruning import Rungs
from study.search.section import SearchSection, Setting
from trainables.errors import SpecError

# A space of so few settings may have fewer than are wanted; of a larger one that is not looked at.
MOST_COUNTED = 10_000


class Trying(StrEnum):
    """Where a setting stands."""

    OPEN = "open"
    """It is trained, or will go on."""
    DONE = "done"
    FAILED = "failed"


@dataclass
class Tried:
    """One setting that a search has tried.

    Attributes:
        number: in the order in which settings were drawn, from 0.
        value: the selection metric of its best evaluation; None until it is done.
        at_rungs: the selection metric by rung (images seen) that it has passed.
        is_diverged: it has failed, and would fail again: its loss became NaN.
    """

    number: int
    setting: Setting
    trial: PlannedTrial
    state: Trying = Trying.OPEN
    value: float | None = None
    at_rungs: dict[int, float] = field(default_factory=dict)
    is_diverged: bool = False

    @property
    def trial_id(self) -> str:
        return self.trial.trial_id


@dataclass
class CellSearch:
    """The search of one cell.

    What it does next depends on its section, its cell and what it has tried, and on nothing else: after a
    crash it goes on from the records as if nothing had been.

    Attributes:
        label: of the cell, for people.
        tried: in the order of their numbers.
        in_training: the trial ids of those that are trained now; they are judged when they get to a rung, and
            not by what others reach meanwhile.
        first_number: of the settings that are drawn from now on; numbers of those that the section does not
            allow any more are not given again.
    """

    cell: SearchedCell
    section: SearchSection
    label: str
    tried: list[Tried] = field(default_factory=list)
    in_training: set[str] = field(default_factory=set)
    first_number: int = 0
    _is_exhausted: bool = False
    _n_untried: dict[int, int] = field(default_factory=dict)

    @property
    def rungs(self) -> Rungs:
        return Rungs(self.section.pruning, rises=self.rises)

    @property
    def metric(self) -> str:
        return self.cell.base.training.selection_metric

    @property
    def rises(self) -> bool:
        """Whether a larger value is better."""
        return self.metric != "val_loss"

    def pruned(self) -> dict[str, str]:
        """Return which of the open settings do not go on now, by trial id, and why."""
        open_ones = (one for one in self.tried if one.state == Trying.OPEN)
        reasons = {
            one.trial_id: self.why_not(one) for one in open_ones if one.trial_id not in self.in_training
        }
        return {trial_id: reason for trial_id, reason in reasons.items() if reason}

    def why_not(self, one: Tried) -> str | None:
        """Say why a setting does not go on from its last rung; None if it does."""
        # One that failed keeps nobody out, however good it was.
        reached = {other.trial_id: other.at_rungs for other in self.tried if other.state != Trying.FAILED}
        return self.rungs.why_not(one.trial_id, reached)

    def draw(self, first: Sequence[Setting] = ()) -> Tried | None:
        """Draw the next setting; None if all that the section allows are drawn.

        Args:
            first: the settings to begin with.
        """
        if len(self.tried) >= self.section.n_settings or self._is_exhausted:
            return None
        from study.search.sampling import next_setting  # Optuna takes half a second to import

        number = max([self.first_number, *(one.number + 1 for one in self.tried)])
        setting = next_setting(self, number=number, first=first)
        if setting is None:
            self._is_exhausted = True
            return None
        one = Tried(number, setting, self.trial_of(setting))
        self.tried.append(one)
        return one

    def trial_of(self, setting: Setting) -> PlannedTrial:
        """Return the trial that tries a setting.

        Raises:
            SpecError: its fields do not fit each other.
        """
        return self.cell.trial_of(setting, seed=self.section.training_seed)

    def label_of(self, one: Tried) -> str:
        """Word a setting for people."""
        words = ", ".join(
            f"{name.rpartition('.')[2]} {_word(value)}" for name, value in sorted(one.setting.items())
        )
        return f"{self.label} · setting {one.number}: {words}"

    def allows(self, setting: Setting) -> bool:
        """Say whether the fields of a setting fit each other, and no setting is the same training."""
        try:
            trial = self.trial_of(setting)
        except SpecError:
            return False
        return all(one.trial_id != trial.trial_id for one in self.tried)

    @property
    def n_left(self) -> int:
        """How many settings are still to be drawn."""
        wanted = self.section.n_settings - len(self.tried)
        if self._is_exhausted or wanted <= 0:
            return 0
        if self.section.n_possible > MOST_COUNTED:
            return wanted
        if len(self.tried) not in self._n_untried:
            untried = filter(self.allows, self.section.grid())
            self._n_untried[len(self.tried)] = sum(1 for _ in itertools.islice(untried, wanted))
        return self._n_untried[len(self.tried)]

    @property
    def is_decided(self) -> bool:
        """Whether no setting is drawn or goes on any more."""
        pruned = self.pruned()
        return not self.n_left and all(
            one.state != Trying.OPEN or one.trial_id in pruned for one in self.tried
        )

    def ranked(self) -> list[Tried]:
        """Return the settings that are done, the best first; of equal ones the earlier."""
        sign = -1.0 if self.rises else 1.0
        done = [one for one in self.tried if one.value is not None]
        return sorted(done, key=lambda one: (sign * (one.value or 0.0), one.number))

    @property
    def best(self) -> Tried | None:
        """The setting that the cell is compared with, once it is decided."""
        ranked = self.ranked() if self.is_decided else []
        return ranked[0] if ranked else None

    def results(self) -> list[PlannedTrial]:
        """Return the trials that the cell is compared with; none before it is decided, or if all failed."""
        best = self.best
        return [] if best is None else [self.cell.result_of(best.setting, seed) for seed in self.cell.seeds]


def _word(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(label(value))


def by_trial(searches: Sequence[CellSearch]) -> Mapping[str, tuple[CellSearch, Tried]]:
    """Return the settings of all cells by the ids of their trials."""
    return {one.trial.trial_id: (search, one) for search in searches for one in search.tried}
