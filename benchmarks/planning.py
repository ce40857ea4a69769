"""How long a plan of 10,000 trials takes against a server that holds them all.

`python benchmarks/planning.py`

One real trial (CBR-Tiny on digits) is run into a fresh SQLite store and its rows are copied 10,000 times in
SQL under specs of their own (`benchmarks/reading.py` does the copying): all trials of a grid of 20 learning
rates, 25 weight decays and 20 seeds, finished. `mlflow server --workers 1` serves the file on this machine.

Four ways, each `transfusion plan STUDY` in a process of its own, start and imports included: the study shares
its records with its run, as it does when it ends, and this machine has read them before (warm) or not (cold);
it shares nothing and this machine has not read them; and for comparison one trial on an empty server.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import reading

STUDY = "planning"
EXPERIMENT = "planning"
SEEDS, RATES, DECAYS = 20, 20, 25
N_TRIALS = SEEDS * RATES * DECAYS
ROUNDS = 3
TEXT = """
name: planning
seeds: {seeds}
trial:
  architecture: cbr_tiny
  dataset: {{from: digits_5_9, size_px: 16}}
  training: {{steps: 4}}
grid:
  training.optimizer.lr: [{rates}]
  training.optimizer.weight_decay: [{decays}]
price: {{cpu_hour: 0.05}}
"""


def study_text(*, seeds: int = SEEDS, rates: int = RATES, decays: int = DECAYS) -> str:
    """Return the study file."""
    return TEXT.format(
        seeds=seeds,
        rates=", ".join(f"{(k + 1) / 1000:.3f}" for k in range(rates)),
        decays=", ".join(f"{(k + 1) / 100_000:.5f}" for k in range(decays)),
    )


def fill(uri: str, database_file: Path) -> None:
    """Finish all trials of the study: one is run, and copied in the database for the others."""
    from study.config import parse_study
    from study.grid import expand
    from trainables.record import open_store
    from trainables.spec import RunOptions
    from trainables.trial import run_trial

    store = open_store(uri, experiment=EXPERIMENT)
    first, *others = [trial.spec for trial in expand(parse_study(study_text())).trials]
    list(run_trial(first, store=store, options=RunOptions(), data_root=None, study=STUDY))
    store.client.create_run(store.experiment_id, tags={"kind": "study", "study": STUDY})
    with contextlib.closing(sqlite3.connect(database_file)) as database:
        reading.copy_specs(database, first, others, study=STUDY)
        database.commit()


def plan(uri: str, *, cache: Path, text: str) -> tuple[float, str]:
    """Return the seconds of `transfusion plan`, and the line that sums it up."""
    file = cache.parent / "study.yaml"
    file.write_text(text)
    environment = {
        **os.environ,
        "TRANSFUSION_CACHE": str(cache),
        "MLFLOW_TRACKING_URI": uri,
        "TRANSFUSION_EXPERIMENT": EXPERIMENT,
    }
    command = [sys.executable, "-m", "study", "plan", str(file)]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"transfusion plan failed:\n{done.stderr[-4000:]}")
    return seconds, next(line for line in done.stdout.splitlines() if line.startswith(f"{STUDY}: "))


def share(uri: str, *, cache: Path) -> None:
    """Store the finished trials with the run of the study, as at its end."""
    from trainables.record import RecordReader, open_store

    os.environ["TRANSFUSION_CACHE"] = str(cache)
    RecordReader(open_store(uri, experiment=EXPERIMENT)).share(STUDY)


def measure(uri: str, folder: Path) -> Iterator[tuple[str, float, str]]:
    """Run every way."""
    cache = folder / "cache"

    def cold(text: str = "") -> tuple[float, str]:
        shutil.rmtree(cache / "records", ignore_errors=True)
        return plan(uri, cache=cache, text=text or study_text())

    yield "one trial", *min(cold(study_text(seeds=1, rates=1, decays=1)) for _ in range(ROUNDS))
    fill(uri, folder / "mlflow.db")
    yield "nothing shared, cold", *cold()
    share(uri, cache=cache)
    yield "shared, cold", *min(cold() for _ in range(ROUNDS))
    yield "shared, warm", *min(plan(uri, cache=cache, text=study_text()) for _ in range(ROUNDS))


def main() -> None:
    """Measure and print a table."""
    print(f"{N_TRIALS} trials, {os.cpu_count()} cores; seconds of the whole command\n")
    with tempfile.TemporaryDirectory() as name, reading.serving(Path(name)) as address:
        for way, seconds, line in measure(address, Path(name)):
            print(f"| {way} | {seconds:.2f} | {line} |", flush=True)


if __name__ == "__main__":
    main()
