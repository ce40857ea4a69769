"""A hand-written stand-in for the record of a study: a few trials with plausible curves, no MLflow."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.networks.probe import opened_dataset
from trainables.architectures.stages import build_network
from trainables.errors import CheckpointError
from trainables.identity import cell_id, trial_id
from trainables.predictions import prediction_table
from trainables.record import CheckpointRef, TrialRecord
from trainables.resolution import resolve
from trainables.spec import DatasetSpec, TrialSpec, parse_trial

STEPS = (0, 1, 3, 10, 30, 100, 300)
SOURCE_DATASET = {"reader": "digits", "size_px": 16, "classes": ["0", "1", "2", "3", "4"]}
TARGET_DATASET = {"reader": "digits", "size_px": 16, "classes": ["5", "6", "7", "8", "9"]}
TRAINING = {"steps": STEPS[-1]}


def spec_of(init: str, seed: int, *, architecture: str = "cbr_tiny", **changes: object) -> TrialSpec:
    """Return a resolved spec; `init` is random, pretrained, mean_var or a number of transfused stages."""
    source = {"trial": {"architecture": architecture, "dataset": SOURCE_DATASET, "training": TRAINING}}
    if init == "random":
        init_content: dict[str, object] = {"kind": "random"}
    elif init.isdigit():
        init_content = {"kind": "transfusion", "depth": int(init), "source": source}
    else:
        init_content = {"kind": init, "source": source}
    content = {
        "architecture": architecture,
        "init": init_content,
        "dataset": TARGET_DATASET,
        "training": TRAINING,
        "seed": seed,
    }
    return resolve(parse_trial({**content, **changes}))


def record_of(
    spec: TrialSpec,
    *,
    status: str = "finished",
    cause: str | None = None,
    metrics: dict[str, float] | None = None,
    checkpoints: Iterable[str] = ("initial", "best", "final"),
) -> TrialRecord:
    """Return the record of a trial whose test AUROC follows its curve."""
    identity = trial_id(spec)
    last = curve(spec)[-1]
    scalars = {
        "test_auroc": last - 0.002,
        "test_auprc": last - 0.03,
        "test_accuracy": last - 0.05,
        "test_f1": last - 0.06,
        "best_step": 300.0,
        "n_params": 1_077_984.0,
    }
    return TrialRecord(
        run_id=f"run-{identity}",
        trial_id=identity,
        cell_id=cell_id(spec),
        spec=spec,
        status=status,
        cause=cause,
        metrics=(scalars if metrics is None else metrics) if status == "finished" else {},
        checkpoints={name: CheckpointRef(name, name, _digest(identity, name), 0, 1) for name in checkpoints},
        state=None,
        dataset_digest=_dataset_digest(spec.dataset),
        studies=frozenset({"fake"}),
        seconds=60.0 if status == "finished" else math.nan,
    )


@lru_cache
def _dataset_digest(spec: DatasetSpec) -> str:
    return opened_dataset(spec, None).digest if spec.reader == "digits" else "d" * 64


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def curve(spec: TrialSpec) -> np.ndarray:
    """Return a validation AUROC over STEPS that rises earlier the more is transfused."""
    depth = {"random": 0, "mean_var": 1, "pretrained": 4}.get(spec.init.kind, int(spec.init.depth or 0))
    noise = np.random.default_rng([spec.seed, depth]).normal(0, 0.004, len(STEPS))
    progress = 1 - np.exp(-((np.array(STEPS) / (120 / (1 + 2 * depth))) ** 0.8))
    return (0.5 + (0.44 + 0.008 * depth) * progress + noise).clip(0, 1)


class FakeReader:
    """Answers like a RecordReader from a list of records.

    Args:
        damaged: (trial_id, checkpoint) whose weights cannot be read.
    """

    def __init__(self, records: Iterable[TrialRecord], *, damaged: Iterable[tuple[str, str]] = ()) -> None:
        self.records, self.damaged = list(records), set(damaged)

    def trials(self, study: str | None = None) -> list[TrialRecord]:
        return self.records

    def history(self, record: TrialRecord, metric: str) -> pd.DataFrame:
        values = {"val_auroc": curve(record.spec), "val_loss": 1.6 * (1 - curve(record.spec))}
        if record.status != "finished" or metric not in values:
            return pd.DataFrame({"step": [], "value": []}).astype({"step": int, "value": float})
        return pd.DataFrame({"step": STEPS, "value": values[metric]})

    def predictions(self, record: TrialRecord, split: str = "test") -> pd.DataFrame:
        """Scores on the dataset's own test images, the surer and righter the better the trial's curve."""
        if record.status != "finished":
            raise CheckpointError(f"{record.spec.label}: no predictions")
        dataset = opened_dataset(record.spec.dataset, None)
        drawn = np.random.default_rng([record.spec.seed, int(record.spec.init.depth or 0)])
        is_class = dataset.test.labels[:, None] == np.arange(dataset.n_outputs)
        logits = 4 * curve(record.spec)[-1] * is_class + drawn.normal(0, 1.5, is_class.shape)
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return prediction_table(dataset, dataset.test, scores)

    def histories(self, records: Iterable[TrialRecord], metrics: Sequence[str]) -> pd.DataFrame:
        columns = ["trial_id", "metric", "step", "value"]
        parts = [
            self.history(record, metric).assign(trial_id=record.trial_id, metric=metric)[columns]
            for record in records
            for metric in metrics
        ]
        parts = [part for part in parts if not part.empty]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def weights(self, record: TrialRecord, checkpoint: str) -> dict[str, Tensor]:
        if (record.trial_id, checkpoint) in self.damaged or checkpoint not in record.checkpoints:
            raise CheckpointError(f"{record.spec.label}: checkpoint {checkpoint!r} cannot be used: truncated")
        spec = record.spec
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            network = build_network(
                spec.architecture.name,
                n_outputs=len(spec.dataset.classes or ()) or 2,
                channels=spec.dataset.channels,
            )
            state = network.module.state_dict()
            if checkpoint != "initial":
                # "Training" moves every weight a little, by its own seed.
                for tensor in state.values():
                    if tensor.is_floating_point():
                        tensor.add_(0.3 * tensor.std(correction=0) * torch.randn(tensor.shape))
        return state


def small_study(
    *, seeds: Sequence[int] = (0, 1, 2), inits: Sequence[str] = ("random", "1", "2", "3", "pretrained")
) -> list[TrialRecord]:
    """Return the records of a transfusion study on one setting, its source training included."""
    specs = [spec_of(init, seed) for init in inits for seed in seeds]
    parents = [spec.init.source.trial for spec in specs if spec.init.source and spec.init.source.trial]
    return [record_of(spec) for spec in [*parents[:1], *specs]]
