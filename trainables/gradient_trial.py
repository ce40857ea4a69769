"""A trial that trains a network step by step, and can be interrupted between any two of them."""

import gc
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from trainables.checkpoints import Contents
from trainables.datasets.loading import Dataset, cached_dataset
from trainables.errors import CheckpointError, NotFiniteError
from trainables.parallel import ParallelTraining
from trainables.placement import is_anything_placed
from trainables.predictions import record_predictions
from trainables.progress import (
    REPORT_AT_MOST_EVERY_S,
    Progress,
    ReportClock,
    Status,
    StepsWanted,
)
from trainables.record import TrialWriter, names
from trainables.record.circumstances import Spent
from trainables.restoring import restore
from trainables.schedules import evaluation_steps
from trainables.spec import EvaluationSpec, RunOptions, TrialSpec
from trainables.starting_point import SampleWeights, importance_weights, initial_network
from trainables.training import Training


class GradientTrial:
    """The pieces of such a trial; `training` exists after `prepare`."""

    def __init__(self, spec: TrialSpec, record: TrialWriter, options: RunOptions) -> None:
        self.spec, self.record, self.options = spec, record, options
        self.training: Training | None = None
        self.end_metrics: Mapping[str, float] = {}
        self._clock = ReportClock()
        self._last_state = time.monotonic()
        self._passed_step = -1
        self._is_between_steps = False
        self._micro_batch_size: int | None = None
        self._may_fill = True

    def prepare(self, device: torch.device, data_root: Path | None) -> None:
        """Load the data, build and initialize the network, and take up the newest state."""
        self._device, self._data_root = device, data_root
        try:
            self._prepare()
        except torch.OutOfMemoryError:
            if not (self._may_fill and is_anything_placed(device)):
                raise
            self._may_fill = False
        else:
            return
        self.close()
        gc.collect()
        torch.cuda.empty_cache()
        self._prepare()

    def _prepare(self) -> None:
        device, data_root = self._device, self._data_root
        dataset = cached_dataset(self.spec.dataset, data_root)
        self.record.log_dataset(name=self.spec.dataset.label, digest=dataset.digest)
        store = self.record.store
        weights = importance_weights(
            self.spec, dataset, store=store, data_root=data_root, device=device, may_fill=self._may_fill
        )
        if weights is not None:
            self.record.log_metrics(weights.facts, step=0)
        self.training = self._begin(dataset, weights)
        self._passed_step = -1
        if state := self.record.load_state():
            self._take_up(state, dataset, weights)
        if self._micro_batch_size is not None:
            self.training.micro_batch_size = self._micro_batch_size

    def _begin(self, dataset: Dataset, weights: SampleWeights | None) -> Training:
        self.close()
        network = initial_network(self.spec, dataset, store=self.record.store, data_root=self._data_root)
        network.module.to(self._device)
        processes = self.options.processes
        training = (ParallelTraining if processes > 1 else Training)(
            network,
            dataset,
            self.spec.training,
            seed=self.spec.seed,
            device=self._device,
            sample_weights=weights.of_images if weights is not None else None,
            may_fill=self._may_fill,
            is_compiled=self.options.is_compiled,
        )
        training.notices = self.record.notices
        if isinstance(training, ParallelTraining):
            training.begin(self.spec, data_root=self._data_root, processes=processes)
        return training

    def _take_up(self, state: Contents, dataset: Dataset, weights: SampleWeights | None) -> None:
        """Go on from a state; from one that does not fit the trial would fail at every start."""
        try:
            restore(self._training(), state)
        except CheckpointError as error:
            self.record.give_up_state(f"the resumable state does not fit, beginning anew: {error}")
            self.training = self._begin(dataset, weights)
        self._passed_step = self._training().step if self.record.state is not None else -1

    def train(self) -> Iterator[Progress | StepsWanted]:
        """Train to the end, from the newest state on in less memory if the GPU is too small.

        First the images leave its memory, then micro-batches are halved.

        Raises:
            OutOfMemoryError: one image at a time is too much, or the study file wants no halving.
        """
        while True:
            try:
                yield from self._train_on()
                return
            except torch.OutOfMemoryError as full:
                if not self._can_take_less():
                    raise
                full.__traceback__ = None  # who threw it in holds on to it, and it to the network
            # Out here, where the error no longer holds on to the tensors of the step that failed.
            yield from self._go_on_with_less()

    def _go_on_with_less(self) -> Iterator[Progress]:
        self._is_between_steps = False
        before, size = self.progress("running"), self._training().micro_batch_size
        cure = self._ask_for_less()
        self.close()
        gc.collect()
        torch.cuda.empty_cache()
        # The newest state is read from the store.
        while not self.record.drain(within_s=REPORT_AT_MOST_EVERY_S):
            yield replace(before, notices=tuple(self.record.notices))
        self.record.begin_again()
        self.prepare(self._device, self._data_root)
        if self._micro_batch_size is not None:
            self.record.log_tag(names.MICRO_BATCH_SIZE, str(self._micro_batch_size))
        self.record.notices.append(
            f"out of GPU memory after step {before.step} with {size} images at once: goes on from step "
            f"{max(0, self._passed_step)} {cure}"
        )
        yield self.progress("running")

    def _can_take_less(self) -> bool:
        may_halve = self.options.failures.out_of_memory == "halve" and self._training().micro_batch_size > 1
        return may_halve or self._are_images_in_the_way()

    def _are_images_in_the_way(self) -> bool:
        return self._may_fill and (self._training().batches.are_on_device or is_anything_placed(self._device))

    def _ask_for_less(self) -> str:
        """Take less memory from the next start on, and say how."""
        training = self._training()
        if self._are_images_in_the_way():
            self._may_fill = False
            return "with the images in the memory of the machine"
        half = self._micro_batch_size = math.ceil(training.micro_batch_size / 2)
        return (
            f"with {half}, gradients accumulated to batches of {training.batch_size} (batch norm sees the "
            f"{half}; points that were logged stay)"
        )

    def _train_on(self) -> Iterator[Progress | StepsWanted]:
        """Train up to each step at which something is due, do it, and report."""
        training = self._training()
        evaluations = evaluation_steps(self.spec.training.evaluation, training.total_steps)
        series = self._series(training.total_steps)
        rungs = self._rung_steps(evaluations, training)
        for step in sorted({*evaluations, *series}):
            if step <= self._passed_step:
                continue
            if training.should_stop_early:
                return
            self._is_between_steps = True
            while not (yield from self._train_until(step)):
                if self._is_state_due():
                    yield from self._commit_state()
                yield self.progress("running")
            self._is_between_steps = False  # what is due at this step is not done yet
            due = {"initial"} if step == 0 and "initial" in self.options.keep else set()
            due |= {f"step-{step:07d}"} if step in series else set()
            if due:
                weights = training.network.module.state_dict()
                yield from self._wait_for_room(Contents(weights, {}))
                self.record.commit_checkpoints(dict.fromkeys(due, weights), dict.fromkeys(due, step))
            metrics = {}
            if step in evaluations:
                metrics = training.evaluate()
                self.record.log_metrics(metrics, step=step)
            self._passed_step = step
            self._is_between_steps = True
            if step in rungs or self.options.state_every_s == 0 or self._is_state_due():
                yield from self._commit_state()
            if step in rungs or self._clock.is_allowed():
                yield self.progress("running", metrics=metrics)

    def _train_until(self, step: int) -> Generator[StepsWanted, None, bool]:
        training = self._training()
        if training.step < step:
            yield StepsWanted(training, step, self._clock.is_due, self.record.notices)
        return training.step >= step

    def conclude(self) -> None:
        """Commit the final and the best weights, and score the test split with the best.

        Of a trial of a search nothing is kept but how good its best weights were on the validation split.
        """
        self._is_between_steps = False
        if self.spec.purpose == "search":
            self.end_metrics = self._facts()
            self.record.log_metrics(self.end_metrics, step=self._training().step)
            self.record.log_tag(names.SPENT, self._spent().to_tag())
            return
        training, module = self._training(), self._training().network.module
        final = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        weights = {"final": final, "best": training.selection.weights}
        steps = {"final": training.step, "best": training.selection.step}
        module.load_state_dict(training.selection.weights)
        dataset = training.dataset
        test = training.measure(dataset.test)
        self.end_metrics = {
            **self._facts(),
            "test_loss": test.metrics["loss"],
            **record_predictions(
                self.record, dataset, val_scores=training.predict(dataset.val), test_scores=test.scores
            ),
        }
        self.record.log_metrics(self.end_metrics, step=training.step)
        self.record.log_tag(names.SPENT, self._spent().to_tag())
        # One write holds the test scores and the weights they belong to.
        self.record.commit_checkpoints({k: v for k, v in weights.items() if k in self.options.keep}, steps)

    def close(self) -> None:
        """Free what lies outside of this process."""
        if self.training is not None:
            self.training.close()
            self.training = None
            torch.cuda.empty_cache()  # other processes may share the GPU

    def interrupt(self) -> None:
        """Commit a state, if there is one to go on from, and mark the run killed."""
        self.record.hurry()
        if self._is_between_steps and self._passed_step >= 0 and self._has_moved_on():
            with suppress(NotFiniteError):  # it keeps its last state, and says so when it goes on from there
                self._training().read_losses()
                self.record.commit_state(self._training().take_state())
        self.record.interrupt()

    def progress(
        self, status: Status, *, metrics: Mapping[str, float] | None = None, cause: str | None = None
    ) -> Progress:
        """Describe where the trial stands, and restart the clock of reports."""
        self._clock.restart()
        step, total = (self.training.step, self.training.total_steps) if self.training else (0, 0)
        if status == "finished":
            metrics = self.end_metrics
        return Progress(step, total, status, metrics or {}, cause, notices=tuple(self.record.notices))

    def _spent(self) -> Spent:
        training, dataset = self._training(), self._training().dataset
        return Spent(
            images_trained=training.images_trained,
            training_s=training.training_seconds,
            images_scored=training.images_scored,
            scoring_s=training.scoring_seconds,
            n_train=len(dataset.train.labels),
            n_val=len(dataset.val.labels),
            n_test=len(dataset.test.labels),
            micro_batch=training.micro_batch_size,
            threads=self.options.threads,
            stacked=training.most_companions,
            processes=self.options.processes,
            is_compiled=self.options.is_compiled,
            is_deterministic=self.options.is_deterministic,
            gpu_share=self.options.gpu_share,
        )

    def _facts(self) -> dict[str, float]:
        """Return what is known at the end without the test split."""
        selection, parameters = self._training().selection, [*self._training().network.module.parameters()]
        best = {f"best_{selection.metric}": selection.value} if self.spec.purpose == "search" else {}
        return {
            **best,
            "best_step": float(selection.step),
            "n_params": float(sum(p.numel() for p in parameters)),
            "n_trainable_params": float(sum(p.numel() for p in parameters if p.requires_grad)),
        }

    def _rung_steps(self, evaluations: Iterable[int], training: Training) -> frozenset[int]:
        """Return the first evaluation at or after each rung, but not the last of all."""
        first = {
            next((step for step in evaluations if step * training.batch_size >= rung), training.total_steps)
            for rung in self.options.rungs
        }
        return frozenset(first - {training.total_steps})

    def _training(self) -> Training:
        assert self.training is not None, "prepare() comes first"
        return self.training

    def _series(self, total_steps: int) -> frozenset[int]:
        if self.options.series_points == 0:
            return frozenset()
        return frozenset(evaluation_steps(EvaluationSpec(points=self.options.series_points), total_steps))

    def _commit_state(self) -> Iterator[Progress]:
        """Commit a state when the disk has room for it, reporting while there is none."""
        if self._has_moved_on():
            state = self._training().take_state()
            yield from self._wait_for_room(state)
            self.record.commit_state(state)
        self._last_state = time.monotonic()

    def _wait_for_room(self, contents: Contents) -> Iterator[Progress]:
        while not self.record.has_room(contents):
            yield self.progress("running")
            time.sleep(REPORT_AT_MOST_EVERY_S)

    def _has_moved_on(self) -> bool:
        state = self.record.state
        return state is None or state.step != self._training().step

    def _is_state_due(self) -> bool:
        every = self.options.state_every_s
        return every > 0 and time.monotonic() - self._last_state > every
