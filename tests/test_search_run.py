"""A study with a search through the command line, killed with -9 on the way."""

import signal
import time
from pathlib import Path

import pytest

from tests.test_study_run import (
    kill_everything,
    nothing_stays,  # noqa: F401
    start,
    transfusion,
)
from trainables.record import RecordReader, Store, open_store

STUDY = """
name: searched
seeds: 2
trial:
  architecture: cbr_tiny
  dataset: {from: digits_5_9, size_px: 16}
  training:
    steps: 40
    batch_size: 16
    optimizer: {lr: 0.02}
    evaluation: {spacing: linear, points: 5}
source:
  dataset: {from: digits_0_4, size_px: 16}
  training: {steps: 8}
grid:
  init: [random, pretrained]
search:
  settings: 5
  space:
    training.optimizer.lr: {log_uniform: [0.0005, 0.5]}
  pruning: {kind: asha, first_images: 128, factor: 2}
checkpoints: {state_every_s: 0}
resources: {cpu: 1, slots: 1}
"""


def tried(store: Store) -> dict[str, str]:
    """What was tried, and how it ended, by the mark of the setting."""
    records = RecordReader(store).trials("searched")
    assert len({record.trial_id for record in records}) == len(records), "a trial has several runs"
    return {
        record.settings["searched"]: "stopped" if record.status == "killed" else record.status
        for record in records
        if record.settings
    }


@pytest.mark.programs
def test_a_search_that_is_killed_twice_tries_what_an_undisturbed_one_tries(
    store: Store, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "searched.yaml"
    file.write_text(STUDY)
    output = transfusion("run", file)
    assert "searched complete" in output
    undisturbed = tried(store)
    assert len(undisturbed) == 10

    uri = f"sqlite:///{tmp_path / 'other.db'}"
    (tmp_path / "other.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    other = open_store(uri)
    for n_settings in (3, 7):
        process = start("run", file, "--take-over")
        deadline = time.monotonic() + 300
        while len(tried(other)) < n_settings:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        kill_everything(process)
    assert "searched complete" in transfusion("run", file, "--take-over")
    assert tried(other) == undisturbed
