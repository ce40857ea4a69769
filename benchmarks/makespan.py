"""How full the slots are: two mixes of trials on 20 slots, against plain Ray Tune and Optuna's threads.

    python benchmarks/makespan.py            # about ten minutes, nearly all of them asleep

`equal` is 100 trials of 5 s, `skewed` 60 trials of 1 s to 60 s (log-uniform, seeded). A trial sleeps, so
that two cores can play 20 slots (Ray's logical resources; Optuna's threads), and reports every 2 s as ours
do. What a trial costs in MLflow is a part of the trial, and not measured here: see orchestration.py.

ours     `study.tuning.fit` with a `study.dispatch.Dispatcher` that is told how long the trials take
reused   plain Ray Tune, the trials as a grid, with `reuse_actors=True`
tune     the same as it comes: a new process for every trial
optuna   `study.optimize(n_jobs=20)`, in memory

The others take the trials in the order of the mix. Printed per side and mix: makespan / lower bound, where
the makespan goes from the first trial's start to the last one's end, and no schedule can be shorter than the
longest trial or all of them evenly spread. The start of Ray and of the first worker of each slot is left out,
on all sides that have one: before the mix come as many trials as there are slots, which wait for each other.

Where the rest goes, in seconds: `gap_s` is the mean time from the end of a trial to the start of the next
in its slot, `inside_s` what a trial took longer than it slept, on average, and `order_s` what this order of
the trials would lose to the bound if all that was free.
"""

import heapq
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOTS = 20
REPORT_EVERY_S = 2.0
# As the seconds of a trial: it waits until all slots have one.
MEETING = 0.0
MIXES: Mapping[str, list[float]] = {
    "equal": [5.0] * 100,
    "skewed": [60.0 ** random.Random(seed).random() for seed in range(60)],
}
STUDY = """
name: makespan
seeds: {n_trials}
trial:
  architecture: cbr_tiny
  dataset: {{from: digits, classes: ["0", "1"], size_px: 16}}
  training: {{steps: 1}}
"""


@dataclass(frozen=True)
class Interval:
    """A trial that was run: when, in seconds since 1970, and for how many it slept."""

    began: float
    ended: float
    seconds: float


def lower_bound(seconds: list[float]) -> float:
    """Return the seconds below which no schedule can come."""
    return max(*seconds, sum(seconds) / SLOTS)


def makespan_of(seconds: list[float]) -> float:
    """Return how long trials take that go to the next free slot in this order, if nothing else takes time."""
    free = [0.0] * SLOTS
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def as_row(side: str, mix: str, intervals: list[Interval]) -> dict[str, Any]:
    """Describe how full the slots were."""
    ordered = sorted(intervals, key=lambda each: each.began)
    bound = lower_bound(MIXES[mix])
    makespan = max(each.ended for each in ordered) - ordered[0].began
    return {
        "side": side,
        "mix": mix,
        "trials": len(ordered),
        "makespan_s": makespan,
        "bound_s": bound,
        "makespan/bound": makespan / bound,
        "gap_s": _mean_gap(ordered),
        "inside_s": sum(e.ended - e.began - e.seconds for e in ordered) / len(ordered),
        "order_s": makespan_of([each.seconds for each in ordered]) - bound,
    }


def _mean_gap(ordered: list[Interval]) -> float:
    """Return the mean time between the end of a trial and the start of the next one in its place."""
    busy: list[float] = []
    gaps = []
    for each in ordered:
        if len(busy) == SLOTS:
            gaps.append(each.began - heapq.heappop(busy))
        heapq.heappush(busy, each.ended)
    return sum(gaps) / len(gaps)


