"""What a study has used of its machines, and whether it may go on."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray import tune

from study.grid import Resources
from study.sections import BudgetSection

KEEP_EVERY_S = 30.0
HOUR_S = 3600.0


@dataclass(frozen=True)
class Use:
    """Hours that trials held GPUs and cores; a trial on half a GPU for an hour used half an hour."""

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0

    def plus(self, seconds: float, resources: Resources) -> "Use":
        """Return the use with a trial of so many seconds added."""
        hours = seconds / HOUR_S
        return Use(self.gpu_hours + hours * resources.gpu, self.cpu_hours + hours * resources.cpu)

    def text(self) -> str:
        """Return it as the content of a tag."""
        return json.dumps({"gpu_hours": round(self.gpu_hours, 6), "cpu_hours": round(self.cpu_hours, 6)})

    @classmethod
    def parse(cls, text: str) -> "Use":
        """Read the content of a tag; nothing used if there is none, or it was edited to what it cannot be."""
        try:
            content = json.loads(text)
            return cls(float(content["gpu_hours"]), float(content["cpu_hours"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()


@dataclass
class Budget:
    """Counts what the trials of a study use, over all its runs.

    A driver that is killed leaves what it had noted, at most half a minute before.

    Args:
        used: before this run.
        keep: stores what was used; may fail, and is asked again.
    """

    section: BudgetSection
    used: Use
    keep: Callable[[Use], None]
    clock: Callable[[], float] = time.monotonic
    _running: dict[str, tuple[float, Resources]] = field(default_factory=dict)
    _kept_at: float = -KEEP_EVERY_S

    def began(self, trial_id: str, resources: Resources) -> None:
        """Count a trial from now on."""
        self._running[trial_id] = (self.clock(), resources)

    def ended(self, trial_id: str) -> None:
        """Count a trial no longer."""
        began, resources = self._running.pop(trial_id, (self.clock(), Resources(0, 0)))
        self.used = self.used.plus(self.clock() - began, resources)

    def now(self) -> Use:
        """Return what was used until now."""
        used = self.used
        for began, resources in self._running.values():
            used = used.plus(self.clock() - began, resources)
        return used

    def note(self) -> None:
        """Store what was used, now and then."""
        if self.clock() - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = self.clock()
            self.keep(self.now())

    def why_not(self) -> str | None:
        """Say why no further trial may begin; None if one may."""
        used = self.now()
        for name, limit, hours in (
            ("GPU", self.section.gpu_hours, used.gpu_hours),
            ("CPU", self.section.cpu_hours, used.cpu_hours),
        ):
            if limit is not None and hours >= limit:
                return (
                    f"the budget of {limit:g} {name} hours is spent ({hours:.3g} used); raise "
                    f"budget.{name.lower()}_hours to go on"
                )
        return None


class BudgetCallback(tune.Callback):
    """Tells a budget what Tune runs: what a worker holds, however many trials it trains together."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never comes

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self._budget.began(trial.trial_id, Resources(trial.config["cpu"], trial.config["gpu"]))

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        self._budget.note()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self._budget.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self._budget.ended(trial.trial_id)
