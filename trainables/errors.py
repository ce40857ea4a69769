"""Everything that can go wrong and has a name.

    TransfusionError
    ├── UserError                a person can mend it: the message says how; the CLI exits with 2
    │   ├── SpecError            a trial specification that cannot be trained
    │   ├── StudyFileError       every mistake of one study file, with line numbers
    │   ├── DataError            missing, unreadable or inconsistent images
    │   ├── WeightsError         pretrained weights that are absent or do not fit
    │   ├── CheckpointError      a checkpoint that is truncated or altered
    │   ├── TrackingError        MLflow cannot be reached or lacks what was asked for
    │   └── DiskFullError        a disk is full, and stayed full
    ├── NotFiniteError           the loss became NaN or infinite: the trial fails, the study goes on
    └── StaleAttemptError        another process has taken this trial over: stop writing

A message reads: where: what was expected, what came, what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TransfusionError(Exception):
    """Root of all errors raised on purpose."""


class UserError(TransfusionError):
    """A mistake a person can mend; shown without a traceback."""


class SpecError(UserError):
    """A trial specification that cannot be trained."""


class StudyFileError(UserError):
    """All mistakes of one study file.

    Attributes:
        problems: one message per mistake, in the order of the lines.
    """

    def __init__(self, path: str, problems: list[str]) -> None:
        self.problems = problems
        noun = "mistake" if len(problems) == 1 else "mistakes"
        super().__init__(f"{path}: {len(problems)} {noun}\n" + "\n".join(f"  {p}" for p in problems))


class DataError(UserError):
    """Images or labels that are missing, unreadable or inconsistent."""


class WeightsError(UserError):
    """Pretrained weights that are absent or do not fit the network."""


class CheckpointError(UserError):
    """A checkpoint that is truncated, altered or of another trial."""


class TrackingError(UserError):
    """MLflow cannot be reached, or does not hold what was asked for."""


class DiskFullError(UserError):
    """A disk is full, and stayed full for as long as a trial may wait."""


class NotFiniteError(TransfusionError):
    """The loss became NaN or infinite."""


class StaleAttemptError(TransfusionError):
    """A newer attempt at the same trial is writing; this one must stop."""


def suggestion(got: object, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` when `got` resembles a known name, else an empty string."""
    close = get_close_matches(str(got), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_choice(where: str, got: object, known: Iterable[str]) -> str:
    """Word the message for a name that is not in a table."""
    names = sorted(known)
    listed = ", ".join(repr(name) for name in names)
    return f"{where} must be one of {listed}, got {got!r}{suggestion(got, names)}"
