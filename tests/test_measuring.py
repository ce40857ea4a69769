"""The speed of a setting, measured by real training on noise."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from study.cost import measuring
from study.cost.measuring import Measured, measure, noise_dataset
from tests.conftest import tiny_trial
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions, TrialSpec
from trainables.stack import CannotStackError, Stack
from trainables.training import Training

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAIN_S", "SCORE_S", "WHOLE_S"):
        monkeypatch.setattr(measuring, name, 0.2)
    monkeypatch.setattr(measuring, "MOST_IMAGES", 64)


def measured(store: Store, spec: TrialSpec) -> Measured:
    return measure(spec, store=store, options=RunOptions(), device=CPU)


def test_seconds_per_image_and_per_trial_are_measured_and_nothing_stays_behind(store: Store) -> None:
    source = {
        "trial": {
            "architecture": "cbr_tiny",
            "dataset": {"reader": "digits", "size_px": 16},
            "training": {"steps": 1},
        }
    }
    spec = tiny_trial(
        init={"kind": "pretrained", "source": source},
        training={"epochs": 100, "batch_size": 8, "early_stopping": {"patience": 1}},
    )
    found = measured(store, spec)
    assert found.train_s is not None
    assert found.score_s is not None
    assert found.overhead_s is not None
    assert 1e-6 < found.score_s < found.train_s < 0.5
    assert 0.01 < found.overhead_s < 60
    assert RecordReader(store).trials() == []


def test_a_larger_image_takes_longer(store: Store) -> None:
    def train_s(size_px: int) -> float:
        found = measured(store, tiny_trial(dataset={"reader": "digits", "size_px": size_px}))
        assert found.train_s is not None
        return found.train_s

    assert train_s(64) > 3 * train_s(16)


def test_what_does_not_fit_the_gpu_has_no_speed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "train_until", exhausted)
    assert measured(store, tiny_trial()) == Measured(None, None, None)


def test_a_stack_is_measured_by_the_images_of_all_its_members(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(tiny_trial(), store=store, options=RunOptions(), device=CPU, stacks=(2, 3))
    assert found.train_s is not None
    assert list(found.stacked) == [2, 3]
    assert RecordReader(store).trials() == []
    take_step = Stack.take_step

    def slowly(stack: Stack) -> None:
        take_step(stack)
        time.sleep(0.1)

    monkeypatch.setattr(Stack, "take_step", slowly)
    slow = measure(tiny_trial(), store=store, options=RunOptions(), device=CPU, stacks=(2, 3))
    for size, stack in slow.stacked.items():
        assert stack.seconds is not None
        assert 0.1 <= stack.seconds * size * 16 < 0.2, "of a step, of all its images"


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        ([0.5, 0.4, 0.3], [0.5, 0.4, 0.3]),
        ([2.0, 0.9, 0.8], [2.0, 0.9, 0.8]),
        ([2.0, 3.0, 0.1], [2.0, 3.0]),
        ([0.5, 0.6, 0.7], [0.5, 0.6, 0.7]),
        ([0.5, torch.OutOfMemoryError("full"), 0.1], [0.5, "4 do not fit the GPU"]),
        ([CannotStackError("dropout"), 0.1, 0.1], ["dropout"]),
    ],
)
def test_larger_stacks_are_measured_while_that_may_gain_anything(
    monkeypatch: pytest.MonkeyPatch, seconds: list[object], found: list[float | str]
) -> None:
    given = iter(seconds)

    def rate(*_: object, **__: object) -> object:
        value = next(given)
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(measuring, "_rate_of_stack", rate)
    stacked = measuring._stacked(tiny_trial(), (2, 4, 8), 1.0, None, store=None, device=CPU)  # type: ignore[arg-type]
    assert [stack.why_not or stack.seconds for _, stack in stacked] == found


def test_a_network_that_draws_random_numbers_cannot_be_stacked(store: Store) -> None:
    found = measure(
        tiny_trial(architecture="mobilenet_v2", dataset={"reader": "digits", "size_px": 32}),
        store=store,
        options=RunOptions(),
        device=CPU,
        stacks=(2,),
    )
    stack = found.stacked[2]
    assert stack.seconds is None
    assert "random" in (stack.why_not or "")


@pytest.mark.parametrize(
    "dataset",
    [
        {"reader": "digits", "size_px": 16},
        {"reader": "digits", "size_px": 32, "channels": 3, "classes": ["1", "2", "3"]},
        {"reader": "chexpert", "path": "x", "size_px": 16},
        {"reader": "eyepacs", "path": "x", "size_px": 16, "channels": 3},
    ],
)
def test_noise_is_of_the_kind_of_the_data_every_class_in_every_split(dataset: dict) -> None:
    spec = tiny_trial(dataset=dataset)
    noise = noise_dataset(spec)
    for split in (noise.train, noise.val, noise.test):
        assert split.images.shape[1:] == (spec.dataset.channels, *[spec.dataset.size_px] * 2)
        assert split.images.dtype == np.uint8
        assert len(split.images) == len(split.labels) == len(set(split.sample_ids))
        seen = split.labels.any(0).sum() if split.labels.ndim == 2 else len(set(split.labels))
        assert seen == noise.n_outputs
    assert len(noise.train.images) >= 2 * spec.training.batch_size


def test_noise_stays_small_for_large_images() -> None:
    noise = noise_dataset(tiny_trial(dataset={"reader": "digits", "size_px": 1024, "channels": 3}))
    assert len(noise.val.images) == measuring.FEWEST_IMAGES


def test_a_kind_of_labels_that_is_not_known_before_the_data_is_measured_as_classes(tmp_path: Path) -> None:
    noise = noise_dataset(tiny_trial(dataset={"reader": "image_folder", "path": "x", "size_px": 16}))
    assert (noise.task, noise.n_outputs) == ("multiclass", 2)
