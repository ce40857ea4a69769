"""`resources.deterministic`: kernels that give the same bits every time; what has none says so."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from study.config import parse_study
from study.cost.speed import Measurements, Place, place_of
from study.grid import Resources
from study.plan import make_plan
from study.tuning import worker_config
from tests.conftest import tiny_trial
from tests.test_speed import SPENT, finished, probed
from tests.test_together import run as run_together
from tests.test_trial import equal, final_weights, find, finish, start
from trainables.determinism import set_determinism
from trainables.identity import trial_id
from trainables.placement import set_gpu_share
from trainables.record import Store, open_store
from trainables.spec import RunOptions
from trainables.training import Training

DETERMINISTIC = RunOptions(is_deterministic=True)


@pytest.fixture(autouse=True)
def as_torch_is_by_itself() -> Iterator[None]:
    yield
    set_determinism(False)
    set_gpu_share(1.0)


def scatter_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks begin with what has no kernel of that kind: of equal indices any may be the last."""
    forward = Training.forward

    def scattered(self: Training, images: Tensor) -> Any:
        images = images.clone(memory_format=torch.contiguous_format)
        index = torch.arange(images.numel()).view_as(images)
        return forward(self, images.put_(index, images.clone()))

    monkeypatch.setattr(Training, "forward", scattered)


def test_one_trial_does_not_change_the_next(store: Store) -> None:
    for seed, is_wanted in enumerate((True, False, True)):
        finish(store, tiny_trial(seed=seed), RunOptions(is_deterministic=is_wanted))
        assert torch.are_deterministic_algorithms_enabled() is is_wanted


def test_a_processor_gives_the_same_bits_anyway(store: Store) -> None:
    other = open_store(store.uri, experiment="plain")
    spec = tiny_trial(training={"steps": 12, "augment": {"horizontal_flip": True, "rotation_degrees": 20}})
    wanted, plain = finish(store, spec, DETERMINISTIC), finish(other, spec)
    assert wanted.trial_id == plain.trial_id, "how it is run is no part of what a trial is"
    assert equal(final_weights(store, wanted), final_weights(other, plain))


def test_a_network_without_such_kernels_says_so_and_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scatter_images(monkeypatch)
    *_, last = start(store, tiny_trial(), DETERMINISTIC)
    assert last.status == "failed"
    assert last.cause is not None
    assert last.cause.startswith("cbr_tiny cannot be trained deterministically here (RuntimeError: put_ ")
    assert last.cause.endswith("set resources.by_architecture.cbr_tiny.deterministic: false")
    assert find(store, tiny_trial()).status == "failed"
    finish(store, tiny_trial(), RunOptions(is_deterministic=False))


def test_so_do_those_of_a_stack(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scatter_images(monkeypatch)
    specs = [tiny_trial(seed=seed) for seed in range(2)]
    last = run_together(store, *specs, options=DETERMINISTIC)
    for spec in specs:
        assert last[trial_id(spec)].status == "failed"
        assert "cannot be trained deterministically here" in (last[trial_id(spec)].cause or "")


STUDY = """
name: s
trial: {dataset: digits_5_9, training: {steps: 1}}
grid: {architecture: [cbr_tiny, cbr_small]}
resources: {gpu: 0.25, deterministic: true, by_architecture: {cbr_small: {deterministic: false}}}
"""


def test_the_study_file_says_who_is_and_the_record_keeps_it(store: Store) -> None:
    options = {
        entry.trial.spec.architecture.name: RunOptions.model_validate_json(
            worker_config([entry], parse_study(STUDY), store)["trials"][0]["options"]
        )
        for entry in make_plan(parse_study(STUDY), []).entries
    }
    assert {name: one.is_deterministic for name, one in options.items()} == {
        "cbr_tiny": True,
        "cbr_small": False,
    }
    on_processor = options["cbr_tiny"].model_copy(update={"device": "cpu"})
    spent = finish(store, tiny_trial(), on_processor).circumstances.spent
    assert spent is not None
    assert (spent.is_deterministic, spent.gpu_share) == (True, 0.25)


def test_gpus_are_fast_in_their_own_ways() -> None:
    a_quarter = Place("H200", 0, gpu_share=0.25)
    deterministic = Place("H200", 0, is_deterministic=True)
    on_gpu = {"hardware": "H200", "is_gpu": True}
    probes = [
        probed(**on_gpu, train_s=0.1, gpu_share=1.0),
        probed(**on_gpu, train_s=0.2, gpu_share=1.0, is_deterministic=True),
        probed(**on_gpu, train_s=0.4, gpu_share=None),  # of before shares were told apart
        probed(**on_gpu, train_s=0.3, gpu_share=0.25),
    ]
    spent = replace(SPENT, gpu_share=0.5)
    measured = Measurements([finished(spent=spent, **on_gpu)], probes)
    found = [
        measured.speed(tiny_trial(), place).train_s
        for place in (Place("H200", 0), deterministic, a_quarter, Place("H200", 0, gpu_share=0.5))
    ]
    assert found == [0.1, 0.2, 0.3, 0.01]


def test_a_processor_is_as_fast_either_way_and_has_no_share() -> None:
    ways = Resources(2, 0, is_deterministic=True)
    assert place_of("EPYC", ways, is_gpu=False) == Place("EPYC", 2)
    assert Resources(2, 0.25).gpu_share == 0.25
    assert Resources(8, 4).gpu_share == Resources(2, 0).gpu_share == 1.0
    assert Resources(8, 4).threads == 2
