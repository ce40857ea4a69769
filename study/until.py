"""`run --until "ci(val_auroc) < 0.01"`: more seeds for the cells whose interval is still wide."""

import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from study.grid import PlannedTrial
from study.plan import Plan, PlanEntry, State
from trainables.errors import UserError
from trainables.identity import cell_id
from trainables.record import names
from trainables.resolution import with_seed

CONFIDENCE = 0.95
_CONDITION = re.compile(
    r"\s*ci\(\s*(?P<metric>(val|test)_\w+)\s*\)\s*<\s*(?P<limit>[0-9]+(\.[0-9]*)?(e-?[0-9]+)?)\s*"
)


@dataclass(frozen=True)
class Until:
    """A condition on every cell.

    Attributes:
        metric: as it stands in the records at the end of a trial.
        limit: below which half the width of the 95 % interval of its mean over seeds shall come.
        max_seeds: of a cell; with so many it is left as it is.
    """

    metric: str
    limit: float
    max_seeds: int = 10

    @classmethod
    def parse(cls, text: str, *, max_seeds: int) -> "Until":
        """Read a condition.

        Raises:
            UserError: it is none.
        """
        found = _CONDITION.fullmatch(text)
        if found is None or not float(found["limit"]) > 0:
            raise UserError(
                "--until must be written like 'ci(val_auroc) < 0.01', with a metric of val_… or test_… and a "
                f"limit above 0, got {text!r}"
            )
        return cls(found["metric"], float(found["limit"]), max_seeds)

    def half_width(self, values: list[float]) -> float:
        """Return half the width of Student's interval of the mean; infinite for fewer than two values."""
        if len(values) < 2:
            return math.inf
        from scipy.stats import t  # takes a second to import

        error = statistics.stdev(values) / math.sqrt(len(values))
        return float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error


@dataclass
class _Cell:
    """One cell.

    Attributes:
        values: of the finished seeds; NaN where the metric is not there.
        seeds: all that were begun.
    """

    label: str
    trial: PlannedTrial
    values: dict[int, float] = field(default_factory=dict)
    seeds: set[int] = field(default_factory=set)
    open: set[int] = field(default_factory=set)

    @property
    def known(self) -> list[float]:
        return [value for value in self.values.values() if not math.isnan(value)]


class MoreSeeds:
    """Adds seeds to the cells of a running study, one at a time to each, until a condition holds.

    Args:
        metrics_of: gives the metrics in a trial's record.
        keep_failed: trials that failed in an earlier run are not trained once more.
    """

    parent_ids: frozenset[str] = frozenset()
    n_announced = 0
    goes_first = False  # nobody wants more seeds of one cell while others lack theirs

    def __init__(
        self,
        plan: Plan,
        until: Until,
        metrics_of: Callable[[str], Mapping[str, float]],
        *,
        keep_failed: bool = False,
    ) -> None:
        self._until, self._metrics_of, self._study = until, metrics_of, plan.study
        self._cells: dict[str, _Cell] = {}
        self._added: set[str] = set()
        for entry in (entry for entry in plan.entries if entry.trial.is_result):
            self.planned(entry)
            if entry.state == State.DONE and entry.record is not None:
                self._take_up(entry, entry.record.metrics)
            elif entry.state == State.FAILED and keep_failed:
                self._take_up(entry, {})

    @property
    def given_up(self) -> dict[str, str]:
        """Nothing: a cell that stays wide has all its trials."""
        return {}

    def released(self) -> list[PlanEntry]:
        """Return nothing: seeds are added when a slot is free."""
        return []

    def unfinished(self) -> list[str]:
        """Return nothing: what it would add has no name yet."""
        return []

    def parent_failed(self, parent_id: str, reason: str) -> None:
        """Take up nothing: cells are known by their finished trials."""

    def planned(self, entry: PlanEntry) -> None:
        """Take up that a seed of a cell is planned."""
        if not entry.trial.is_result:
            return
        cell = self._cells.setdefault(cell_id(entry.trial.spec), _Cell(entry.cell_label, entry.trial))
        cell.seeds.add(entry.trial.spec.seed)
        cell.open.add(entry.trial.spec.seed)

    def ended(self, entry: PlanEntry, status: str, metrics: Mapping[str, Any]) -> None:
        """Take up what a trial ended with; of its record, for a report does not hold all."""
        if entry.trial.is_result:
            self._take_up(entry, self._metrics_of(entry.trial_id) if status == "finished" else {})

    def next(self, is_done: Callable[[str], bool]) -> PlanEntry | None:
        """Return one more seed for the cell that has the fewest of those that are too wide."""
        wide = [cell for cell in self._cells.values() if not cell.open and self._wants(cell)]
        for cell in sorted(wide, key=lambda cell: len(cell.seeds)):
            seed = next(seed for seed in range(len(cell.seeds) + 1) if seed not in cell.seeds)
            spec = with_seed(cell.trial.spec, seed)
            if spec.seed != seed:
                continue  # nothing is drawn in it: every seed is the same training
            trial = cell.trial.reseeded(spec)
            self._added.add(trial.trial_id)
            return PlanEntry(trial, cell.label, State.TO_RUN, None, "")
        return None

    def marks(self, trial_id: str) -> dict[str, str]:
        """Return the tag by which a plan knows that a seed belongs to its study."""
        return {names.STUDY_PREFIX + self._study: names.ADDED} if trial_id in self._added else {}

    @property
    def is_wanted(self) -> bool:
        """Whether some cell wants another seed."""
        return any(self._wants(cell) for cell in self._cells.values())

    def still_wide(self) -> list[str]:
        """Say of which cells the condition does not hold."""
        return [
            f"{cell.label}: ci({self._until.metric}) is ±{self._until.half_width(cell.known):.2g} with "
            f"{len(cell.known)} seeds, not below {self._until.limit:g}"
            for cell in self._cells.values()
            if self._is_wide(cell)
        ]

    def _take_up(self, entry: PlanEntry, metrics: Mapping[str, float]) -> None:
        cell, seed = self._cells[cell_id(entry.trial.spec)], entry.trial.spec.seed
        cell.open.discard(seed)
        if metrics:
            cell.values[seed] = float(metrics.get(self._until.metric, math.nan))

    def _is_wide(self, cell: _Cell) -> bool:
        return self._until.half_width(cell.known) >= self._until.limit

    def _wants(self, cell: _Cell) -> bool:
        # A metric that no trial of the cell has will not come with more of them.
        is_hopeless = bool(cell.values) and not cell.known
        return len(cell.seeds) < self._until.max_seeds and not is_hopeless and self._is_wide(cell)
