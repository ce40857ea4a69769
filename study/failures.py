"""Why a worker was lost, in a person's words, and whether that counts against its trial."""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import tune
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

# A trial that takes its node down with it must end some time, too.
NODES_PER_TRIAL = 20
# Ray tells of a dead worker a moment before it knows that the whole node is gone.
NODE_NEWS_WITHIN_S = 2.0


@dataclass(frozen=True)
class Loss:
    """A worker that is gone, and with it what its trial did since its last state.

    Attributes:
        cause: in a few words.
        is_of_node: the whole node went, which says nothing about the trial.
    """

    cause: str
    is_of_node: bool = False


def loss_of(error: Exception | None, text: str = "", *, node_is_alive: bool = True) -> Loss:
    """Say what a worker died of.

    Args:
        error: what Ray raised.
        text: what Ray wrote down of it, for want of an error.
        node_is_alive: whether Ray still has the node of the worker.
    """
    if getattr(error, "preempted", False):
        return Loss("its node was preempted", is_of_node=True)
    told = str(error or text)
    if isinstance(error, NodeDiedError) or "node has died" in told or "node was terminated" in told:
        return Loss("its node was lost", is_of_node=True)
    if isinstance(error, ActorUnavailableError):
        return Loss("its node could not be reached", is_of_node=True)
    if not node_is_alive and not isinstance(error, RayTaskError):
        return Loss("its node was lost", is_of_node=True)
    if isinstance(error, OutOfMemoryError) or "running low on memory" in told:
        return Loss("its node ran out of memory; give trials more of it (resources.cpu, fewer slots)")
    if isinstance(error, RayTaskError):
        return Loss(_last_line(str(error.cause)) if error.cause else _last_line(told))
    if isinstance(error, RayActorError) or not told.strip():
        return Loss("its process was killed from outside, or for want of memory")
    return Loss(_last_line(told))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "unknown cause"


class _Told(Protocol):
    def worker_lost(self, trial_id: str, loss: Loss) -> None: ...


class LossCallback(tune.Callback):
    """Tells the searcher and the display what a worker died of, for each trial it was given.

    Tune tells its searcher that a worker died, and its callbacks, right after, of what.
    """

    def __init__(self, *told: _Told) -> None:
        self._told = told

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never comes

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        """Pass the loss on."""
        error, node_id = _error_of(trial), (trial.last_result or {}).get("node_id")
        # Tune waits for this: what the trial itself raised needs no news of its node.
        node_is_alive = isinstance(error, RayTaskError) or _is_alive(node_id)
        loss = loss_of(error, str(trial.get_error() or ""), node_is_alive=node_is_alive)
        for one in self._told:
            for config in trial.config["trials"]:
                one.worker_lost(config["trial_id"], loss)


def _is_alive(node_id: str | None) -> bool:
    """Whether Ray has a node; True if it is not known which."""
    deadline = time.monotonic() + NODE_NEWS_WITHIN_S
    while node_id is not None:
        if not any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()):
            return False
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return True


def _error_of(trial: Any) -> Exception | None:
    try:
        error = trial.get_pickled_error()
    except (OSError, RayError, TypeError, AttributeError):
        return None  # the driver's disk is full, or the error needs a module that is not here
    return error if isinstance(error, Exception) else None
