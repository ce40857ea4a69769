"""Asks every machine for its report: the nodes of the cluster of RAY_ADDRESS, or only this one."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# First, because it sets what Ray reads when it is imported.
from study.cluster import last_line, on_node, ray_session  # isort: split

import ray
from ray.exceptions import GetTimeoutError, RayError

from study.doctor.node_report import DatasetAnswer, Order, clock_s, dataset_digest, report
from study.doctor.nodes import Fleet, Node
from trainables.spec import DatasetSpec

ANSWER_WITHIN_S = 120.0
CLOCK_ROUNDS = 3

# Called with what is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Asked:
    """A question to a node that is under way."""

    name: str
    dataset: str | None


def call_the_roll(order: Order, datasets: Mapping[str, DatasetSpec], *, progress: Progress) -> Fleet:
    """Return the reports of all machines.

    Args:
        datasets: to load on every machine, by their labels.

    Raises:
        UserError: the cluster cannot be joined.
    """
    here = report(order)
    if not os.environ.get("RAY_ADDRESS"):
        answers: dict[str, DatasetAnswer] = {}
        for label, spec in datasets.items():
            progress("datasets", len(answers), len(datasets))
            answers[label] = dataset_digest(spec)
        return Fleet(here, (Node(f"{here.host} (this machine)", here, datasets=answers),))
    with ray_session():
        alive = {_name(node): node for node in ray.nodes() if node["Alive"]}
        nodes = _ask_reports(order, alive)
        nodes = _ask_datasets(nodes, alive, datasets, progress)
    return Fleet(here, tuple(nodes[name] for name in alive))


def _ask_reports(order: Order, alive: Mapping[str, dict[str, Any]]) -> dict[str, Node]:
    waiting = {on_node(node["NodeID"], report, order, retries=1): name for name, node in alive.items()}
    ray.wait(list(waiting), num_returns=len(waiting), timeout=ANSWER_WITHIN_S)
    nodes = {}
    for answer, name in waiting.items():
        told = {kind: alive[name]["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}
        try:
            found = ray.get(answer, timeout=0)
            nodes[name] = Node(name, found, told=told, skew_s=_skew_s(alive[name]))
        except GetTimeoutError:
            ray.cancel(answer, force=True)
            nodes[name] = Node(name, None, f"no answer within {ANSWER_WITHIN_S:.0f} s", told=told)
        except RayError as error:
            nodes[name] = Node(name, None, last_line(error), told=told)
    return nodes


def _ask_datasets(
    nodes: Mapping[str, Node],
    alive: Mapping[str, dict[str, Any]],
    datasets: Mapping[str, DatasetSpec],
    progress: Progress,
) -> dict[str, Node]:
    """Load datasets on all nodes that answered; one after the other on a node, all nodes at once."""
    answers: dict[str, dict[str, DatasetAnswer]] = {name: {} for name in nodes}
    n_all = len(datasets) * sum(node.report is not None for node in nodes.values())
    open_questions = {name: iter(datasets.items()) for name, node in nodes.items() if node.report}
    waiting: dict[Any, _Asked] = {}

    def ask_next(name: str) -> None:
        if (following := next(open_questions[name], None)) is not None:
            label, spec = following
            answer = on_node(alive[name]["NodeID"], dataset_digest, spec, retries=1)
            waiting[answer] = _Asked(name, label)

    for name in open_questions:
        ask_next(name)
    while waiting:
        progress("datasets", sum(map(len, answers.values())), n_all)
        [done], _ = ray.wait(list(waiting), num_returns=1)
        asked = waiting.pop(done)
        try:
            answer = ray.get(done)
        except RayError as error:
            answer = DatasetAnswer(None, last_line(error))
        answers[asked.name][str(asked.dataset)] = answer
        ask_next(asked.name)
    return {name: replace(node, datasets=answers[name]) for name, node in nodes.items()}


def _skew_s(node: Mapping[str, Any]) -> float | None:
    """Return how far a node's clock is ahead of ours, from the quickest of a few calls."""

    def rounds() -> Iterator[tuple[float, float]]:
        for _ in range(CLOCK_ROUNDS):
            before = time.time()
            told = ray.get(on_node(node["NodeID"], clock_s, retries=1), timeout=ANSWER_WITHIN_S)
            after = time.time()
            yield after - before, told - (before + after) / 2

    try:
        return min(rounds())[1]
    except RayError:
        return None


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def labelled(specs: Sequence[DatasetSpec]) -> dict[str, DatasetSpec]:
    """Return datasets by labels of their own: some share one and differ in what it does not tell."""
    labels: dict[str, DatasetSpec] = {}
    for spec in dict.fromkeys(specs):
        label, number = spec.label, 1
        while label in labels:
            number += 1
            label = f"{spec.label} ({number})"
        labels[label] = spec
    return labels
