"""What MLflow knows of the searches of a study: a driver goes on from this and from nothing else."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.extent import published_sizes, training_images
from study.grid import SearchedCell
from study.search.cell import CellSearch, Tried, Trying
from study.search.section import SearchSection, Setting
from trainables.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

    from trainables.record import TrialRecord  # which imports MLflow

Histories = Callable[["Iterable[TrialRecord]", Sequence[str]], "pd.DataFrame"]
IMAGES_SEEN = "images_seen"


@dataclass(frozen=True)
class SettingMark:
    """The tag of a trial that says what it is to the search of a study."""

    cell: str
    number: int
    setting: Setting

    def text(self) -> str:
        """Return the content of the tag."""
        return json.dumps({"cell": self.cell, "number": self.number, "setting": dict(self.setting)})

    @classmethod
    def parse(cls, text: str) -> "SettingMark | None":
        """Read the content of a tag; None if somebody has edited it to what it cannot be."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        cell, number, setting = (content.get(name) for name in ("cell", "number", "setting"))
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            return None
        return cls(cell, number, setting) if isinstance(cell, str) and isinstance(setting, dict) else None


def recorded_searches(
    study: str,
    section: SearchSection,
    cells: Mapping[str, SearchedCell],
    records: "Iterable[TrialRecord]",
    *,
    histories: Histories | None,
) -> list[CellSearch]:
    """Return the search of every cell with what it has tried so far.

    A trial whose setting the section does not allow any more, or that is not what its tag says, is no part.

    Args:
        cells: by their labels.
        records: of any trials.
        histories: gives metrics over training; needed where settings are stopped early.
    """
    searches = {cell.key: CellSearch(cell, section, label) for label, cell in cells.items()}
    found: list[tuple[CellSearch, Tried, TrialRecord]] = []
    for record in records:
        mark = SettingMark.parse(record.settings[study]) if study in record.settings else None
        search = searches.get(mark.cell) if mark is not None else None
        if search is None or mark is None:
            continue
        search.first_number = max(search.first_number, mark.number + 1)
        if (tried := _tried(search, mark, record)) is not None:
            found.append((search, tried, record))
    if section.pruning is not None and histories is not None:
        _add_rungs(found, histories)
    for search, tried, _ in sorted(found, key=lambda item: item[1].number):
        search.tried.append(tried)
    return list(searches.values())


def _tried(search: CellSearch, mark: SettingMark, record: "TrialRecord") -> Tried | None:
    if not search.section.contains(mark.setting):
        return None
    try:
        trial = search.trial_of(mark.setting)
    except SpecError:
        return None
    if trial.trial_id != record.trial_id:
        return None
    tried = Tried(mark.number, mark.setting, trial, is_diverged=record.is_diverged)
    conclude(search, tried, record.status, record.metrics)
    return tried


def conclude(search: CellSearch, tried: Tried, status: str, metrics: Mapping[str, Any]) -> None:
    """Take up how a trial ended, if it has; one that is finished and of which nothing is known stays open."""
    if status == "failed":
        tried.state = Trying.FAILED
    elif status == "finished" and metrics:
        value = metrics.get(f"best_{search.metric}")
        is_number = isinstance(value, float) and value == value
        tried.state, tried.value = (Trying.DONE, value) if is_number else (Trying.FAILED, None)
        tried.is_diverged = not is_number


def _add_rungs(found: "Sequence[tuple[CellSearch, Tried, TrialRecord]]", histories: Histories) -> None:
    if not found:
        return
    metrics = list(dict.fromkeys([IMAGES_SEEN, *(search.metric for search, _, _ in found)]))
    table = histories([record for _, _, record in found], metrics)
    points = {
        key: dict(zip(rows["step"], rows["value"], strict=True))
        for key, rows in table.groupby(["trial_id", "metric"], sort=False, observed=True)
    }
    for search, tried, record in found:
        seen = points.get((record.trial_id, IMAGES_SEEN), {})
        values = points.get((record.trial_id, search.metric), {})
        evaluations = [(float(seen[step]), float(values[step])) for step in seen if step in values]
        spec = tried.trial.spec
        end = training_images(spec, published_sizes(spec.dataset)) or math.inf
        tried.at_rungs = search.rungs.passed(evaluations, end=end)
