"""Hands trials to Ray Tune: those of the plan by their lineage, and those that are decided on meanwhile."""

import math
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Protocol

from ray.tune.search import Searcher

from study.failures import NODES_PER_TRIAL, Loss
from study.plan import Plan, PlanEntry, State
from study.stacks import Companions, StackLimits
from trainables.progress import reports_of


class Supply(Protocol):
    """What decides on trials while a study runs.

    Attributes:
        parent_ids: trials that it waits for.
        given_up: reasons by the ids of what it does not want any more.
        n_announced: how many trials it will want, as far as one can say.
        goes_first: it is asked before trials that are ready and that nothing waits for.
    """

    @property
    def parent_ids(self) -> frozenset[str]: ...
    @property
    def given_up(self) -> Mapping[str, str]: ...
    @property
    def n_announced(self) -> int: ...
    @property
    def goes_first(self) -> bool: ...

    def released(self) -> list[PlanEntry]:
        """Return trials to train some time, asked for after each end of a trial."""

    def next(self, is_done: Callable[[str], bool]) -> PlanEntry | None:
        """Return a trial to train now, asked for when a slot is free."""

    def planned(self, entry: PlanEntry) -> None:
        """Take up that another supply has decided on a trial."""

    def ended(self, entry: PlanEntry, status: str, metrics: Mapping[str, Any]) -> None:
        """Take up that a trial is `finished`, `failed`, or `diverged`: failed as it would again."""

    def unfinished(self) -> list[str]:
        """Return the ids of what it still wants something for."""

    def parent_failed(self, parent_id: str, reason: str) -> None:
        """Take up that a trial which others need will not come."""


