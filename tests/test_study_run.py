"""Whole studies through the command line, Ray and MLflow: plan, run, resume, share, fail, be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from study.config import load_study
from study.plan import make_plan
from study.tuning import worker_config
from trainables.record import RecordReader, Store, TrialRecord, open_store
from trainables.spec import RunOptions
from trainables.trial import run_trial

STUDY = """
name: {name}
seeds: {seeds}
trial:
  architecture: cbr_tiny
  dataset: {{from: digits_5_9, size_px: 16}}
  training:
    steps: {steps}
    batch_size: 16
    optimizer: {{lr: 0.02}}
    evaluation: {{points: 6}}
source:
  dataset: {{from: digits_0_4, size_px: 16}}
  training: {{steps: 8, optimizer: {{lr: {source_lr}}}}}
grid:
  init: [{inits}]
checkpoints: {{state_every_s: 0}}
resources: {{{resources}}}
"""


def write_study(
    folder: Path,
    *,
    name: str = "study",
    inits: str = "random, pretrained",
    seeds: int = 2,
    steps: int = 12,
    source_lr: str = "0.02",
    resources: str = "cpu: 1",
) -> Path:
    file = folder / f"{name}.yaml"
    content = {"name": name, "inits": inits, "seeds": seeds, "steps": steps}
    file.write_text(STUDY.format(**content, source_lr=source_lr, resources=resources))
    return file


STARTED: list[subprocess.Popen[str]] = []


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "study", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """End what a failed test has left running."""
    yield
    for process in STARTED:
        if process.poll() is None:
            kill_everything(process)
    STARTED.clear()


def transfusion(*arguments: str | Path, expect: int = 0) -> str:
    process = start(*arguments)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == expect, output
    return output


def by_label(store: Store) -> dict[str, TrialRecord]:
    records = RecordReader(store).trials()
    assert len({record.trial_id for record in records}) == len(records), "a trial has several runs"
    return {record.spec.label: record for record in records}


def final_weights(store: Store, record: TrialRecord) -> dict[str, torch.Tensor]:
    return RecordReader(store).weights(record, "final")


def test_a_study_runs_resumes_grows_shares_and_leaves_what_cannot_be_run(
    store: Store, tmp_path: Path
) -> None:
    file = write_study(tmp_path)
    planned = json.loads(transfusion("plan", file, "--json"))
    assert [row["state"] for row in planned].count("waiting") == 2

    output = transfusion("run", file)
    assert "study complete: 5 trials ran, 0 were done before" in output
    first = by_label(store)
    assert len(first) == 5
    assert {record.status for record in first.values()} == {"finished"}

    # Nothing finished is redone, neither by the file nor by the name alone.
    file.unlink()
    assert "0 trials ran, 5 were done before" in transfusion("resume", "study")
    assert by_label(store) == first

    # One more value on an axis: only the new trials run. Of a stack, they go to one worker.
    in_stacks = {"inits": "random, pretrained, mean_var", "resources": "stack: 4, slots: 1"}
    output = transfusion("run", write_study(tmp_path, **in_stacks))
    assert output.count("] finished ") == 2
    grown = by_label(store)
    stacked = {label: r.circumstances.spent.stacked for label, r in grown.items() if r.circumstances.spent}
    assert {label for label, n in stacked.items() if n == 1} == grown.keys() - first.keys()
    assert len(grown) == 7
    assert {label: grown[label] for label in first} == first

    # Another study that shares trials: they are reused, and found as its own. Its pretraining fails: who
    # starts from it is not run, with the reason, and the rest goes on.
    file = write_study(tmp_path, name="other", seeds=3, source_lr="1.0e+30", resources="slots: 1")
    output = transfusion("run", file, expect=3)
    others = RecordReader(store).trials("other")
    assert {record.spec.label: record.status for record in others} == {
        "cbr_tiny · random · digits 0–4 · seed 0": "failed",
        "cbr_tiny · random · digits 5–9 · seed 0": "finished",
        "cbr_tiny · random · digits 5–9 · seed 1": "finished",
        "cbr_tiny · random · digits 5–9 · seed 2": "finished",
    }
    assert len({record.run_id for record in others} - {record.run_id for record in grown.values()}) == 2
    assert (
        "cbr_tiny · pretrained · digits 5–9 · seed 2: "
        "its source failed: cbr_tiny · random · digits 0–4 · seed 0: train_loss became"
    ) in output
    assert "ended with 1 failed and 3 not run" in output
    assert "study other" in {run.info.run_name for run in store.search("kind", "study")}

    status = transfusion("status", "study")
    assert "7 trials: 7 done" in status


def kill_everything(process: subprocess.Popen[str]) -> None:
    """SIGKILL the driver and every process it started, trials and Ray included."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines()[1:]:
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    doomed, queue = [], [process.pid]
    while queue:
        doomed.append(queue.pop())
        queue += children.get(doomed[-1], [])
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def wait_for_trials_in_flight(
    store: Store, process: subprocess.Popen[str], *, n_finished: int, n_in_flight: int = 1
) -> None:
    """Wait until trials are finished and others are under way with a state to continue from."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        records = RecordReader(store).trials()
        done = sum(record.status == "finished" for record in records)
        begun = [record for record in records if record.status == "running" and record.resumes_at_step > 0]
        if done >= n_finished and len(begun) >= n_in_flight:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    pytest.fail("no trial was in flight in time")


def train_here(file: Path, store: Store) -> None:
    """Train the trials of a study one after the other in this process: without Ray, and undisturbed."""
    study = load_study(file)
    for entry in make_plan(study, []).entries:
        (told,) = worker_config([entry], study, store)["trials"]
        options = RunOptions.model_validate_json(told["options"])
        *_, last = run_trial(entry.trial.spec, store=store, options=options, data_root=None)
        assert last.status == "finished", last.cause


def test_a_killed_study_goes_on_and_ends_bit_equal_to_an_uninterrupted_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(tmp_path, steps=150)
    killed = start("run", file)
    wait_for_trials_in_flight(store, killed, n_finished=2)
    kill_everything(killed)
    before = by_label(store)
    finished = {label: record for label, record in before.items() if record.status == "finished"}
    in_flight = {label: record for label, record in before.items() if record.status == "running"}
    assert finished
    assert in_flight

    plan = transfusion("plan", file)
    assert "continues at step" in plan
    assert "complete" in transfusion("run", file)
    after = by_label(store)
    assert {record.status for record in after.values()} == {"finished"}
    assert {label: after[label] for label in finished} == finished
    assert {label: after[label].run_id for label in in_flight} == {
        label: record.run_id for label, record in in_flight.items()
    }

    monkeypatch.setenv("TRANSFUSION_EXPERIMENT", "uninterrupted")
    undisturbed = open_store(store.uri)
    train_here(file, undisturbed)
    for label, record in by_label(undisturbed).items():
        expected = final_weights(undisturbed, record)
        found = final_weights(store, after[label])
        assert all(torch.equal(expected[name], found[name]) for name in expected), label
        history = RecordReader(undisturbed).history(record, "val_loss")
        assert history.equals(RecordReader(store).history(after[label], "val_loss"))
        steps = [p.step for p in store.client.get_metric_history(after[label].run_id, "val_loss")]
        assert len(steps) == len(set(steps)), "a point was logged twice"
