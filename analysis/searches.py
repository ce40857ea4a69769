"""What the searches of a study found: of each cell the settings that it tried, and the best of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from trainables.spec import TrialSpec

TRIED_COLUMNS = ("number", "state", "value", "rung", "rung_value")
DONE, PRUNED, FAILED, OPEN = "done", "pruned", "failed", "open"

EDGE_SHARE = 0.02
"""A value that is nearer than this share of a range to one of its ends lies at the edge."""


@dataclass(frozen=True)
class SearchedField:
    """Where the values of one field are looked for: a range of numbers, or choices.

    Attributes:
        low, high: ends of the range; NaN of choices.
        is_log: whether the range is searched on a logarithmic axis.
        is_whole: whether its numbers are whole.
        choices: their names, in the order of the study file; none of a range.
    """

    low: float = math.nan
    high: float = math.nan
    is_log: bool = False
    is_whole: bool = False
    choices: tuple[str, ...] = ()

    def is_at_edge(self, value: Any) -> bool:
        """Say whether a value lies at an end of the range, so that better ones may lie beyond it.

        Choices have no ends, and of two whole numbers both are one.
        """
        if self.choices or (self.is_whole and self.high - self.low < 2):
            return False
        low, high, at = (math.log(x) if self.is_log else float(x) for x in (self.low, self.high, value))
        return min(at - low, high - at) <= EDGE_SHARE * (high - low)


@dataclass(frozen=True)
class SearchFacts:
    """The search of one cell.

    Attributes:
        label: of the cell, for people; no other cell of the study has it.
        base: the cell's trial with what the study file says of the searched fields.
        metric: of the validation split, by which settings are compared.
        rises: whether a larger value is better.
        fields: where each field is searched, by dotted name.
        tried: one row per setting with TRIED_COLUMNS and a column per field (choices by their names). `state`
            is done, pruned (stopped early), failed or open; `value` the metric of its best evaluation, NaN if
            it is not done; `rung` the images seen at the last rung it has passed, `rung_value` the metric
            there, NaN without rungs.
        n_left: settings that are still to be drawn.
        best: number of the setting that the cell is compared with; None while the search goes on, or if no
            setting came to its end.
        importances: the share of each field in the variation of the value; empty where that cannot be told.
        result_ids: of the trials that the cell is compared with.
    """

    label: str
    base: TrialSpec
    metric: str
    rises: bool
    fields: Mapping[str, SearchedField]
    tried: pd.DataFrame
    n_left: int
    best: int | None
    importances: Mapping[str, float]
    result_ids: tuple[str, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "SearchFacts":
        """Take up plain data: `fields` and `tried` are mappings and a list of mappings."""
        fields = {name: SearchedField(**field) for name, field in content["fields"].items()}
        tried = pd.DataFrame(content["tried"], columns=[*TRIED_COLUMNS, *fields])
        numbers = ["value", "rung", "rung_value"]
        tried[numbers] = tried[numbers].astype(float)
        return cls(**{**content, "fields": fields, "tried": tried})

    def count(self, state: str) -> int:
        """Return how many settings are in a state."""
        return int((self.tried["state"] == state).sum())

    @property
    def names(self) -> dict[str, str]:
        """The fields in as few words as tell them apart: `lr` for `training.optimizer.lr`."""
        return {name: _shortest(name, list(self.fields)) for name in self.fields}

    @property
    def best_row(self) -> Mapping[str, Any] | None:
        """The row of the best setting."""
        if self.best is None:
            return None
        [row] = self.tried[self.tried["number"] == self.best].to_dict("records")
        return {str(name): value for name, value in row.items()}

    @property
    def best_in_words(self) -> str:
        """`lr 0.01, momentum 0.9`; empty while there is no best setting."""
        row = self.best_row
        return "" if row is None else ", ".join(f"{s} {_word(row[name])}" for name, s in self.names.items())

    @property
    def edges(self) -> tuple[str, ...]:
        """The fields whose best value lies at an end of its range."""
        row = self.best_row
        if row is None:
            return ()
        return tuple(name for name, field in self.fields.items() if field.is_at_edge(row[name]))

    @property
    def most_important(self) -> str | None:
        """The field that the value varies most with; None where that cannot be told."""
        return max(self.importances, key=lambda name: self.importances[name], default=None)

    @property
    def why_no_best(self) -> str:
        """Why the cell has no results; empty if its best setting is known."""
        if self.best is not None:
            return ""
        if self.n_left or self.count(OPEN):
            n_open = self.count(OPEN)
            return f"settings: {len(self.tried)} tried, {n_open} of them open; {self.n_left} to come"
        return f"none of its {len(self.tried)} settings came to an end; {self.count(FAILED)} failed"


Searches: TypeAlias = Mapping[tuple[str, str], SearchFacts]
"""By setting and initialization of the cell, as `analysis.load` names them."""


def settings_tried(searches: Searches) -> pd.DataFrame:
    """Return the settings of all cells: setting, init, is_best and the columns of `SearchFacts.tried`."""
    tables = [
        facts.tried.assign(setting=setting, init=init, is_best=facts.tried["number"] == facts.best)
        for (setting, init), facts in searches.items()
        if not facts.tried.empty
    ]
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["setting", "init"])
    return rows[["setting", "init", *(column for column in rows if column not in ("setting", "init"))]]


def _shortest(name: str, names: list[str]) -> str:
    """Return as many of the last parts of a dotted name as no other name ends with."""
    parts = name.split(".")
    for n in range(1, len(parts)):
        short = ".".join(parts[-n:])
        if not any(other != name and other.endswith(f".{short}") for other in names):
            return short
    return name


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
