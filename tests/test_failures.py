"""What a worker died of, in words, and whether it counts."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from study.failures import Loss, LossCallback, loss_of


def raised(cause: Exception) -> RayTaskError:
    return RayTaskError("step", f"Traceback\n{type(cause).__name__}: {cause}", cause)


@pytest.mark.parametrize(
    ("error", "text", "cause", "is_of_node"),
    [
        (RayActorError(preempted=True), "", "its node was preempted", True),
        (NodeDiedError("gone"), "", "its node was lost", True),
        (
            RayActorError(error_msg="The actor died because its node has died. Node Id: 4f"),
            "",
            "its node was lost",
            True,
        ),
        (None, "The node was terminated unexpectedly", "its node was lost", True),
        (OutOfMemoryError("worker killed"), "", "its node ran out of memory", False),
        (
            RayActorError(error_msg="Task was killed due to the node running low on memory."),
            "",
            "its node ran out of memory",
            False,
        ),
        (raised(RuntimeError("CUDA error: an illegal access")), "", "CUDA error: an illegal access", False),
        (ActorDiedError(), "", "its process was killed from outside", False),
        (ActorUnavailableError("no answer", None), "", "its node could not be reached", True),
        (None, "", "its process was killed from outside", False),
        (None, "Failure # 1\nValueError: odd\n", "ValueError: odd", False),
    ],
)
def test_every_loss_is_named_and_only_nodes_are_excused(
    error: Exception | None, text: str, cause: str, is_of_node: bool
) -> None:
    loss = loss_of(error, text)
    assert loss.cause.startswith(cause)
    assert loss.is_of_node is is_of_node


def test_a_worker_whose_node_is_gone_is_not_its_trials_fault_unless_the_trial_raised() -> None:
    assert loss_of(ActorDiedError(), node_is_alive=False) == Loss("its node was lost", is_of_node=True)
    assert not loss_of(raised(RuntimeError("CUDA error")), node_is_alive=False).is_of_node


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, Loss]] = []

    def worker_lost(self, trial_id: str, loss: Loss) -> None:
        self.heard.append((trial_id, loss))


def test_searcher_and_display_hear_of_a_loss_even_if_its_error_cannot_be_read() -> None:
    def unreadable() -> Exception:
        raise OSError("No space left on device")

    trial: Any = SimpleNamespace(
        config={"trials": [{"trial_id": "t0"}]},
        last_result={},
        get_pickled_error=unreadable,
        get_error=lambda: "its node has died",
    )
    first, second = Listener(), Listener()
    LossCallback(first, second).on_trial_error(1, [], trial)
    assert first.heard == second.heard == [("t0", Loss("its node was lost", is_of_node=True))]


def test_the_node_of_a_worker_is_looked_up_where_ray_knows_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": "here", "Alive": True}, {"NodeID": "gone", "Alive": False}]
    monkeypatch.setattr("study.failures.ray.nodes", lambda: nodes)
    monkeypatch.setattr("study.failures.NODE_NEWS_WITHIN_S", 0.0)
    heard = []
    for node_id in ("here", "gone", "never seen"):
        trial: Any = SimpleNamespace(
            config={"trials": [{"trial_id": node_id}]},
            last_result={"node_id": node_id},
            get_pickled_error=ActorDiedError,
            get_error=lambda: "",
        )
        listener = Listener()
        LossCallback(listener).on_trial_error(1, [], trial)
        heard += [loss.is_of_node for _, loss in listener.heard]
    assert heard == [False, True, True]
