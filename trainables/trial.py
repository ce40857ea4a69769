"""One trial from its first step to its record. Runs without Ray."""

import time
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from trainables.architectures.stages import Network, build_network
from trainables.datasets.loading import Dataset, Split, load_dataset
from trainables.errors import (
    CheckpointError,
    NotFiniteError,
    StaleAttemptError,
    TrackingError,
    UserError,
)
from trainables.identity import trial_id
from trainables.initialization import initialize
from trainables.pretrained import load_weights
from trainables.record import RecordReader, Store, TrialWriter
from trainables.record.environment import describe_environment
from trainables.seeding import generator, seeded
from trainables.spec import DatasetSpec, EvaluationSpec, RunOptions, SourceSpec, TrialSpec
from trainables.training import Training, evaluation_steps

Status = Literal["running", "finished", "reused", "failed", "taken over"]

# A report costs a round trip to the driver: the evaluations of a quick trial go in one.
REPORT_AT_MOST_EVERY_S = 0.25
REPORT_EVERY_S = 2.0
DATASETS_KEPT = 4


@dataclass(frozen=True)
class Progress:
    """Where a trial stands.

    Attributes:
        metrics: of the evaluation just made; empty between evaluations.
        status: `reused` is a trial that was already finished, `taken over` one that another process
            has begun to train.
        cause: why it failed.
        notices: what went wrong without stopping the trial.
    """

    step: int
    total_steps: int
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    cause: str | None = None
    notices: tuple[str, ...] = ()


def run_trial(
    spec: TrialSpec,
    *,
    store: Store,
    options: RunOptions,
    data_root: Path | None,
    study: str | None = None,
) -> Generator[Progress, None, None]:
    """Train a resolved spec and keep its record, yielding every few seconds and at evaluations.

    A finished trial is left as it is; an interrupted one goes on from its newest committed state.
    Closing the iterator commits a state and marks the run killed, so that it can go on later.

    Raises:
        TrackingError: MLflow cannot be used; the trial is as good as its last state.
    """
    torch.set_num_threads(options.threads)
    device = _device(options)
    record = TrialWriter.open(store, spec, study=study, environment=describe_environment(device))
    if record.is_finished:
        yield Progress(0, 0, "reused")
        return
    trial = _Trial(spec, record, options)
    try:
        trial.prepare(device, data_root)
        yield from trial.train()
        trial.conclude()
    except GeneratorExit:
        trial.interrupt()
        raise
    except StaleAttemptError as error:
        yield trial.progress("taken over", cause=str(error))
    except TrackingError:
        raise  # not the trial's fault, and there is nowhere to write it
    except Exception as error:
        is_expected = isinstance(error, UserError | NotFiniteError)
        cause = str(error) if is_expected else f"{type(error).__name__}: {error}"
        record.fail(cause, details=None if is_expected else traceback.format_exc())
        yield trial.progress("failed", cause=cause)
    else:
        yield trial.progress("finished")


