"""What a check finds, and what became of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from trainables.errors import UserError

# Mends, and returns None, or why it left things as they are.
Repair = Callable[[], str | None]


class Fate(StrEnum):
    """What became of a finding."""

    FOUND = "found"
    REPAIRED = "repaired"
    LEFT = "left"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        check: the name of the check that found it.
        where: the node, trial, study or folder.
        todo: what the repair does; without a repair, what a person can do.
        repair: mends it; None if only a person can.
    """

    check: str
    where: str
    what: str
    todo: str
    repair: Repair | None = None


@dataclass(frozen=True)
class Treated:
    """A finding and what became of it.

    Attributes:
        reason: why a repair left it as it is, else empty.
    """

    finding: Finding
    fate: Fate
    reason: str = ""

    def as_row(self) -> dict[str, object]:
        """Return it as plain data, for scripts."""
        found = self.finding
        return {
            "check": found.check,
            "where": found.where,
            "what": found.what,
            "todo": found.todo,
            "can_be_repaired": found.repair is not None,
            "fate": str(self.fate),
            "reason": self.reason,
        }


def treat(findings: Iterable[Finding], *, is_repairing: bool) -> Iterator[Treated]:
    """Repair findings one by one, or only pass them on."""
    for finding in findings:
        if not is_repairing or finding.repair is None:
            yield Treated(finding, Fate.FOUND)
            continue
        try:
            reason = finding.repair()
        except UserError as error:
            reason = str(error)  # the others are still mended
        yield Treated(finding, Fate.LEFT if reason else Fate.REPAIRED, reason or "")
