"""The kinds of jobs there are, and doing one."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from analysis.jobs import explanations, predictions, similarity, weights
from analysis.jobs.bench import Bench
from analysis.jobs.job import Job, Outcome
from trainables.errors import UserError
from trainables.precision import computing
from trainables.record import RecordReader, open_store

KINDS: dict[str, Callable[[Job, Bench], Outcome]] = {
    similarity.KIND: similarity.compare,
    weights.CHANGE: weights.measure_change,
    weights.LINE: weights.measure_line,
    weights.ENSEMBLE: weights.measure_ensemble,
    predictions.UNCERTAINTY: predictions.resample,
    predictions.MISTAKES: predictions.look_for_mistakes,
    predictions.PICTURES: predictions.fetch_pictures,
    explanations.EXPLANATIONS: explanations.explain_network,
    explanations.RANDOMISATION: explanations.check_methods,
}


def do(job: Job, bench: Bench) -> Outcome:
    """Do a job; one that cannot be done has a reason instead, and does not stand in the way of others."""
    try:
        with computing("float32", bench.device):
            return KINDS[job.kind](job, bench)
    except (UserError, ValueError, torch.OutOfMemoryError) as error:
        return Outcome(reason=str(error))


def do_there(job: Job, *, store_uri: str, experiment: str) -> Outcome:
    """Do a job on another machine: with its images below TRANSFUSION_DATA, and its GPU if it has one."""
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    return do(job, _bench(store_uri, experiment))


@lru_cache(maxsize=1)
def _bench(store_uri: str, experiment: str) -> Bench:
    root = os.environ.get("TRANSFUSION_DATA")
    return Bench(
        RecordReader(open_store(store_uri, experiment=experiment)), Path(root) if root else None, any_device()
    )


def any_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