class _Trial:
    """The pieces of a running trial; `training` exists after `prepare`."""

    def __init__(self, spec: TrialSpec, record: TrialWriter, options: RunOptions) -> None:
        self.spec, self.record, self.options = spec, record, options
        self.training: Training | None = None
        self._last_state = self._last_report = time.monotonic()
        self._passed_step = -1

    def prepare(self, device: torch.device, data_root: Path | None) -> None:
        """Load the data, build and initialize the network, and take up the newest state."""
        dataset = cached_dataset(self.spec.dataset, data_root)
        self.record.log_dataset(name=self.spec.dataset.label, digest=dataset.digest)
        network = initial_network(self.spec, dataset, store=self.record.store, data_root=data_root)
        network.module.to(device)
        self.training = Training(network, dataset, self.spec.training, seed=self.spec.seed, device=device)
        if state := self.record.load_state():
            self.training.restore_state(state)
            self._passed_step = self.training.step

    def train(self) -> Iterator[Progress]:
        """Train up to each step at which something is due, do it, and report."""
        training = self._training()
        evaluations = evaluation_steps(self.spec.training.evaluation, training.total_steps)
        series = self._series(training.total_steps)
        for step in sorted({*evaluations, *series}):
            if step <= self._passed_step:
                continue
            if training.should_stop_early:
                return
            while not training.train_until(step, pause=self._is_report_due):
                if self._is_state_due():
                    self._commit_state()
                yield self.progress("running")
            due = {"initial"} if step == 0 and "initial" in self.options.keep else set()
            due |= {f"step-{step:07d}"} if step in series else set()
            if due:
                weights = training.network.module.state_dict()
                self.record.commit_checkpoints(dict.fromkeys(due, weights), dict.fromkeys(due, step))
            metrics = {}
            if step in evaluations:
                metrics = training.evaluate()
                self.record.log_metrics(metrics, step=step)
            self._passed_step = step
            if self.options.state_every_s == 0 or self._is_state_due():
                self._commit_state()
            if time.monotonic() - self._last_report > REPORT_AT_MOST_EVERY_S:
                yield self.progress("running", metrics=metrics)

    def conclude(self) -> None:
        """Commit the final and the best weights, score the test split with the best, and finish the run."""
        training, module = self._training(), self._training().network.module
        final = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        weights = {"final": final, "best": training.selection.weights}
        steps = {"final": training.step, "best": training.selection.step}
        module.load_state_dict(training.selection.weights)
        self.test_metrics = {
            "best_step": float(training.selection.step),
            "n_params": float(sum(p.numel() for p in module.parameters())),
        }
        dataset = training.dataset
        test = training.measure(dataset.test)
        self.test_metrics |= {f"test_{key}": value for key, value in test.metrics.items()}
        self.record.log_predictions("test", prediction_table(dataset, dataset.test, test.scores))
        val_scores = training.predict(dataset.val)
        self.record.log_predictions("val", prediction_table(dataset, dataset.val, val_scores))
        self.record.log_metrics(self.test_metrics, step=training.step)
        # One write holds the test scores and the weights they belong to.
        self.record.commit_checkpoints({k: v for k, v in weights.items() if k in self.options.keep}, steps)
        self.record.finish()

    def interrupt(self) -> None:
        """Commit a state, if there is anything to keep, and mark the run killed."""
        if self.training is not None and self._passed_step >= 0:
            self._commit_state()
        self.record.interrupt()

    def progress(
        self,
        status: Status,
        *,
        metrics: Mapping[str, float] | None = None,
        cause: str | None = None,
    ) -> Progress:
        """Describe where the trial stands, and restart the clock of reports."""
        self._last_report = time.monotonic()
        step, total = (self.training.step, self.training.total_steps) if self.training else (0, 0)
        if status == "finished":
            metrics = self.test_metrics
        return Progress(step, total, status, metrics or {}, cause, tuple(self.record.notices))

    def _training(self) -> Training:
        assert self.training is not None, "prepare() comes first"
        return self.training

    def _series(self, total_steps: int) -> frozenset[int]:
        if self.options.series_points == 0:
            return frozenset()
        return frozenset(evaluation_steps(EvaluationSpec(points=self.options.series_points), total_steps))

    def _commit_state(self) -> None:
        state = self.record.state
        if state is None or state.step != self._training().step:
            self.record.commit_state(self._training().take_state())
        self._last_state = time.monotonic()

    def _is_report_due(self) -> bool:
        return time.monotonic() - self._last_report > REPORT_EVERY_S

    def _is_state_due(self) -> bool:
        every = self.options.state_every_s
        return every > 0 and time.monotonic() - self._last_state > every


@lru_cache(maxsize=DATASETS_KEPT)
def cached_dataset(spec: DatasetSpec, data_root: Path | None) -> Dataset:
    """Load a dataset, or return the one this process holds already."""
    return load_dataset(spec, data_root=data_root)


def initial_network(spec: TrialSpec, dataset: Dataset, *, store: Store, data_root: Path | None) -> Network:
    """Build the network of a resolved spec with the weights its training starts from.

    The random weights are drawn first, whatever the initialization, so that trials of one seed share
    those that are not transfused.
    """
    with seeded(spec.seed, "weights"):
        network = build_network(
            spec.architecture.name, n_outputs=dataset.n_outputs, channels=spec.dataset.channels
        )
    source = spec.init.source
    state = source_weights(source, store=store, data_root=data_root) if source else None
    initialize(network, spec.init, source_state=state, generator=generator(spec.seed, "init"))
    return network


def source_weights(source: SourceSpec, *, store: Store, data_root: Path | None) -> dict[str, Tensor]:
    """Return pretrained weights: those of another trial, of a publisher, or of a file.

    Raises:
        CheckpointError: the pretraining is not finished, or its checkpoint is damaged.
        WeightsError: published weights or a file are absent.
    """
    if source.trial is None:
        return load_weights(source, data_root=data_root)
    reader = RecordReader(store)
    record = reader.trial(trial_id(source.trial))
    if record is None or record.status != "finished":
        state = "has not been run" if record is None else f"is {record.status}"
        raise CheckpointError(f"the pretraining {source.trial.label} {state}; run it first")
    return reader.weights(record, source.checkpoint)


def prediction_table(dataset: Dataset, split: Split, scores: np.ndarray) -> pd.DataFrame:
    """Return one row per sample: sample_id, group, label (one column per label if several), scores."""
    columns: dict[str, np.ndarray] = {"sample_id": split.sample_ids, "group": split.groups}
    if split.labels.ndim == 1:
        columns["label"] = split.labels
    else:
        columns |= {f"label_{name}": split.labels[:, i] for i, name in enumerate(dataset.classes)}
    columns |= {f"score_{name}": scores[:, i] for i, name in enumerate(dataset.classes)}
    return pd.DataFrame(columns)


def _device(options: RunOptions) -> torch.device:
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)
