"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.cost.forecast import Forecast
from study.cost.foresight import Foresight
from study.dispatch import Dispatcher
from study.durations import duration
from study.failures import Loss
from study.plan import Plan, PlanEntry, State
from trainables.progress import reports_of

SHOWN_FAILURES = 5
FORECAST_EVERY_S = 5.0


@dataclass
class _Running:
    """A trial in flight."""

    label: str
    began: float
    n_together: int = 1
    step: int = 0
    total_steps: int = 0
    first_step: int | None = None
    score: float | None = None
    n_noticed: int = 0

    @property
    def fraction(self) -> float:
        return self.step / self.total_steps if self.total_steps else 0.0

    @property
    def fraction_of_rest(self) -> float:
        """Of what was left of it when this run of it began."""
        first = self.first_step or 0
        return (self.step - first) / (self.total_steps - first) if self.total_steps > first else 0.0

    def rate(self, now: float) -> float:
        """Steps a second since this run of it began."""
        return (self.step - (self.first_step or 0)) / max(now - self.began, 1e-9)


@dataclass
class StudyDisplay:
    """Follows one run of a study.

    Attributes:
        console: where to draw; a terminal gets a live table, anything else a line per trial.
        foresee: looks ahead when a run begins.
        forecast: of how long it takes; None where too little is known.
        seconds: how long the trials were shown, from the first to the last.
    """

    console: Console = field(default_factory=Console)
    foresee: Callable[[Plan], Foresight] = lambda _: Foresight()
    forecast: Forecast | None = None
    _entries: Mapping[str, PlanEntry] = field(default_factory=dict)
    _running: dict[str, _Running] = field(default_factory=dict)
    _searcher: Dispatcher | None = None
    _name: str = ""
    _began: float = field(default_factory=time.monotonic)
    _n_done_before: int = 0
    _n_finished: int = 0
    _fraction_before: float = 0.0
    _live: Live | None = None
    _left: tuple[float, float] = (-math.inf, 0.0)
    seconds: float = 0.0

    @contextmanager
    def showing(self, plan: Plan, searcher: Dispatcher) -> Iterator[None]:
        """Show the run of a plan until the block ends."""
        self._entries = searcher.entries  # which grows
        self._searcher, self._name = searcher, plan.study
        self._n_done_before = plan.counts().get(State.DONE, 0)
        foresight = self.foresee(plan)
        self.forecast = foresight.forecast
        self.note(list(foresight.notes))
        self._began = time.monotonic()
        try:
            if not self.console.is_terminal:
                self.console.print(self._headline())
                yield
                return
            with Live(get_renderable=self._render, console=self.console, refresh_per_second=2) as self._live:
                yield
        finally:
            self.seconds = time.monotonic() - self._began

    def note(self, notices: list[str]) -> None:
        """Show what went wrong without stopping the study."""
        for notice in notices:
            self.console.print(f"note: {notice}", style="yellow", markup=False, soft_wrap=True)

    def tune_callback(self) -> tune.Callback:
        """Return the callback through which Ray Tune reports."""
        return _Reporter(self)

    def trial_started(self, trial_id: str, *, n_together: int = 1) -> None:
        """Show a trial as running, perhaps in a stack of several."""
        label = self._entries[trial_id].label
        self._running[trial_id] = _Running(label, time.monotonic(), n_together=n_together)

    def trial_reported(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take up a trial's progress, and what it noticed."""
        running = self._running.get(trial_id)
        if running is None:
            return
        running.step, running.total_steps = result["step"], result["total_steps"]
        if running.first_step is None:
            running.first_step = running.step
        self._note_new(running, result)
        running.score = (result.get("metrics") or {}).get("val_auroc", running.score)

    def trial_ended(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take a trial off the table and say how it ended."""
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        self._note_new(running, result)
        status, seconds = result.get("status"), time.monotonic() - running.began
        if status in ("finished", "reused"):
            self._n_finished += 1
            if self.forecast is not None and status == "finished":
                self.forecast.note_done(trial_id, seconds / running.n_together)
            score = (result.get("metrics") or {}).get("test_auroc")
            scored = f"test AUROC {score:.3f}, " if score is not None else ""
            self._line(f"{status} {running.label} ({scored}{duration(seconds)})")
        elif status == "failed":
            self._line(f"failed {running.label}: {result.get('cause')}", style="red")
        elif status == "taken over":
            self._line(f"left {running.label} to another process", style="yellow")

    def trial_left(self, trial_id: str) -> None:
        """Take a trial off the table that was stopped."""
        self._running.pop(trial_id, None)

    def worker_lost(self, trial_id: str, loss: Loss) -> None:
        """Take a trial off the table; the searcher decides whether it is handed out again."""
        if running := self._running.pop(trial_id, None):
            what = "node" if loss.is_of_node else "worker"
            self._line(f"lost the {what} of {running.label}: {loss.cause}", style="yellow")

    def _note_new(self, running: _Running, result: dict[str, Any]) -> None:
        """Show what the trial noticed since its last report."""
        notices = result.get("notices") or ()
        self.note([f"{running.label}: {notice}" for notice in notices[running.n_noticed :]])
        running.n_noticed = len(notices)

    def _line(self, text: str, *, style: str = "") -> None:
        if self.console.is_terminal and not style:
            return  # the live table shows it
        done = self._n_done_before + self._n_finished
        width = len(str(self._total()))
        left = self._seconds_left()
        eta = f" · about {duration(left)} left" if left is not None and done < self._total() else ""
        self.console.print(
            f"[{done:{width}}/{self._total()}] {text}{eta}",
            style=style,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _seconds_left(self) -> float | None:
        """Estimate by the forecast, else by trials done; None before anything is known."""
        return self._by_trials_done() if self.forecast is None else self._by_forecast(self.forecast)

    def _by_forecast(self, forecast: Forecast) -> float:
        """Schedule what is left, not at every glance at the screen: a large plan takes a while."""
        now = time.monotonic()
        made, left = self._left
        if now - made > FORECAST_EVERY_S:
            running = {key: one.fraction_of_rest for key, one in list(self._running.items())}
            dropped = {*self._failed(), *self._not_run(), *self._set_aside()}
            n_workers = round(sum(1 / one.n_together for one in list(self._running.values())))
            left = forecast.seconds_left(running, n_workers=n_workers, dropped=dropped)
            self._left = made, left = now, left
        return max(0.0, left - (now - made))

    def _by_trials_done(self) -> float | None:
        """Those in flight counted in part."""
        done = self._n_finished + sum(running.fraction for running in self._running.values())
        total = self._total() - self._n_done_before - len(self._not_run()) - len(self._failed())
        if done < 0.05 or total <= 0:
            return None
        return max(0.0, (time.monotonic() - self._began) * (total - done) / done)

    def _total(self) -> int:
        """Return how many trials there are: with those a search will decide on, without those it stopped."""
        n_announced = self._searcher.n_announced if self._searcher else 0
        return len(self._entries) + n_announced - len(self._set_aside())

    def _set_aside(self) -> set[str]:
        return self._searcher.set_aside if self._searcher else set()

    def _failed(self) -> dict[str, str]:
        return self._searcher.failed if self._searcher else {}

    def _not_run(self) -> dict[str, str]:
        return self._searcher.not_run if self._searcher else {}

    def _headline(self) -> Text:
        total = self._total()
        parts = [
            f"{self._n_done_before + self._n_finished} of {total} trials done",
            f"{self._n_done_before} of them before" if self._n_done_before else "",
            f"{len(self._running)} running" if self._running else "",
            f"{len(self._failed())} failed" if self._failed() else "",
            f"{len(self._not_run())} not run" if self._not_run() else "",
            f"{duration(time.monotonic() - self._began)} so far",
        ]
        left = self._seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return Text.assemble((self._name, "bold"), "  ", " · ".join(part for part in parts if part))

    def _render(self) -> Group:
        bar = ProgressBar(
            total=max(1, self._total()), completed=self._n_done_before + self._n_finished, width=60
        )
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column, justify in (
            ("running", "left"),
            ("step", "right"),
            ("", "left"),
            ("steps/s", "right"),
            ("val AUROC", "right"),
        ):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        now = time.monotonic()
        for running in list(self._running.values()):
            table.add_row(
                running.label,
                f"{running.step}/{running.total_steps}" if running.total_steps else "starting",
                ProgressBar(total=1.0, completed=running.fraction, width=12),
                f"{running.rate(now):.1f}" if running.step else "",
                f"{running.score:.3f}" if running.score is not None else "",
            )
        failures = [
            Text(
                f"failed: {self._entries[trial_id].label}: {cause}",
                style="red",
                overflow="ellipsis",
                no_wrap=True,
            )
            for trial_id, cause in list(self._failed().items())[-SHOWN_FAILURES:]
        ]
        return Group(self._headline(), bar, table, *failures)


class _Reporter(tune.Callback):
    """Passes Tune's events on, by the trial's own id."""

    def __init__(self, display: StudyDisplay) -> None:
        self._display = display

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never comes

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        together = [config["trial_id"] for config in trial.config["trials"]]
        for trial_id in together:
            self._display.trial_started(trial_id, n_together=len(together))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **_: Any) -> None:
        self._pass_on(result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self._pass_on(trial.last_result or {})
        for config in trial.config["trials"]:
            self._display.trial_left(config["trial_id"])

    def _pass_on(self, result: dict[str, Any]) -> None:
        for report in reports_of(result):
            if report["status"] == "running":
                self._display.trial_reported(report["trial_id"], report)
            else:
                self._display.trial_ended(report["trial_id"], report)


@contextmanager
def bar(title: str, console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show work of known length with an ETA; gives a function of (what, done, total)."""
    console = console or Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=None)

        def report(what: str, done: int, total: int) -> None:
            shown.update(task, description=f"{title}: {what}", completed=done, total=total)

        yield report
