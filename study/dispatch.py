"""Hands the trials of a plan to Ray Tune in the order of their lineage."""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Any

from ray.tune.search import Searcher

from study.failures import NODES_PER_TRIAL, Loss
from study.plan import Plan, PlanEntry, State


class Dispatcher(Searcher):
    """A searcher that suggests each trial once all its parents are finished.

    Ready trials go out parents first, then in the order of the plan. A trial whose parent failed is not
    run; the reason is kept in `not_run`. A worker that dies costs its trial the work since the last state,
    not the trial; one that keeps losing its worker without getting further is given up.

    Args:
        config_of: the config of a trial, plain data.
        resume_step: the step at which a trial would go on: a worker that is lost after its trial has moved
            on does not count against it. None while MLflow is away: that does not count either.
        lost_workers: how often in a row a trial may lose its worker without getting further; lost nodes are
            not counted, up to `NODES_PER_TRIAL`.
        keep_failed: leave trials that failed in an earlier run as they are.

    Attributes:
        failed: causes by trial id, of this run.
        not_run: reasons by trial id.
        given_up: those of the failed whose worker was lost too often to say so itself.
        stopped: trials that were in flight when the run was stopped.
    """

    def __init__(
        self,
        plan: Plan,
        config_of: Callable[[PlanEntry], Mapping[str, Any]],
        *,
        resume_step: Callable[[str], int | None],
        lost_workers: int,
        keep_failed: bool = False,
    ) -> None:
        super().__init__()
        self._config_of, self._resume_step, self._allowed_losses = config_of, resume_step, lost_workers
        self._children = plan.children
        self._entries = {entry.trial_id: entry for entry in plan.entries}
        self.failed: dict[str, str] = {}
        self.not_run: dict[str, str] = {}
        self.given_up: dict[str, str] = {}
        self.stopped: list[str] = []
        self._lost_at_step: dict[str, int] = {}
        self._in_flight: dict[str, str] = {}
        self._dying: set[str] = set()
        self._losses: dict[str, list[Loss]] = {}
        self._rank = {trial_id: rank for rank, trial_id in enumerate(self._entries)}
        self._waiting = {entry.trial_id for entry in plan.entries if entry.state != State.DONE}
        self._ready: list[tuple[bool, int, str]] = []
        for entry in plan.entries:
            if keep_failed and entry.state == State.FAILED:
                self._give_up(entry.trial_id, entry.reason)
        self._missing = {
            entry.trial_id: {p for p in entry.trial.parent_ids if self._entries[p].state != State.DONE}
            for entry in plan.entries
        }
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
        """Return the config of a ready trial, None while none is ready, FINISHED at the end."""
        if self._ready:
            *_, chosen = heappop(self._ready)
            self._in_flight[trial_id] = chosen
            return dict(self._config_of(self._entries[chosen]))
        return None if self._waiting or self._in_flight or self._dying else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Release the children of a finished trial, or give them up."""
        done = self._in_flight.pop(trial_id, None)
        if done is None:
            return
        if error:
            self._dying.add(done)  # `worker_lost` says of what
        elif result is not None and result.get("status") == "failed":
            self._give_up(done, result.get("cause") or "unknown cause")
        elif result is not None and result.get("status") == "taken over":
            reason = "another process has begun to train it; run the study again when that has ended"
            self.not_run[done] = reason
            self._skip_children(done, reason)
        elif result is not None and result.get("status") in ("finished", "reused"):
            for child in self._children.get(done, []):
                self._missing[child].discard(done)
                self._make_ready(child)
        else:
            self.stopped.append(done)

    def _make_ready(self, trial_id: str) -> None:
        if trial_id in self._waiting and not self._missing[trial_id]:
            self._waiting.remove(trial_id)
            self._push(trial_id)

    def _push(self, trial_id: str) -> None:
        is_leaf = trial_id not in self._children
        heappush(self._ready, (is_leaf, self._rank[trial_id], trial_id))

    def worker_lost(self, trial_id: str, loss: Loss) -> None:
        """Hand the trial out again, or give it up; of one that did not die nothing is heard here."""
        if trial_id not in self._dying:
            return
        self._dying.discard(trial_id)
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
        self._give_up(trial_id, cause)

    def _give_up(self, trial_id: str, cause: str) -> None:
        self.failed[trial_id] = cause
        self._waiting.discard(trial_id)
        self._skip_children(trial_id, f"its source failed: {self._entries[trial_id].label}: {cause}")

    def _skip_children(self, trial_id: str, reason: str) -> None:
        for child in self._children.get(trial_id, []):
            if child in self._waiting:
                self._waiting.remove(child)
                self.not_run[child] = reason
                self._skip_children(child, reason)