def sleeper(folder: str) -> type:
    """Return the trial of all sides that use Ray.

    Args:
        folder: an empty one, where those that wait for each other meet.
    """
    from ray import tune

    class Sleeper(tune.Trainable):
        """Sleeps for its time, a report at a time."""

        def setup(self, config: dict[str, Any]) -> None:
            self.began, self.left_s = time.time(), config["seconds"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            if self.config["seconds"] == MEETING:
                (Path(folder) / self.trial_id).touch()
                while len(os.listdir(folder)) < SLOTS:
                    time.sleep(0.05)
            piece_s = min(self.left_s, REPORT_EVERY_S)
            time.sleep(piece_s)
            self.left_s -= piece_s
            is_done = self.left_s <= 0
            return {
                "began": self.began,
                "ended": time.time(),
                "seconds": self.config["seconds"],
                "reports": [
                    {**trial, "status": "finished" if is_done else "running"}
                    for trial in self.config.get("trials", ())
                ],
                "done": is_done,
            }

    return Sleeper


@contextmanager
def ray_with_slots() -> Iterator[str]:
    """Give Ray the slots, and a folder, until the block ends."""
    import ray

    # Not below the working folder: a worker of plain Tune has one of its own.
    with tempfile.TemporaryDirectory() as folder:
        ray.init("local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield folder
        ray.shutdown()


def run_ours(seconds: list[float]) -> list[Interval]:
    """Run the mix through `fit`."""
    from study import tuning  # isort: split

    from ray import tune

    from study.config import parse_study
    from study.dispatch import Dispatcher
    from study.failures import LossCallback
    from study.plan import PlanEntry, make_plan
    from study.stopping import StopRequest

    seconds = [MEETING] * SLOTS + seconds
    plan = make_plan(parse_study(STUDY.format(n_trials=len(seconds))), [])
    by_trial = {entry.trial_id: s for entry, s in zip(plan.entries, seconds, strict=True)}
    results: list[dict[str, Any]] = []

    class Collector(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            results.append(trial.last_result)

    def config_of(entries: Sequence[PlanEntry]) -> dict[str, Any]:
        (trial_id,) = (entry.trial_id for entry in entries)
        return {"trials": [{"trial_id": trial_id}], "seconds": by_trial[trial_id], "cpu": 1, "gpu": 0}

    dispatcher = Dispatcher(
        plan,
        config_of,
        resume_step=lambda trial_id: 0,
        lost_workers=0,
        length_of=lambda entry: by_trial[entry.trial_id] or math.inf,
    )
    with ray_with_slots() as folder:
        tuning.TransfusionTrainable = sleeper(folder)  # type: ignore[misc,assignment]
        tuning.fit(
            dispatcher,
            slots=None,
            request=StopRequest(),
            callbacks=[LossCallback(dispatcher), Collector()],
            note=lambda notices: None,
        )
    return _intervals(results)


def run_tune(seconds: list[float], *, reuse_actors: bool) -> list[Interval]:
    """Run the mix as a grid of plain Ray Tune."""
    os.environ.update(RAY_AIR_NEW_OUTPUT="0", RAY_USAGE_STATS_ENABLED="0")
    from ray import tune

    with ray_with_slots() as folder, tempfile.TemporaryDirectory() as storage:
        results = tune.Tuner(
            tune.with_resources(sleeper(folder), {"cpu": 1}),
            param_space={"seconds": tune.grid_search([MEETING] * SLOTS + seconds)},
            tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
    return _intervals(result.metrics or {} for result in results)


def _intervals(results: Iterable[Mapping[str, Any]]) -> list[Interval]:
    """Return when the trials of the mix ran."""
    return [Interval(r["began"], r["ended"], r["seconds"]) for r in results if r["seconds"] != MEETING]


def run_optuna(seconds: list[float]) -> list[Interval]:
    """Run the mix as trials of an Optuna study on as many threads as there are slots."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    intervals: list[Interval] = []

    def objective(trial: optuna.Trial) -> float:
        began = time.time()
        time.sleep(seconds[trial.number])
        intervals.append(Interval(began, time.time(), seconds[trial.number]))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=len(seconds), n_jobs=SLOTS)
    return intervals


SIDES: dict[str, Callable[[list[float]], list[Interval]]] = {
    "ours": run_ours,
    "reused": lambda seconds: run_tune(seconds, reuse_actors=True),
    "tune": lambda seconds: run_tune(seconds, reuse_actors=False),
    "optuna": run_optuna,
}


def run_side(side: str, mix: str) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), side, mix]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    rows = [line.removeprefix("ROW ") for line in done.stdout.splitlines() if line.startswith("ROW ")]
    if not rows:
        sys.exit(f"{side}, {mix}: ended without a result:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    row: dict[str, Any] = json.loads(rows[0])
    return row


def main() -> None:
    """Run every side on every mix, one after the other, and print them beside one another."""
    rows = [run_side(side, mix) for mix in MIXES for side in SIDES]
    print(f"{SLOTS} slots, {os.cpu_count()} cores\n")
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        side, mix = sys.argv[1:]
        print("ROW", json.dumps(as_row(side, mix, SIDES[side](MIXES[mix]))))
    else:
        main()