class Dispatcher(Searcher):
    """A searcher that suggests each trial once all its parents are finished.

    Ready trials go out in this order: those that others need; settings of a search that were begun, then
    those that are drawn; the rest. Among equals the longest goes first, then the order of the plan. A trial
    whose parent failed is not run; the reason is kept in `not_run`. A worker that dies costs its trial the
    work since the last state, not the trial; one that keeps losing it without getting further is given up.

    Args:
        config_of: the config of trials for one worker, plain data.
        resume_step: the step at which a trial would go on: a worker that is lost after its trial has moved
            on does not count against it. None while MLflow is away: that does not count either.
        lost_workers: how often in a row a trial may lose its worker without getting further; lost nodes are
            not counted, up to `NODES_PER_TRIAL`, nor is the worker of a stack: its members then go alone.
        keep_failed: leave trials that failed in an earlier run as they are.
        length_of: how long a trial and those that wait for it take, in any unit.
        supplies: what decides on further trials.
        why_not: says why no further trial is begun; None while trials may begin.
        n_fit: how many trials the machines hold at once. Tune asks ahead; the supplies, which decide by what
            is known by now, are not asked for more.
        is_strict: nothing at all is handed out ahead.
        stack_of: with which trials one may go to a worker, to be trained together with them.

    Attributes:
        entries: every trial that is known by now, by its id.
        failed: causes by trial id, of this run; settings of a search may diverge, and are not among them.
        not_run: reasons by trial id.
        given_up: those of the failed whose worker was lost too often to say so itself.
        set_aside: settings of a search that were stopped and rest, or that diverged.
    """

    def __init__(
        self,
        plan: Plan,
        config_of: Callable[[Sequence[PlanEntry]], Mapping[str, Any]],
        *,
        resume_step: Callable[[str], int | None],
        lost_workers: int,
        keep_failed: bool = False,
        length_of: Callable[[PlanEntry], float] = lambda entry: 0.0,
        supplies: Sequence[Supply] = (),
        why_not: Callable[[], str | None] = lambda: None,
        n_fit: Callable[[], float] = lambda: math.inf,
        is_strict: bool = False,
        stack_of: Callable[[PlanEntry], StackLimits | None] = lambda entry: None,
    ) -> None:
        super().__init__()
        self._config_of, self._resume_step, self._allowed_losses = config_of, resume_step, lost_workers
        self._length_of, self._supplies, self._why_not = length_of, supplies, why_not
        self._n_fit, self._is_strict, self._companions = n_fit, is_strict, Companions(stack_of)
        self._children = plan.children
        self.entries = {entry.trial_id: entry for entry in plan.entries}
        self.failed: dict[str, str] = {}
        self.not_run: dict[str, str] = {}
        self.given_up: dict[str, str] = {}
        self.set_aside = {e.trial_id for e in plan.entries if e.state == State.PRUNED or has_diverged(e)}
        self._done = {entry.trial_id for entry in plan.entries if entry.state == State.DONE}
        self._lost_at_step: dict[str, int] = {}
        self._in_flight: dict[str, list[str]] = {}
        self._pruned: set[str] = set()
        self._dying: set[str] = set()
        self._losses: dict[str, list[Loss]] = {}
        self._lost_in_company: set[str] = set()
        self._waiting: set[str] = set()
        self._missing: dict[str, set[str]] = {}
        self._ready: list[tuple[int, float, int, str]] = []
        self._rank: dict[str, int] = {}
        for entry in plan.entries:
            if keep_failed and entry.state == State.FAILED:
                self._give_up(entry.trial_id, entry.reason)
        for entry in plan.entries:
            if entry.state not in (State.DONE, State.PRUNED) and not has_diverged(entry):
                self._await(entry)
        for entry in plan.entries:
            self._make_ready(entry.trial_id)

    # Tune's own state is disposable: what is done is read from MLflow at every start.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Take up nothing."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **_: Any) -> bool:
        """Accept what Tune passes: the plan needs no metric."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of ready trials, None while none is ready, FINISHED at the end."""
        if (reason := self._why_not()) is not None:
            return self._end(reason)
        self._take_released()
        is_full = bool(self._supplies or self._is_strict) and len(self._in_flight) >= self._n_fit()
        if is_full and self._is_strict:
            return None
        chosen = self._next(is_full=is_full)
        if chosen is not None:
            together = [chosen, *self._take_companions(chosen)]
            self._in_flight[trial_id] = together
            self.set_aside -= {*together}
            return dict(self._config_of([self.entries[one] for one in together]))
        if self._waiting or self._in_flight or self._dying:
            return None
        self._note_unfinished(_UNFINISHED)
        return Searcher.FINISHED

    @property
    def n_announced(self) -> int:
        """How many more trials the supplies will want, as far as one can say."""
        return sum(supply.n_announced for supply in self._supplies)

    def trials_of(self, tune_id: str) -> list[str]:
        """Return the trials that Tune calls by an id, while they are in flight."""
        return self._in_flight.get(tune_id, [])

    def pruned(self, trial_id: str) -> None:
        """Take up that a trial in flight is stopped for now: it has not failed, and may go on later."""
        self._pruned.add(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take up the trials of a stack that have ended while the others go on."""
        for report in reports_of(result):
            if report["trial_id"] in self.trials_of(trial_id) and report["status"] != "running":
                self._in_flight[trial_id].remove(report["trial_id"])
                self._has_ended(report)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Release the children of finished trials, or give them up."""
        self.on_trial_result(trial_id, result or {})
        together = self._in_flight.pop(trial_id, [])
        for left in together:
            if error:
                self._dying.add(left)  # `worker_lost` says of what
                if len(together) > 1:
                    self._lost_in_company.add(left)
            elif left in self._pruned:
                self._pruned.remove(left)
                self.set_aside.add(left)

    def _has_ended(self, report: Mapping[str, Any]) -> None:
        done, status = report["trial_id"], report["status"]
        if status == "failed":
            is_diverged = bool(report.get("is_diverged"))
            self._has_failed(done, report.get("cause") or "unknown cause", is_diverged=is_diverged)
        elif status == "taken over":
            reason = "another process has begun to train it; run the study again when that has ended"
            self.not_run[done] = reason
            self._skip_children(done, reason)
        else:
            self._has_finished(done, report.get("metrics") or {})

    def _take_companions(self, chosen: str) -> list[str]:
        """Take ready trials that are trained together with one."""
        entry = self.entries[chosen]
        if not self._companions.may_have_any(entry):
            return []
        ready = sorted(self._ready)
        waiting = [self.entries[trial_id] for *_, trial_id in ready]
        together = self._companions.of(entry, waiting, n_free=self._n_fit() - len(self._in_flight))
        self._ready = [item for item in ready if item[-1] not in together]
        return together

    def _next(self, *, is_full: bool) -> str | None:
        """Return a trial to hand out: a ready one, or what a supply wants before the rest."""
        is_rest = not self._ready or self._ready[0][0] == _REST
        asked = [s for s in self._supplies if is_rest and (s.goes_first or not self._ready)]
        for supply in asked if not is_full else ():
            if (entry := supply.next(self._done.__contains__)) is not None:
                self._take_up(entry)
                return entry.trial_id
        return heappop(self._ready)[-1] if self._ready else None

    def _end(self, reason: str) -> str | None:
        """Begin nothing more, and say so of what is left when all that runs has ended."""
        if self._in_flight or self._dying:
            return None
        left = {*self._waiting, *(trial_id for *_, trial_id in self._ready)}
        self.not_run.update(dict.fromkeys(sorted(left, key=self._rank.__getitem__), reason))
        self._note_unfinished(reason)
        return Searcher.FINISHED

    def _note_unfinished(self, reason: str) -> None:
        for supply in self._supplies:
            self.not_run.update({**dict.fromkeys(supply.unfinished(), reason), **supply.given_up})

    def _take_released(self) -> None:
        for entry in (entry for supply in self._supplies for entry in supply.released()):
            if entry.trial_id not in self.entries:
                self._take_up(entry)
                self._await(entry)
                self._make_ready(entry.trial_id)

    def _take_up(self, entry: PlanEntry) -> None:
        self.entries[entry.trial_id] = entry
        for supply in self._supplies:
            supply.planned(entry)

    def _await(self, entry: PlanEntry) -> None:
        self._rank[entry.trial_id] = len(self._rank)
        if entry.trial_id not in self.failed and entry.trial_id not in self.not_run:
            self._waiting.add(entry.trial_id)
        self._missing[entry.trial_id] = set(entry.trial.parent_ids) - self._done

    def _make_ready(self, trial_id: str) -> None:
        if trial_id in self._waiting and not self._missing[trial_id]:
            self._waiting.remove(trial_id)
            self._push(trial_id)

    def _push(self, trial_id: str) -> None:
        entry = self.entries[trial_id]
        is_needed = trial_id in self._children or any(trial_id in s.parent_ids for s in self._supplies)
        kind = _NEEDED if is_needed else _SETTING if entry.trial.setting is not None else _REST
        rank = self._rank.setdefault(trial_id, len(self._rank))
        heappush(self._ready, (kind, -self._length_of(entry), rank, trial_id))

    def worker_lost(self, trial_id: str, loss: Loss) -> None:
        """Hand the trial out again, or give it up; of one that did not die nothing is heard here."""
        if trial_id not in self._dying:
            return
        self._dying.discard(trial_id)
        self._companions.refuse(trial_id)
        if trial_id in self._lost_in_company:  # which of them it was is not known
            self._lost_in_company.remove(trial_id)
            self._push(trial_id)
            return
        step = self._resume_step(trial_id)
        if step is None:
            self._push(trial_id)
            return
        if step > self._lost_at_step.get(trial_id, 0):
            self._losses[trial_id] = []
        self._lost_at_step[trial_id] = step
        losses = self._losses.setdefault(trial_id, [])
        losses.append(loss)
        n_counted = sum(not one.is_of_node for one in losses)
        if n_counted <= self._allowed_losses and len(losses) - n_counted < NODES_PER_TRIAL:
            self._push(trial_id)
            return
        cause = (
            f"its worker was lost {len(losses)} times without getting further, the last time: {loss.cause}"
        )
        self.given_up[trial_id] = cause
        self._has_failed(trial_id, cause)

    def _has_finished(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        self._done.add(trial_id)
        for supply in self._supplies:
            supply.ended(self.entries[trial_id], "finished", metrics)
        for child in self._children.get(trial_id, []):
            if child in self._missing:  # one that is done needs nothing
                self._missing[child].discard(trial_id)
                self._make_ready(child)

    def _has_failed(self, trial_id: str, cause: str, *, is_diverged: bool = False) -> None:
        for supply in self._supplies:
            supply.ended(self.entries[trial_id], "diverged" if is_diverged else "failed", {})
        # That a setting diverges is what its search wanted to know.
        if self.entries[trial_id].trial.setting is not None and is_diverged:
            self.set_aside.add(trial_id)
        else:
            self._give_up(trial_id, cause)

    def _give_up(self, trial_id: str, cause: str) -> None:
        self.failed[trial_id] = cause
        self._waiting.discard(trial_id)
        reason = f"its source failed: {self.entries[trial_id].label}: {cause}"
        self._skip_children(trial_id, reason)

    def _skip_children(self, trial_id: str, reason: str) -> None:
        for supply in self._supplies:
            supply.parent_failed(trial_id, reason)
        for child in self._children.get(trial_id, []):
            if child not in self.not_run and child not in self.failed and child not in self._done:
                self._waiting.discard(child)
                self.not_run[child] = reason
                self._skip_children(child, reason)


_NEEDED, _SETTING, _REST = range(3)
_UNFINISHED = "its search did not come to an end in this run; run the study again"


def has_diverged(entry: PlanEntry) -> bool:
    """Whether a setting of a search has failed in a way that it would again."""
    is_setting, record = entry.trial.setting is not None, entry.record
    return entry.state == State.FAILED and is_setting and record is not None and record.is_diverged
