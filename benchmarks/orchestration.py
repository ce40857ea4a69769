"""60 no-op trials on 2 slots through the whole path, against plain Ray Tune with its MLflow callback.

    python benchmarks/orchestration.py            # about two minutes on two cores

Both sides record the same: one MLflow run per trial with its parameters and metrics, in a fresh SQLite
store. Ours also finds each run before creating it, fences stale writers, uploads and verifies the weights,
two prediction tables and the environment. A no-op trial of ours is a real one of
zero optimizer steps: CBR-Tiny is built, scored on the digits 0 and 1 and stored.

Printed per side: seconds from the first trial's start to the last one's end and trials/s in it; the same with
Ray's start-up and the workers' imports; calls to the tracking store and to the artifact store (counted in
one process on one trial, times 60, plus the driver's); makespan / ideal, where ideal is the time spent
inside trials divided by the slots.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

N_TRIALS = 60
SLOTS = 2
STUDY = f"""
name: orchestration
seeds: {N_TRIALS}
trial:
  architecture: cbr_tiny
  dataset: {{from: digits, classes: ["0", "1"], size_px: 16}}
  training: {{steps: 0}}
"""


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the outermost calls to the tracking and artifact stores of this process."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    calls: Counter[str] = Counter()
    depth = 0

    def counted(kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal depth
            calls[kind] += depth == 0
            depth += 1
            try:
                return method(*arguments, **keywords)
            finally:
                depth -= 1

        return call

    for kind, owner in (("tracking", SqlAlchemyStore), ("artifact", LocalArtifactRepository)):
        for name, method in list(vars(owner).items()):
            if not name.startswith("_") and type(method).__name__ == "function":
                setattr(owner, name, counted(kind, method))
    yield calls


def report_intervals(
    name: str, intervals: list[tuple[float, float]], whole_s: float, calls: Counter[str]
) -> None:
    """Print one side as a JSON line, from the (start, end) seconds of its trials."""
    makespan = max(end for _, end in intervals) - min(start for start, _ in intervals)
    ideal = sum(end - start for start, end in intervals) / SLOTS
    row = {
        "side": name,
        "trials": len(intervals),
        "makespan_s": makespan,
        "trials_per_s": len(intervals) / makespan,
        "whole_s": whole_s,
        "makespan_over_ideal": makespan / ideal,
        "ms_inside_a_trial": 1000 * ideal * SLOTS / len(intervals),
        "tracking_calls": calls["tracking"],
        "artifact_calls": calls["artifact"],
    }
    print("ROW", json.dumps(row))


def run_ours() -> None:
    """Run the study through `run_study`."""
    from rich.console import Console

    from study.config import parse_study
    from study.plan import make_plan
    from study.progress import StudyDisplay
    from study.runner import run_study
    from trainables.record import RecordReader, open_store
    from trainables.spec import RunOptions
    from trainables.trial import run_trial

    study = parse_study(STUDY)
    with counting() as calls:
        store = open_store()
        began = time.perf_counter()
        run_study(study, store=store, display=StudyDisplay(Console(quiet=True)))
        whole = time.perf_counter() - began
        driver = Counter(calls)
        # One more trial in this process, where its calls can be counted.
        spec = (
            make_plan(parse_study(STUDY.replace(f"seeds: {N_TRIALS}", "seeds: [999]")), [])
            .entries[0]
            .trial.spec
        )
        calls.clear()
        list(run_trial(spec, store=store, options=RunOptions(), data_root=None, study="orchestration"))
        per_trial = Counter(calls)
    total = Counter({kind: driver[kind] + N_TRIALS * per_trial[kind] for kind in ("tracking", "artifact")})
    finished = [r for r in RecordReader(store).trials("orchestration") if r.spec.seed < N_TRIALS]
    assert len(finished) == N_TRIALS
    assert all(record.status == "finished" for record in finished)
    infos = [store.client.get_run(record.run_id).info for record in finished]
    report_intervals("ours", [(i.start_time / 1000, i.end_time / 1000) for i in infos], whole, total)


def run_plain(*, reuse_actors: bool) -> None:
    """Run plain Ray Tune over a grid of as many seeds, with its own MLflow callback."""
    os.environ.update(RAY_AIR_NEW_OUTPUT="0", RAY_USAGE_STATS_ENABLED="0")
    import logging

    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class NoOp(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.began = time.time()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.began = time.time()
            return True

        def step(self) -> dict[str, Any]:
            metrics = {f"metric_{i}": 0.5 for i in range(14)}
            return {**metrics, "began": self.began, "ended": time.time(), "done": True}

    uri = os.environ["MLFLOW_TRACKING_URI"]
    parameters = {f"field_{i}": i for i in range(28)}
    with counting() as calls, tempfile.TemporaryDirectory() as folder:
        callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="plain", save_artifact=False)
        began = time.perf_counter()
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        results = tune.Tuner(
            tune.with_resources(NoOp, {"cpu": 1}),
            param_space={**parameters, "seed": tune.grid_search(list(range(N_TRIALS)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[callback],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
        whole = time.perf_counter() - began
    # A trial occupies its slot until its actor has started and its run is logged, which Tune does not time.
    intervals = [(r.metrics["began"], r.metrics["ended"]) for r in results]
    name = "plain Tune, reused actors" if reuse_actors else "plain Tune, as it comes"
    report_intervals(name, intervals, whole, calls)


def run_side(name: str) -> dict[str, Any]:
    """Run one side in a process and a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        # The schema is made before the clock starts, on both sides.
        make = "import mlflow; mlflow.MlflowClient().search_experiments()"
        subprocess.run(
            [sys.executable, "-c", make], env=environment, cwd=folder, check=True, capture_output=True
        )
        command = [sys.executable, str(Path(__file__).resolve()), name]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
    rows = [line.removeprefix("ROW ") for line in done.stdout.splitlines() if line.startswith("ROW ")]
    if not rows:
        sys.exit(f"{name} ended without a result:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    row: dict[str, Any] = json.loads(rows[0])
    return row


SIDES: dict[str, Callable[[], None]] = {
    "ours": run_ours,
    "plain": lambda: run_plain(reuse_actors=False),
    "reused": lambda: run_plain(reuse_actors=True),
}


def main() -> None:
    """Run every side, one after the other, and print them beside one another."""
    rows = [run_side(name) for name in SIDES]
    print(f"{N_TRIALS} no-op trials on {SLOTS} slots, {os.cpu_count()} cores, SQLite store\n")
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    ours, plain = rows[0], rows[1]
    print(f"\nours / plain: {ours['trials_per_s'] / plain['trials_per_s']:.1f} × the trials/s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SIDES[sys.argv[1]]()
    else:
        main()
