"""How fast this process trains one setting: a few seconds of real training on images of noise."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from study.cost.counts import expected_outputs
from trainables.datasets.catalog import expected_task
from trainables.datasets.loading import Dataset, Split
from trainables.determinism import set_determinism
from trainables.gradient_trial import GradientTrial
from trainables.placement import set_gpu_share
from trainables.progress import StepsWanted
from trainables.record import Store, TrialWriter
from trainables.record.environment import describe_environment
from trainables.spec import EvaluationSpec, InitSpec, RunOptions, TrialSpec
from trainables.stack import CannotStackError, Stack
from trainables.starting_point import initial_network
from trainables.training import Training

TRAIN_S, SCORE_S, WHOLE_S = 3.0, 1.0, 2.0
WARM_UP_STEPS = 2
# Noise held in memory, of each split.
MOST_BYTES, FEWEST_IMAGES, MOST_IMAGES = 64_000_000, 32, 512
MANY_STEPS = 10**9


@dataclass(frozen=True)
class Measured:
    """Seconds per image trained and scored, and per trial besides; None if it did not fit the GPU.

    Attributes:
        stacked: of stacks, by the number of their members.
        notices: what was not measured as asked for.
    """

    train_s: float | None
    score_s: float | None
    overhead_s: float | None
    stacked: dict[int, "Stacked"] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stacked:
    """Seconds per image of a stack, of the images of all members; None if there was none, and why."""

    seconds: float | None
    why_not: str | None = None


def measure(
    spec: TrialSpec,
    *,
    store: Store,
    options: RunOptions,
    device: torch.device,
    stacks: Sequence[int] = (),
) -> Measured:
    """Train and score for a few seconds, then record one short trial and delete it.

    Args:
        spec: resolved, of a training by gradient.
        store: an experiment that holds no trials that count.
        stacks: of so many trials like it, measured too, the smallest first, while they become faster.
    """
    torch.set_num_threads(options.threads)
    set_determinism(options.is_deterministic)
    set_gpu_share(options.gpu_share)
    spec = spec.model_copy(update={"init": InitSpec(), "importance": None, "seed": secrets.randbelow(2**31)})
    dataset = noise_dataset(spec)
    try:
        long = _of_steps(spec, MANY_STEPS)
        train_s, score_s, notices = _rates(long, dataset, store=store, options=options, device=device)
        steps = max(1, int(WHOLE_S / (train_s * min(spec.training.batch_size, len(dataset.train.labels)))))
        short = _of_steps(spec, min(steps, spec.training.steps or MANY_STEPS))
        overhead_s = _overhead(short, dataset, store, options, device)
        stacked = dict(_stacked(long, stacks, train_s, dataset, store=store, device=device))
        return Measured(train_s, score_s, overhead_s, stacked, notices)
    except torch.OutOfMemoryError:
        return Measured(None, None, None)
    finally:
        torch.cuda.empty_cache()  # others may measure on the same GPU


def device_of(*, is_gpu: bool) -> torch.device:
    """Return the device that a trial gets which asked for a GPU, or did not."""
    return torch.device("cuda" if is_gpu and torch.cuda.is_available() else "cpu")


def noise_dataset(spec: TrialSpec) -> Dataset:
    """Return images of noise of the kind that a trial is trained on, every class in every split."""
    dataset, n_outputs = spec.dataset, expected_outputs(spec.dataset)
    bytes_per_image = dataset.channels * dataset.size_px**2
    n_scored = max(FEWEST_IMAGES, n_outputs, min(MOST_IMAGES, MOST_BYTES // bytes_per_image))
    n_train = max(2 * spec.training.batch_size, n_outputs)
    task = expected_task(dataset)
    rng = np.random.default_rng(0)

    def split(name: str, n: int) -> Split:
        pixels = rng.integers(0, 256, (n, dataset.channels, dataset.size_px, dataset.size_px), dtype=np.uint8)
        classes = np.arange(n) % n_outputs
        labels = (
            (classes[:, None] == np.arange(n_outputs)).astype(np.uint8) if task == "multilabel" else classes
        )
        ids = np.array([f"{name}{i}" for i in range(n)])
        return Split(pixels, labels, ids, ids)

    return Dataset(
        classes=tuple(str(i) for i in range(n_outputs)),
        task=task,
        train=split("train", n_train),
        val=split("val", n_scored),
        test=split("test", n_scored),
        digest="0" * 64,
        mean=(0.5,) * dataset.channels,
        sd=(0.25,) * dataset.channels,
        referable_grade=dataset.referable_grade if isinstance(dataset.referable_grade, int) else None,
    )


def _of_steps(spec: TrialSpec, steps: int) -> TrialSpec:
    training = spec.training.model_copy(update={"steps": steps, "epochs": None, "early_stopping": None})
    if steps == MANY_STEPS:
        training = training.model_copy(update={"evaluation": EvaluationSpec(points=1)})
    return spec.model_copy(update={"training": training})


def _rates(
    spec: TrialSpec, dataset: Dataset, *, store: Store, options: RunOptions, device: torch.device
) -> tuple[float, float, tuple[str, ...]]:
    network = initial_network(spec, dataset, store=store, data_root=None)
    network.module.to(device)
    training = Training(
        network, dataset, spec.training, seed=spec.seed, device=device, is_compiled=options.is_compiled
    )
    training.train_until(WARM_UP_STEPS)
    before, images = training.training_seconds, training.images_trained
    deadline = time.perf_counter() + TRAIN_S
    training.train_until(MANY_STEPS, pause=lambda: time.perf_counter() > deadline)
    train_s = (training.training_seconds - before) / (training.images_trained - images)
    training.measure(dataset.val)
    before, images = training.scoring_seconds, training.images_scored
    deadline = time.perf_counter() + SCORE_S
    while time.perf_counter() < deadline or training.images_scored == images:
        training.measure(dataset.val)
    score_s = (training.scoring_seconds - before) / (training.images_scored - images)
    return train_s, score_s, tuple(training.notices)


def _stacked(
    spec: TrialSpec,
    sizes: Sequence[int],
    alone_s: float,
    dataset: Dataset,
    *,
    store: Store,
    device: torch.device,
) -> Iterator[tuple[int, Stacked]]:
    """Measure stacks of these sizes, until one does not fit or two in a row are no faster than before."""
    fastest_s, n_slower = alone_s, 0
    for size in sizes:
        torch.cuda.empty_cache()
        try:
            seconds = _rate_of_stack(spec, size, dataset, store=store, device=device)
        except CannotStackError as error:
            yield size, Stacked(None, str(error))
            return
        except torch.OutOfMemoryError:
            yield size, Stacked(None, f"{size} do not fit the GPU")
            return
        yield size, Stacked(seconds)
        n_slower = 0 if seconds < fastest_s else n_slower + 1
        fastest_s = min(fastest_s, seconds)
        if n_slower == 2:
            return


def _rate_of_stack(
    spec: TrialSpec, size: int, dataset: Dataset, *, store: Store, device: torch.device
) -> float:
    """Return the seconds per image of a stack, of the images of all its members."""
    members = []
    for seed in range(spec.seed, spec.seed + size):
        network = initial_network(
            spec.model_copy(update={"seed": seed}), dataset, store=store, data_root=None
        )
        network.module.to(device)
        members.append(Training(network, dataset, spec.training, seed=seed, device=device))
    stack = Stack(members)
    for _ in range(WARM_UP_STEPS):
        stack.take_step()
    _read_losses(members)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() < began + TRAIN_S:
        stack.take_step()
        steps += 1
        if members[0].are_losses_due:
            _read_losses(members)
    _read_losses(members)  # waits until the device has done all steps
    seconds = time.perf_counter() - began
    return seconds / (steps * sum(member.batch_size for member in members))


def _read_losses(members: Sequence[Training]) -> None:
    for member in members:
        member.read_losses()


class _ShortTrial(GradientTrial):
    """A trial on noise; all but its data is real."""

    noise: Dataset

    def _prepare(self) -> None:
        self.record.log_dataset(name="noise", digest=self.noise.digest)
        self.training = self._begin(self.noise, None)


def _overhead(
    spec: TrialSpec, dataset: Dataset, store: Store, options: RunOptions, device: torch.device
) -> float:
    """Return the seconds of a recorded trial that it neither trains nor scores."""
    environment = describe_environment(device)
    began = time.perf_counter()
    record = TrialWriter.open(store, spec, study=None, environment=environment)
    try:
        trial = _ShortTrial(spec, record, options)
        trial.noise = dataset
        trial.prepare(device, None)
        for event in trial.train():
            if isinstance(event, StepsWanted):
                event.training.train_until(event.until)
        trial.conclude()
        record.finish()
        whole = time.perf_counter() - began
    finally:
        record.close()
        store.client.delete_run(record.run_id)
    training = trial.training
    assert training is not None, "it was prepared"
    return max(0.0, whole - training.training_seconds - training.scoring_seconds)
