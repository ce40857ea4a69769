"""Reading 2,000 finished trials for analysis: through an MLflow server, and straight from its database.

    python benchmarks/reading.py            # about five minutes on two cores

One real trial (CBR-Tiny on digits, from a pretrained source) is run into a fresh SQLite store, and its rows
are copied 2,000 times in SQL under specs of their own: 50 parameters, 30 metrics, 17 tags (the spec has 3 kB)
and 7 metrics over training at 14 steps. `mlflow server --workers 1` serves such a file on this machine.

What is read: all trials of the study as `TrialRecord`s and the 7 histories as one table. Three ways:

- archive: `RecordReader`. *Cold*: nothing on this machine, the study shares its finished trials with its run,
  as a study does when it ends. *Warm*: a second reading, checked against the store. *Nothing shared*: the
  first reading of a study that shares nothing.
- MLflow's client: `search_runs` and `get_metric_history` for each metric of each run; the histories of 100
  runs, times 20.
- the runs alone: the request that `search_runs` sends, its answer not looked at; no client can be quicker.

Every way of ours runs in a fresh process after its imports; the best of three, except the slow ones.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

N_TRIALS = 2000
N_HISTORIES = 100
STUDY = "reading"
EXPERIMENT = "reading"
METRICS = ("val_auroc", "val_auprc", "val_accuracy", "val_f1", "val_f1_micro", "val_loss", "train_loss")
ROUNDS = 3
DATASET = {"reader": "digits", "size_px": 16}
SOURCE = {"dataset": {**DATASET, "classes": ["0", "1"]}, "architecture": "cbr_tiny", "training": {"steps": 4}}
TRIAL = {
    "architecture": "cbr_tiny",
    "dataset": {**DATASET, "classes": ["5", "6", "7", "8", "9"]},
    "init": {"kind": "transfusion", "depth": 2, "source": {"trial": SOURCE}},
    "training": {"steps": 300, "evaluation": {"points": 14}},
}


def fill(uri: str, database_file: Path) -> None:
    """Run the trial and its source in a store, and copy the trial in its database."""
    from trainables.record import open_store
    from trainables.resolution import resolve
    from trainables.spec import RunOptions, parse_trial
    from trainables.trial import run_trial

    store = open_store(uri, experiment=EXPERIMENT)
    for content in (SOURCE, TRIAL):
        spec = resolve(parse_trial(content))
        list(run_trial(spec, store=store, options=RunOptions(), data_root=None, study=None))
    store.client.create_run(store.experiment_id, tags={"kind": "study", "study": STUDY})
    with contextlib.closing(sqlite3.connect(database_file)) as database:
        copy_trial(database, spec)
        database.commit()


def copy_trial(database: sqlite3.Connection, spec: Any) -> None:
    """Insert N_TRIALS copies of the run of a trial, whose spec, names and values differ."""
    inits = [spec.init.model_copy(update={"depth": depth}) for depth in (1, 2, 3)]
    copies = [
        spec.model_copy(update={"init": inits[number % 3], "seed": 1 + number // 3})
        for number in range(N_TRIALS)
    ]
    copy_specs(database, spec, copies, study=STUDY)


def copy_specs(database: sqlite3.Connection, spec: Any, copies: Sequence[Any], *, study: str) -> None:
    """Insert a copy of the run of a trial for each other spec."""
    from trainables.identity import cell_id, trial_id

    database.row_factory = sqlite3.Row
    query = "SELECT run_uuid FROM tags WHERE key = 'trial_id' AND value = ?"
    (model,) = database.execute(query, (trial_id(spec),)).fetchone()
    tables = ("runs", "tags", "params", "metrics", "latest_metrics")
    rows = {table: _select(database, table, run_uuid=model) for table in tables}
    rng = random.Random(0)
    for number, copy in enumerate(copies):
        tags = {
            "spec": json.dumps(copy.model_dump(mode="json")),
            "trial_id": trial_id(copy),
            "cell_id": cell_id(copy),
            "mlflow.runName": copy.label,
        }
        run_id = uuid.UUID(int=rng.getrandbits(128)).hex
        for table in tables:
            changed = [{**row, "run_uuid": run_id} for row in rows[table]]
            for row in changed:
                if table == "runs":
                    row["name"] = copy.label
                    row["start_time"], row["end_time"] = (
                        row[k] + 1000 * number for k in ("start_time", "end_time")
                    )
                elif table == "tags":
                    row["value"] = tags.get(row["key"], row["value"])
                elif table != "params":
                    row["value"] += rng.random() / 100
            _insert(database, table, changed)
        tag = {"key": f"study.{study}", "value": "yes", "run_uuid": run_id}
        if tag["key"] not in {row["key"] for row in rows["tags"]}:
            _insert(database, "tags", [tag])


def _select(database: sqlite3.Connection, table: str, *, run_uuid: str) -> list[dict[str, Any]]:
    return [dict(row) for row in database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_uuid,))]


def _insert(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    marks = ",".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({','.join(columns)}) VALUES ({marks})"
    database.executemany(statement, [tuple(row.values()) for row in rows])


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a database with one worker; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
        *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health"):
                break
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def read_archive(uri: str) -> dict[str, float]:
    """Read trials and histories as the analysis does."""
    from trainables.record import RecordReader, open_store

    store = open_store(uri, experiment=EXPERIMENT)
    began = time.perf_counter()
    reader = RecordReader(store)
    records = reader.trials(STUDY)
    read = time.perf_counter()
    table = reader.histories(records, METRICS)
    done = time.perf_counter()
    assert len(records) == N_TRIALS
    assert table.groupby(["trial_id", "metric"]).ngroups == N_TRIALS * len(METRICS)
    return {"trials_s": read - began, "histories_s": done - read, "whole_s": done - began}


def share(uri: str) -> dict[str, float]:
    """Store the finished trials with the run of the study, as at its end."""
    from trainables.record import RecordReader, open_store

    store = open_store(uri, experiment=EXPERIMENT)
    began = time.perf_counter()
    RecordReader(store).share(STUDY)
    return {"whole_s": time.perf_counter() - began}


def read_client(uri: str) -> dict[str, float]:
    """Read with MLflow's client alone."""
    from trainables.record import open_store

    store = open_store(uri, experiment=EXPERIMENT)
    began = time.perf_counter()
    runs = store.search("kind", "trial", (f"study.{STUDY}", "yes"))
    read = time.perf_counter()
    for run in runs[:N_HISTORIES]:
        for metric in METRICS:
            store.client.get_metric_history(run.info.run_id, metric)
    histories = (time.perf_counter() - read) * N_TRIALS / N_HISTORIES
    return {"trials_s": read - began, "histories_s": histories, "whole_s": read - began + histories}


