"""What must hold after any number of faults. Each function returns what it finds wrong, in words."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from tests.chaos.diary import Repeat
from tests.chaos.store_view import Pointer, RunRow, StoreView, sha256

PREDICTIONS = ("predictions/test.parquet", "predictions/val.parquet")
BESIDE_WEIGHTS = {*PREDICTIONS, "environment.json", "spec.json"}
# The only metric that measures the machine.
TIMES = {"train_seconds"}
Points = Mapping[tuple[str, int], list[float]]


def one_run_per_trial(trials: Sequence[RunRow], planned: Collection[str]) -> list[str]:
    """Every trial of the plan has one active run, and there is no other."""
    counts = Counter(run.trial_id for run in trials)
    return [
        f"trial {trial_id} has {counts[trial_id]} runs"
        for trial_id in sorted({*planned, *filter(None, counts)})
        if counts[trial_id] != (trial_id in planned)
    ]


def no_zombies(runs: Sequence[RunRow]) -> list[str]:
    """No run says that it is running."""
    return [f"run {run.run_id} is {run.status}" for run in runs if run.status in ("RUNNING", "SCHEDULED")]


def all_finished(trials: Sequence[RunRow]) -> list[str]:
    """No fault of a machine fails or stops a trial for good."""
    return [
        f"run {run.run_id} is {run.status}, {run.tags.get('cause') or 'without a cause'}"
        for run in trials
        if run.status != "FINISHED"
    ]


def statuses_are_true(trials: Sequence[RunRow]) -> list[str]:
    """What is finished has its weights and predictions; what is not has a state to go on from, or nothing."""
    wrong = []
    for run in trials:
        if run.status == "FINISHED":
            missing = [name for name in ("best", "final") if name not in run.checkpoints]
            missing += [path for path in PREDICTIONS if path not in run.files()]
            wrong += [f"finished run {run.run_id} has no {name}" for name in missing]
        elif run.status == "FAILED" and not run.tags.get("cause"):
            wrong.append(f"failed run {run.run_id} has no cause")
    return wrong


def digests_are_valid(trials: Sequence[RunRow]) -> list[str]:
    """Every committed file is there, and is what its digest says."""
    wrong = []
    for run in trials:
        state = {"state": run.state} if run.state and run.status != "FINISHED" else {}
        pointers: dict[str, Pointer | None] = {**run.checkpoints, **state}
        for name, pointer in pointers.items():
            assert pointer is not None, "only readable pointers are listed"
            file = run.folder / pointer.path
            if not file.is_file():
                wrong.append(f"run {run.run_id}: {name} points to {pointer.path}, which is missing")
            elif sha256(file) != pointer.sha256:
                wrong.append(f"run {run.run_id}: {name} is not what its digest says")
    return wrong


def no_orphaned_files(view: StoreView) -> list[str]:
    """Every file of a trial is one that it points to, and every folder belongs to a run."""
    runs = view.runs()
    wrong = [
        f"{folder} belongs to no run" for folder in sorted(view.folders() - {run.folder for run in runs})
    ]
    for run in (run for run in runs if run.trial_id is not None):
        pointed = {pointer.path for pointer in run.checkpoints.values()}
        if run.state and run.status != "FINISHED":
            pointed.add(run.state.path)
        wrong += [
            f"run {run.run_id} ({run.status}): nothing points to {path}"
            for path in sorted(run.files().keys() - pointed - BESIDE_WEIGHTS)
        ]
    return wrong


def every_point_once(points: Mapping[str, Points]) -> list[str]:
    """No metric holds two values of one step."""
    return [
        f"run {run_id}: {name} has {len(values)} values at step {step}: {values}"
        for run_id, of_run in points.items()
        for (name, step), values in of_run.items()
        if len(values) != 1
    ]


def series_are_those_of(expected: Points, found: Points, *, run_id: str) -> list[str]:
    """A trial's metrics are those of the undisturbed trial, point by point."""
    wrong = []
    for name, step in sorted({*expected, *found}):
        left, right = expected.get((name, step)), found.get((name, step))
        if left is None or right is None:
            which = "missing" if right is None else "not in the undisturbed trial"
            wrong.append(f"run {run_id}: {name} at step {step} is {which}")
        elif name not in TIMES and not _same(left[0], right[0]):
            wrong.append(f"run {run_id}: {name} at step {step} is {right[0]}, undisturbed {left[0]}")
    return wrong


def weights_are_those_of(expected: RunRow, found: RunRow) -> list[str]:
    """A trial's weights are those of the undisturbed trial, bit by bit."""
    wrong = []
    for name in ("best", "final"):
        if name not in found.checkpoints or not (found.folder / found.checkpoints[name].path).is_file():
            continue  # other invariants tell
        left, right = expected.weights(name), found.weights(name)
        if left.keys() != right.keys() or not all(torch.equal(left[key], right[key]) for key in left):
            wrong.append(f"run {found.run_id}: {name} weights differ from those of the undisturbed trial")
    return wrong


def nothing_finished_is_redone(
    seen: Mapping[str, tuple[int | None, str]], trials: Sequence[RunRow]
) -> list[str]:
    """Runs that were finished once still have their end and their attempt.

    Args:
        seen: end time and attempt of every run when it was first seen finished.
    """
    now = {run.run_id: (run.end_time, run.tags.get("attempt", "")) for run in trials}
    return [
        f"run {run_id} was finished (end, attempt {before}), and now is {now.get(run_id, 'gone')}"
        for run_id, before in seen.items()
        if now.get(run_id) != before
    ]


def little_is_redone(repeats: Sequence[Repeat], *, interval: int, but_not: Collection[str] = ()) -> list[str]:
    """At most one checkpoint is lost: the one on its way when the fault came.

    An attempt that dies just before its newest state is committed has trained up to an interval beyond it,
    and the state before that is one interval older: less than two intervals of steps in all.

    Args:
        interval: steps between two states.
        but_not: runs whose state was damaged on purpose.
    """
    return [
        f"run {repeat.run_id}: attempt {repeat.number} did {repeat.steps} steps again, {repeat.excused} of "
        f"them taken while nothing could be committed, at most {2 * interval} may be"
        for repeat in repeats
        if repeat.run_id not in but_not and repeat.steps - repeat.excused > 2 * interval
    ]


def nothing_is_left_in(folder: Path) -> list[str]:
    """No weights wait on a worker's disk."""
    left = [*folder.rglob("*.safetensors"), *folder.glob("transfusion-spool-*")]
    return [f"{file} is left behind" for file in sorted(left)]


def _same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))
