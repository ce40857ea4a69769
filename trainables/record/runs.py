"""One run of a trial: what is read of it, how runs are asked for, and which of several counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mlflow.entities import Run

AnyRun = TypeVar("AnyRun", "Run", "StoredRun")


@dataclass(frozen=True)
class StoredRun:
    """What a trial's record is made of; times in ms since 1970."""

    run_id: str
    status: str
    start_time: int
    end_time: int | None
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def is_settled(self) -> bool:
        """Whether nothing writes to it any more."""
        return self.status == "FINISHED" and self.end_time is not None

    @classmethod
    def of(cls, run: "Run") -> "StoredRun":
        """Take over what is needed of MLflow's own."""
        info, data = run.info, run.data
        return cls(info.run_id, info.status, info.start_time or 0, info.end_time, data.tags, data.metrics)


def tag_query(*wanted: tuple[str, str]) -> str | None:
    """Return the filter for runs with these tags; None if no run can have them.

    MLflow's filters cannot quote every text, but no tag of ours has such a value.
    """
    if any("'" in text or "`" in text for pair in wanted for text in pair):
        return None
    return " and ".join(f"tags.`{key}` = '{text}'" for key, text in wanted)


def canonical(runs: Iterable[AnyRun]) -> AnyRun:
    """Of several runs of one trial, return the one that counts: a finished one first, then the oldest."""

    def rank(run: AnyRun) -> tuple[bool, int, str]:
        info = run if isinstance(run, StoredRun) else run.info
        return info.status != "FINISHED", info.start_time or 0, info.run_id

    return min(runs, key=rank)
