"""Reads what trials wrote about themselves (`hooks/sitecustomize.py`): what was trained, by whom."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Attempt:
    """One process' work on one trial.

    Attributes:
        number: of the attempt, by which the record fences: 1 is the first.
        began_at_step: where it took the training up.
        steps: every optimizer step taken, with the second of the monotonic clock.
    """

    run_id: str
    number: int
    pid: int
    began_at_step: int
    began_at: float
    steps: list[tuple[float, int]] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        return self.steps[-1][1] if self.steps else self.began_at_step


def read_attempts(folder: Path) -> list[Attempt]:
    """Return every attempt, by run and number; a line that is not whole yet is left out."""
    attempts: dict[tuple[str, str], Attempt] = {}
    for file in folder.glob("*.diary"):
        for line in file.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            at, run_id, token, what, step = line.split()
            if what == "begins":
                attempts[run_id, token] = Attempt(
                    run_id, int(token.split("-")[0]), int(file.stem), int(step), float(at)
                )
            else:
                attempts[run_id, token].steps.append((float(at), int(step)))
    return sorted(attempts.values(), key=lambda attempt: (attempt.run_id, attempt.number))


@dataclass(frozen=True)
class Repeat:
    """Work that was done twice.

    Attributes:
        steps: those the next attempt did again.
        excused: of them, those taken while nothing could be committed.
    """

    run_id: str
    number: int
    at: float
    steps: int
    excused: int


def repeats(attempts: list[Attempt], outages: list[tuple[float, float]]) -> list[Repeat]:
    """Compare each attempt with the furthest one before it.

    Args:
        outages: from when to when nothing could be committed, in seconds of the monotonic clock.
    """
    found, furthest = [], {}
    for attempt in attempts:
        before = furthest.get(attempt.run_id)
        if before is not None and before.last_step > attempt.began_at_step:
            lost = [at for at, step in before.steps if step > attempt.began_at_step]
            excused = sum(any(begin <= at <= end for begin, end in outages) for at in lost)
            steps = before.last_step - attempt.began_at_step
            found.append(Repeat(attempt.run_id, attempt.number, attempt.began_at, steps, excused))
        if before is None or attempt.last_step >= before.last_step:
            furthest[attempt.run_id] = attempt
    return found
