"""One study from its begin to its end, through faults, and what is left of it."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos import invariants
from tests.chaos.diary import repeats
from tests.chaos.faults import INTERRUPTED, KINDS, TRUNCATED
from tests.chaos.ledger import Ledger
from tests.chaos.processes import wait_until
from tests.chaos.store_view import RunRow
from tests.chaos.world import World

POLL_S = 0.15
# A second fault sometimes comes while the system is still busy with the first.
SHARE_AT_ONCE = 0.15
STUCK_AFTER_S = 240.0
MOST_STARTS = 60


@dataclass(frozen=True)
class Remains:
    """What a study left: each trial's run and its metric points, by trial."""

    runs: Mapping[str, RunRow]
    points: Mapping[str, invariants.Points]


@dataclass
class Episode:
    """A study on its way.

    Args:
        deck: kinds of the faults that are still to be made; those made are taken from it.
        interval: optimizer steps between two states.
        reference: what the same study leaves undisturbed; None for that study itself.
    """

    world: World
    name: str
    deck: list[str]
    rng: random.Random
    ledger: Ledger
    interval: int
    reference: Remains | None = None
    _finished: dict[str, tuple[int | None, str]] = field(default_factory=dict)
    _damaged: set[str] = field(default_factory=set)
    _strikes_at: float | None = None

    def run(self) -> Remains:
        """Run the study to its end and check what is left."""
        self.ledger.begin_episode(time.monotonic())
        self.world.begin(self.name)
        n_starts = 1
        while True:
            self.world.do_due()
            runs = self.world.observe()
            self._take_up(runs)
            if self.world.driver.exit_code is not None:
                if self._has_ended():
                    break
                n_starts += 1
                assert n_starts <= MOST_STARTS, f"{self.name}: not complete after {MOST_STARTS} starts"
                self.world.start_driver()
                self.ledger.note_driver()
            elif self.deck and self._may_strike(runs):
                self._strike(runs)
            self._push_if_stuck()
            time.sleep(POLL_S)
        self.world.settle()
        return self._check()

    def _take_up(self, runs: list[RunRow]) -> None:
        trials = [run for run in runs if run.trial_id is not None]
        self.ledger.note(trials, time.monotonic())
        for run in trials:
            if run.status == "FINISHED":
                self._finished.setdefault(run.run_id, (run.end_time, run.tags.get("attempt", "")))

    def _has_ended(self) -> bool:
        """Judge how the driver left; True if the study is complete."""
        code, output = self.world.driver.exit_code, self.world.driver.output
        if code == 0:
            return True
        if code not in self.world.driver_may_leave_with:
            self._wrong(f"the driver left with {code}:\n{output[-1500:]}")
        elif code == INTERRUPTED and not self.world.is_mending and "at once" not in output:
            runs = self.world.observe()
            whole = [run for run in runs if run.trial_id and run.run_id not in self._damaged]
            for violation in (
                *invariants.no_zombies(runs),
                *invariants.statuses_are_true(whole),
                *invariants.digests_are_valid(whole),
            ):
                self._wrong(f"after the driver left on request: {violation}")
        return False

    def _may_strike(self, runs: list[RunRow]) -> bool:
        if not self.world.victims(runs):
            return False
        if self._strikes_at is not None:
            return time.monotonic() > self._strikes_at
        return self.ledger.has_moved_on_since_last_strike() and not self.world.is_mending

    def _strike(self, runs: list[RunRow]) -> None:
        kind = self.deck.pop(0)
        strike = KINDS[kind](self.world, self.rng, runs)
        if strike is None:
            self.deck.append(kind)  # nothing to hit now: another kind first
            self._strikes_at = None
            return
        strike.kind, strike.episode = kind, self.name
        self.ledger.strikes.append(strike)
        if strike.wrong:
            self._wrong(strike.wrong)
        if kind == TRUNCATED and strike.run_id is not None:
            self._damaged.add(strike.run_id)
        print(f"{time.strftime('%X')} {self.name}: {kind}: {strike.detail}", flush=True)
        at_once = self.rng.random() < SHARE_AT_ONCE
        self._strikes_at = time.monotonic() + self.rng.uniform(0.3, 2) if at_once else None

    def _push_if_stuck(self) -> None:
        if time.monotonic() - self.ledger.last_progress > STUCK_AFTER_S:
            self._wrong(
                f"nothing was committed for {STUCK_AFTER_S:.0f} s:\n{self.world.driver.output[-1500:]}"
            )
            self.world.driver_may_leave_with.add(-9)
            self.world.driver.kill()
            self.ledger.last_progress = time.monotonic()

    def _wrong(self, what: str) -> None:
        before = ", ".join(strike.kind for strike in self.ledger.strikes[-3:] if strike.episode == self.name)
        self.ledger.violations.append(f"{self.name} (after {before or 'no fault'}): {what}")
        print(f"{time.strftime('%X')} VIOLATION {self.ledger.violations[-1]}", flush=True)

    def _check(self) -> Remains:
        view = self.world.view
        self._wait_for_the_workers_to_leave()
        trials, points = view.trials(), view.points()
        repeated = repeats(self.world.attempts(), self.world.outages)
        self.ledger.add_repeats([r for r in repeated if r.run_id not in self._damaged])
        self.ledger.n_hidden += sum(len(run.hidden_files()) for run in trials)
        planned = self.reference.runs if self.reference else {run.trial_id for run in trials}
        wrong = [
            *invariants.one_run_per_trial(trials, {str(trial_id) for trial_id in planned}),
            *invariants.no_zombies(view.runs()),
            *invariants.all_finished(trials),
            *invariants.statuses_are_true(trials),
            *invariants.digests_are_valid(trials),
            *invariants.no_orphaned_files(view),
            *invariants.every_point_once(points),
            *invariants.nothing_finished_is_redone(self._finished, trials),
            *invariants.little_is_redone(repeated, interval=self.interval, but_not=self._damaged),
            *invariants.nothing_is_left_in(self.world.spool.folder),
        ]
        remains = Remains(
            {str(run.trial_id): run for run in trials},
            {str(run.trial_id): points[run.run_id] for run in trials},
        )
        if self.reference:
            wrong += _differences(self.reference, remains)
            self.world.forget()
        for violation in wrong:
            self._wrong(violation)
        return remains

    def _wait_for_the_workers_to_leave(self) -> None:
        """Ray ends the workers of a driver that has left; what they hold on disk goes with them."""
        spool = self.world.spool.folder
        try:
            wait_until(lambda: not invariants.nothing_is_left_in(spool), "the spool is empty", within_s=10)
        except TimeoutError:
            return  # the invariant tells what is left


def _differences(expected: Remains, found: Remains) -> list[str]:
    wrong = []
    for trial_id, run in found.runs.items():
        if trial_id in expected.runs:
            wrong += invariants.series_are_those_of(
                expected.points[trial_id], found.points[trial_id], run_id=run.run_id
            )
            wrong += invariants.weights_are_those_of(expected.runs[trial_id], run)
    return wrong
