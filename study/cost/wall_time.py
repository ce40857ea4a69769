"""How long the last run of a study should have taken, and took: kept with the run of the study."""

import json
import math
from dataclasses import asdict, dataclass

from study.durations import duration
from study.tracking import StudyRun
from trainables.record import names


@dataclass(frozen=True)
class WallTime:
    """Of one run of a study that left nothing undone.

    Attributes:
        predicted_s: by the estimate, when the first trial was handed out.
        measured_s: from then until the last trial had ended.
    """

    predicted_s: float
    measured_s: float

    def worded(self) -> str:
        """Return `predicted 12 min, took 13 min (+8 %)`."""
        off = self.measured_s / self.predicted_s - 1 if self.predicted_s else math.inf
        return f"predicted {duration(self.predicted_s)}, took {duration(self.measured_s)} ({off:+.0%})"


def keep_wall_time(run: StudyRun, wall: WallTime) -> None:
    """Store it in place of that of the run before.

    Raises:
        TrackingError: the store cannot be used.
    """
    run.set_tag(names.WALL_TIME, json.dumps(asdict(wall)))


def last_wall_time(run: StudyRun) -> WallTime | None:
    """Return that of the last such run of a study; None if there is none, or if somebody edited it."""
    try:
        content = json.loads(run.tag(names.WALL_TIME))
        wall = WallTime(float(content["predicted_s"]), float(content["measured_s"]))
    except (ValueError, TypeError, KeyError):
        return None
    return wall if all(math.isfinite(s) and s >= 0 for s in (wall.predicted_s, wall.measured_s)) else None
