"""Calls as Ray tasks, and the analysis done by them."""

from functools import partial
from pathlib import Path

import pytest

from analysis.jobs.bench import Bench
from analysis.jobs.job import Job, Weights
from analysis.jobs.weights import CHANGE
from analysis.jobs.work import any_device, do, do_there
from study.alone import run_alone
from study.cluster import as_tasks, call_one
from trainables.record import RecordReader, Store
from trainables.spec import parse_trial

TRIAL = {
    "architecture": "cbr_tiny",
    "dataset": {"reader": "digits", "size_px": 16, "classes": ["0", "1"]},
    "training": {"steps": 2},
}


def test_jobs_done_as_tasks_give_what_they_give_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not run_alone(parse_trial(TRIAL), store=store, threads=1, data_root=None)
    [record] = RecordReader(store).trials()
    jobs = [
        Job(CHANGE, (Weights(record, "initial"), Weights(record, "final"))),
        Job(CHANGE, (Weights(record, "initial"), Weights(record, "absent"))),
    ]
    call = partial(do_there, store_uri=store.uri, experiment=store.experiment)
    done = dict(as_tasks(call, jobs))
    here = do(jobs[0], Bench(RecordReader(store), Path(), any_device()))
    assert here.rows
    assert done[0].rows == here.rows
    assert "no checkpoint 'absent'" in done[1].reason


def test_a_call_takes_one_thing() -> None:
    assert call_one(partial(pow, 2), 5) == 32
