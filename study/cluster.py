"""Ray: joining or starting it, and plain calls as its tasks."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

# Ray reads these when it is imported. People see the study's own display, not Ray's.
for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's snapshots are never restored from.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_THRESHOLD_S": "60",
    # Tune's own handler ends the run without waiting for the trials to commit.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from study.local_ray import apart, our_signals  # noqa: E402
from trainables.errors import UserError  # noqa: E402

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster named by RAY_ADDRESS, or start Ray here, for this machine, for the time of the block.

    Raises:
        UserError: the cluster cannot be joined.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        with our_signals(), nullcontext() if address else apart():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError) as error:
        if not address:
            raise
        raise UserError(
            f"cannot join the Ray cluster at RAY_ADDRESS={address}: {error}; start it, use "
            "RAY_ADDRESS=auto on one of its nodes, and give both the same RAY_AUTH_MODE; "
            "or unset RAY_ADDRESS to run here"
        ) from None
    except BaseException:
        ray.shutdown()  # what a signal has left of the start
        raise
    try:
        yield
    finally:
        ray.shutdown()


def as_tasks(call: Callable[[T], R], things: Sequence[T]) -> Iterator[tuple[int, R]]:
    """Do a call for each thing on the cluster, and give the place of each with its result, in any order.

    A call gets a GPU where the cluster has any, else one core. What a dying node was doing is done elsewhere.

    Args:
        call: a plain function, perhaps with some arguments bound, that every node can import.
    """
    with ray_session():
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(call_one)
        waiting = {task.remote(call, thing): place for place, thing in enumerate(things)}
        while waiting:
            [done], _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)


def on_node(node_id: str, call: Callable[..., R], *arguments: Any, retries: int = 0) -> "ray.ObjectRef[R]":
    """Begin a call on one node, without a core of its own, so that a busy node answers too."""
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=retries)(call)
    return task.options(scheduling_strategy=strategy).remote(*arguments)


def last_line(error: Exception) -> str:
    """Return what Ray's errors end with: what was raised on the other side."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def call_one(call: Callable[[T], R], thing: T) -> R:
    """Return call(thing): Ray takes functions, not bound arguments."""
    return call(thing)