def request_runs(uri: str) -> dict[str, float]:
    """Send the requests of `search_runs` and throw the answers away."""
    import requests

    from trainables.record import open_store

    store = open_store(uri, experiment=EXPERIMENT)
    query = f"tags.`kind` = 'trial' and tags.`study.{STUDY}` = 'yes'"
    body: dict[str, Any] = {"experiment_ids": [store.experiment_id], "filter": query, "max_results": 5000}
    began = time.perf_counter()
    requests.post(f"{uri}/api/2.0/mlflow/runs/search", json=body, timeout=300).raise_for_status()
    return {"trials_s": time.perf_counter() - began}


WAYS: dict[str, Callable[[str], dict[str, float]]] = {
    "archive": read_archive,
    "share": share,
    "client": read_client,
    "request": request_runs,
}


def run_way(way: str, uri: str, *, cache: Path) -> dict[str, float]:
    """Run a way in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), way, uri]
    environment = {**os.environ, "TRANSFUSION_CACHE": str(cache)}
    done = subprocess.run(
        command, env=environment, cwd=cache.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-4000:]}")
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(uri: str, *, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Run every way on one store."""
    cache = folder / "cache"

    def cold() -> dict[str, float]:
        shutil.rmtree(cache, ignore_errors=True)
        return run_way("archive", uri, cache=cache)

    def best(read: Callable[[], dict[str, float]]) -> dict[str, float]:
        return min((read() for _ in range(ROUNDS)), key=lambda row: row["whole_s"])

    yield "MLflow's client", run_way("client", uri, cache=cache)
    if uri.startswith("http"):
        yield "the runs alone", run_way("request", uri, cache=cache)
    yield "archive, nothing shared", cold()
    yield "sharing", run_way("share", uri, cache=cache)
    yield "archive, cold", best(cold)
    yield "archive, warm", best(lambda: run_way("archive", uri, cache=cache))


def print_ways(store: str, uri: str, folder: Path) -> None:
    """Fill a store and print every way as a row of a table."""
    fill(uri, folder / "mlflow.db")
    for way, row in measure(uri, folder=folder):
        cells = [f"{row[key]:.2f}" if key in row else "" for key in ("trials_s", "histories_s", "whole_s")]
        print(f"| {store} | {way} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure a server and a database."""
    print(f"{N_TRIALS} trials, {len(METRICS)} histories; {os.cpu_count()} cores; seconds\n")
    print("| store | way | trials | histories | both |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as address:
        print_ways("server", address, Path(name))
    with tempfile.TemporaryDirectory() as name:
        print_ways("database", f"sqlite:///{Path(name) / 'mlflow.db'}", Path(name))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(WAYS[sys.argv[1]](sys.argv[2])))
    else:
        main()
