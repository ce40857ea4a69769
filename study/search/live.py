"""The searches of a study while it runs: what they want trained next, and what they are told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from study.axes import label
from study.plan import Plan, PlanEntry, result_entries, setting_entry
from study.search.cell import CellSearch, Trying, by_trial
from study.search.records import IMAGES_SEEN, SettingMark, conclude
from trainables.record import names


@dataclass
class LiveSearches:
    """The searches of all cells, and what is in training of them.

    Args:
        plan: what is in it already is handed out by whoever has the plan.
        end_metrics: gives the metrics of a finished trial, where the report of its end has none.
        keep_failed: settings that failed in an earlier run are not tried once more.

    Attributes:
        given_up: reasons by the keys of the cells that are not searched further.
    """

    plan: Plan
    end_metrics: Callable[[str], Mapping[str, float]]
    keep_failed: bool = False
    given_up: dict[str, str] = field(default_factory=dict)
    goes_first = True

    def __post_init__(self) -> None:
        self._searches = self.plan.searches
        self._entries = {entry.trial_id: entry for entry in self.plan.entries}
        self._tried = dict(by_trial(self._searches))
        for search in self._searches:
            for one in search.tried:
                if one.state == Trying.FAILED and not one.is_diverged and not self.keep_failed:
                    one.state = Trying.OPEN  # tried once more, as any trial that failed
            open_ones = {one.trial_id for one in search.tried if one.state == Trying.OPEN}
            search.in_training |= open_ones - search.pruned().keys()  # the plan has them: they are handed out
        self._decided = {search.cell.key for search in self._searches if search.is_decided}
        for search in self._searches:
            if search.cell.key in self._decided:
                self._give_up_without_best(search)

    @property
    def parent_ids(self) -> frozenset[str]:
        """The trials that cells wait for."""
        return frozenset(parent for search in self._searches for parent in search.cell.parent_ids)

    @property
    def is_over(self) -> bool:
        """Whether no cell wants anything any more."""
        return all(self._is_over(search) for search in self._searches)

    @property
    def n_announced(self) -> int:
        """How many trials the cells will still decide on."""
        return sum(
            search.n_left + len(search.cell.seeds) for search in self._searches if not self._is_over(search)
        )

    def reported(self, trial_id: str, images_seen: float, value: float) -> str | None:
        """Take up an evaluation of a trial in training; say why it is to be stopped, or return None."""
        if trial_id not in self._tried:
            return None
        search, one = self._tried[trial_id]
        passed = search.rungs.passed([(images_seen, value)])
        if passed.keys() <= one.at_rungs.keys():
            return None
        one.at_rungs = {**passed, **one.at_rungs}
        why = search.why_not(one)
        if why is not None:
            search.in_training.discard(one.trial_id)
        return why

    def metric_of(self, trial_id: str) -> str | None:
        """Return by which metric a trial is judged at rungs; None if it is no setting of a search."""
        return self._tried[trial_id][0].metric if trial_id in self._tried else None

    def marks(self, trial_id: str) -> dict[str, str]:
        """Return the tags that a setting's trial gets."""
        if trial_id not in self._tried:
            return {}
        search, one = self._tried[trial_id]
        mark = SettingMark(search.cell.key, one.number, one.setting)
        return {names.SETTING_PREFIX + self.plan.study: mark.text()}

    def ended(self, entry: PlanEntry, status: str, metrics: Mapping[str, Any]) -> None:
        """Take up how a trial ended: `finished`, `failed`, or `diverged`, which it would again."""
        if entry.trial_id not in self._tried:
            return
        search, one = self._tried[entry.trial_id]
        search.in_training.discard(one.trial_id)
        if status == "finished" and f"best_{search.metric}" not in metrics:
            metrics = self.end_metrics(entry.trial_id)
        one.is_diverged = status == "diverged"
        conclude(search, one, "failed" if one.is_diverged else status, metrics)

    def unfinished(self) -> list[str]:
        """Return the keys of the cells that are searched on."""
        return [search.cell.key for search in self._searches if not self._is_over(search)]

    def planned(self, entry: PlanEntry) -> None:
        """Take up nothing: its own settings are known, and its results are its own decision."""

    def parent_failed(self, parent_id: str, reason: str) -> None:
        """Give up the cells that need a trial which failed."""
        for search in self._searches:
            if parent_id in search.cell.parent_ids and not self._is_over(search):
                self.given_up[search.cell.key] = reason

    def released(self) -> list[PlanEntry]:
        """Return the trials of cells that have come to be decided: those that they are compared with."""
        entries: list[PlanEntry] = []
        for search in self._searches:
            if search.cell.key not in self._decided and search.is_decided:
                self._decided.add(search.cell.key)
                self._give_up_without_best(search)
                entries += result_entries(search)
        return entries

    def next(self, is_done: Callable[[str], bool]) -> PlanEntry | None:
        """Return a setting to train now: one that was stopped and goes on again, or one that is drawn.

        The cell that has tried the fewest comes first, so that all advance together.

        Args:
            is_done: says whether a parent has finished.
        """
        for search in sorted(self._searches, key=lambda search: len(search.tried)):
            at_once = search.section.at_once
            is_full = at_once is not None and len(search.in_training) >= at_once
            if is_full or search.cell.key in self.given_up or not all(map(is_done, search.cell.parent_ids)):
                continue
            if (again := self._goes_on_again(search)) is not None:
                return again
            if (drawn := self._drawn(search)) is not None:
                return drawn
        return None

    def _goes_on_again(self, search: CellSearch) -> PlanEntry | None:
        kept_out = search.in_training | search.pruned().keys()
        for one in search.tried:
            if one.state == Trying.OPEN and one.trial_id not in kept_out:
                search.in_training.add(one.trial_id)
                return self._entries[one.trial_id]
        return None

    def _drawn(self, search: CellSearch) -> PlanEntry | None:
        other = self._warm_start(search)
        if other is not None and not self._is_over(other):
            return None
        n_best = search.section.warm_start.best if search.section.warm_start else 0
        first = [one.setting for one in other.ranked()[:n_best]] if other is not None else []
        one = search.draw(first)
        if one is None:
            return None
        search.in_training.add(one.trial_id)
        entry = setting_entry(search, one)
        self._tried[entry.trial_id], self._entries[entry.trial_id] = (search, one), entry
        return entry

    def _warm_start(self, search: CellSearch) -> CellSearch | None:
        """Return the cell whose best settings a cell begins with; None if there is none."""
        section = search.section.warm_start
        if section is None:
            return None
        wanted = {name: label(value) for name, value in section.cell.items()}
        if all(search.cell.axes.get(name) == value for name, value in wanted.items()):
            return None
        # Not every cell has every axis: a depth belongs to transfusions alone.
        fixed = {**search.cell.axes, **wanted}
        others = (other for other in self._searches if other is not search)
        return next((other for other in others if _agree(other.cell.axes, fixed, wanted)), None)

    def _is_over(self, search: CellSearch) -> bool:
        return search.cell.key in self._decided or search.cell.key in self.given_up

    def _give_up_without_best(self, search: CellSearch) -> None:
        if search.best is None:
            n_failed = sum(one.state == Trying.FAILED for one in search.tried)
            self.given_up[search.cell.key] = (
                f"none of its {len(search.tried)} settings came to an end; {n_failed} failed"
            )


def _agree(axes: Mapping[str, Any], fixed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a cell has the wanted values, and no other value than the fixed ones on any axis."""
    has_wanted = all(axes.get(name) == value for name, value in wanted.items())
    return has_wanted and all(fixed.get(name, value) == value for name, value in axes.items())


def evaluation_of(metrics: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """Return images seen and the value from the metrics of a report; None if it is of no evaluation."""
    images, value = metrics.get(IMAGES_SEEN), metrics.get(metric)
    return (float(images), float(value)) if images is not None and value is not None else None
