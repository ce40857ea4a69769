"""Metrics of 8 processes through one MLflow server: our writer against the code of Ray's MLflow callback.

    python benchmarks/metric_logging.py            # about three minutes on two cores

Both sides log 10 metrics a step into runs of their own, through one `mlflow server --workers 1` on SQLite.
Ours goes on until all has arrived and the trial is marked finished; Ray's callback, which runs in the driver
of a study, is called here in every process, so that nothing waits for a driver. Then ours again, while the
server is killed and started anew in the middle. Every point is read back: how many are lost, how many are
doubled.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

N_WRITERS = 8
N_METRICS = 10
STEPS = {"ours": 2000, "ray": 20, "outage": 2000}
# Spread over this time, so that the server can go in the middle.
OUTAGE_TRAINING_S = 20.0
AWAY_S = 5.0
EXPERIMENT = "logging"


def run_ours(number: int, n_steps: int, *, training_s: float = 0.0) -> None:
    """Log through a `TrialWriter`."""
    from trainables.record import TrialWriter, open_store
    from trainables.record.environment import Environment
    from trainables.resolution import resolve
    from trainables.spec import parse_trial

    dataset = {"reader": "digits", "classes": ["5", "6"], "size_px": 16}
    spec = resolve(
        parse_trial(
            {"architecture": "cbr_tiny", "dataset": dataset, "training": {"steps": 0}, "seed": number}
        )
    )
    store = open_store(experiment=EXPERIMENT)
    with timed():
        writer = TrialWriter.open(store, spec, study=None, environment=Environment({}, {}))
        for step in range(n_steps):
            writer.log_metrics({f"metric_{i}": step + i / 100 for i in range(N_METRICS)}, step=step)
            time.sleep(training_s / n_steps)
        writer.finish()


def run_ray(number: int, n_steps: int) -> None:
    """Log through Ray's callback."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Trial:
        config = {"seed": number}  # noqa: RUF012

        def __str__(self) -> str:
            return f"trial_{number}"

    uri = os.environ["MLFLOW_TRACKING_URI"]
    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=EXPERIMENT)
    callback.setup()
    trial = Trial()
    with timed():
        callback.log_trial_start(trial)
        for step in range(n_steps):
            result = {f"metric_{i}": step + i / 100 for i in range(N_METRICS)}
            callback.log_trial_result(step, trial, {**result, "training_iteration": step})
        callback.log_trial_end(trial)


@contextmanager
def timed() -> Iterator[None]:
    """Wait until all processes are ready, then print when the work began and ended."""
    print("READY", flush=True)
    sys.stdin.readline()
    began = time.time()
    yield
    print("ROW", json.dumps([began, time.time()]), flush=True)


SIDES: dict[str, Callable[[int, int], None]] = {
    "ours": run_ours,
    "ray": run_ray,
    "outage": lambda number, n_steps: run_ours(number, n_steps, training_s=OUTAGE_TRAINING_S),
}


def start_server(folder: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server of one worker on SQLite, and wait until it answers."""
    server = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1",
            "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", f"{folder}/artifacts",
        ],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return server
        except OSError:
            time.sleep(0.2)
    stop(server)
    sys.exit("the MLflow server did not answer in two minutes")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Kill a server and its workers at once."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def run_side(name: str) -> dict[str, Any]:
    """Run the writers of one side against a server and a store of its own."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = start_server(folder, port)
        writers: list[subprocess.Popen[str]] = []
        try:
            environment = {**os.environ, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "TMPDIR": folder}
            make = f"import mlflow; mlflow.set_experiment({EXPERIMENT!r})"
            subprocess.run([sys.executable, "-c", make], env=environment, check=True, capture_output=True)
            writers += [start_writer(name, number, environment) for number in range(N_WRITERS)]
            for writer in writers:
                if "READY\n" not in iter(writer.stdout.readline, ""):  # type: ignore[union-attr]
                    sys.exit("a writer ended before it began")
            for writer in writers:
                writer.stdin.write("\n")  # type: ignore[union-attr]
                writer.stdin.flush()  # type: ignore[union-attr]
            if name == "outage":
                time.sleep(OUTAGE_TRAINING_S / 2)
                stop(server)
                time.sleep(AWAY_S)
                server = start_server(folder, port)
            times = [read_times(writer) for writer in writers]
        finally:
            stop(server)
            for writer in writers:
                writer.kill()
        return {"side": name, **measured(name, times), **points_of(Path(folder) / "mlflow.db", STEPS[name])}


def start_writer(name: str, number: int, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start one process that logs."""
    command = [sys.executable, str(Path(__file__).resolve()), name, str(number)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def read_times(writer: subprocess.Popen[str]) -> tuple[float, float]:
    """Return when a process began and ended its work."""
    out, _ = writer.communicate()
    rows = [line.removeprefix("ROW ") for line in out.splitlines() if line.startswith("ROW ")]
    if not rows:
        sys.exit(f"a writer ended without a result:\n{out[-2000:]}")
    began, ended = json.loads(rows[0])
    return began, ended


def measured(name: str, times: list[tuple[float, float]]) -> dict[str, Any]:
    """Return how many metrics a second arrived, from the first start to the last end."""
    seconds = max(ended for _, ended in times) - min(began for began, _ in times)
    n_metrics = N_WRITERS * N_METRICS * STEPS[name]
    return {"metrics": n_metrics, "seconds": seconds, "metrics_per_s": n_metrics / seconds}


def points_of(database: Path, n_steps: int) -> dict[str, int]:
    """Count the points of our metrics that the store lacks, and those it holds twice."""
    import sqlite3

    query = "SELECT run_uuid, key, step FROM metrics WHERE key LIKE 'metric!_%' ESCAPE '!'"
    with sqlite3.connect(database) as connection:
        found = Counter(connection.execute(query).fetchall())
    connection.close()
    return {
        "lost": N_WRITERS * N_METRICS * n_steps - len(found),
        "doubled": sum(count - 1 for count in found.values()),
    }


def main() -> None:
    """Run every side, one after the other, and print them beside one another."""
    rows = []
    for name in SIDES:
        rows.append(run_side(name))
        print(rows[-1], file=sys.stderr, flush=True)
    print(f"{N_WRITERS} writers × {N_METRICS} metrics a step, one server, {os.cpu_count()} cores, SQLite\n")
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    print(f"\nours / ray: {rows[0]['metrics_per_s'] / rows[1]['metrics_per_s']:.0f} × the metrics/s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SIDES[sys.argv[1]](int(sys.argv[2]), STEPS[sys.argv[1]])
    else:
        main()
