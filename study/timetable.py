"""When the trials of a plan would run on given slots: list scheduling of their lineage."""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timetable:
    """A schedule without preemption.

    Attributes:
        starts: seconds from now, by trial.
        makespan: seconds until the last trial ends.
        critical_path: the longest chain of trials that wait for each other, the first first; no number of
            slots makes the study shorter than its `critical_seconds`.
        lower_bound: seconds below which no schedule can come: the critical path, or all work evenly spread.
    """

    starts: Mapping[str, float]
    makespan: float
    critical_path: tuple[str, ...]
    critical_seconds: float
    lower_bound: float


def remaining_seconds(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return for each trial the length of the longest chain that starts with it, itself included.

    Args:
        seconds: by trial, parents before children.
        parents: those that a trial waits for; parents that are not in `seconds` are done.
    """
    remaining = dict(seconds)
    for trial in reversed(list(seconds)):
        for parent in parents.get(trial, ()):
            if parent in remaining:
                remaining[parent] = max(remaining[parent], seconds[parent] + remaining[trial])
    return remaining


def schedule(
    seconds: Mapping[str, float],
    parents: Mapping[str, Sequence[str]],
    *,
    n_slots: int,
    running: Collection[str] = (),
) -> Timetable:
    """Give every free slot the ready trial with the longest chain behind it (Graham 1969; Hu 1961).

    At most 2 - 1/n_slots times the best schedule, for any durations and lineage.

    Args:
        seconds: by trial, parents before children.
        parents: those that a trial waits for.
        n_slots: trials at once.
        running: trials that hold a slot already, and so come first whatever is behind them.

    Raises:
        ValueError: no slot, or a trial that precedes its parent.
    """
    if n_slots < 1:
        raise ValueError(f"n_slots must be at least 1, got {n_slots}")
    _check_order(seconds, parents)
    remaining = remaining_seconds(seconds, parents)
    missing = {trial: {p for p in parents.get(trial, ()) if p in seconds} for trial in seconds}
    children: dict[str, list[str]] = {}
    for trial, waits_for in missing.items():
        for parent in waits_for:
            children.setdefault(parent, []).append(trial)
    rank = {trial: place for place, trial in enumerate(seconds)}
    ready = [
        (trial not in running, -remaining[trial], rank[trial], trial)
        for trial in seconds
        if not missing[trial]
    ]
    heapq.heapify(ready)
    in_slots: list[tuple[float, int, str]] = []
    starts: dict[str, float] = {}
    now = 0.0
    while ready or in_slots:
        while ready and len(in_slots) < n_slots:
            *_, trial = heapq.heappop(ready)
            starts[trial] = now
            heapq.heappush(in_slots, (now + seconds[trial], rank[trial], trial))
        now, _, done = heapq.heappop(in_slots)
        for child in children.get(done, ()):
            missing[child].discard(done)
            if not missing[child]:
                heapq.heappush(ready, (True, -remaining[child], rank[child], child))
    path = _critical_path(remaining, children)
    longest = max(remaining.values(), default=0.0)
    return Timetable(starts, now, path, longest, max(longest, sum(seconds.values()) / n_slots))


def _check_order(seconds: Mapping[str, float], parents: Mapping[str, Sequence[str]]) -> None:
    seen: set[str] = set()
    for trial in seconds:
        for parent in parents.get(trial, ()):
            if parent in seconds and parent not in seen:
                raise ValueError(f"parents come first: {trial} precedes {parent}, which it waits for")
        seen.add(trial)


def _critical_path(remaining: Mapping[str, float], children: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    path: list[str] = []
    candidates: Sequence[str] = list(remaining)
    while candidates:
        path.append(max(candidates, key=lambda trial: remaining[trial]))
        candidates = children.get(path[-1], ())
    return tuple(path)
