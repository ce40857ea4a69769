"""What a trial has to do: counted beside a trial that does it, and by hand."""

import pytest

from study.cost.workload import Workload, memory_bytes, workload
from study.extent import SplitSizes
from tests.conftest import tiny_trial
from trainables.identity import trial_id
from trainables.operations import Operations
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions, TrialSpec
from trainables.trial import run_trial

OPERATIONS = Operations(10, 30, n_params=100, n_trainable_params=60, activation_bytes=1000)


def sizes_of(spec: TrialSpec, store: Store) -> SplitSizes:
    spent = RecordReader(store).trial(trial_id(spec)).circumstances.spent  # type: ignore[union-attr]
    assert spent is not None
    return SplitSizes(spent.n_train, spent.n_val, spent.n_test)


@pytest.mark.parametrize(
    "training",
    [
        {"steps": 6, "batch_size": 16, "evaluation": {"points": 3}},
        {"epochs": 0.5, "batch_size": 32, "evaluation": {"points": 4, "spacing": "linear"}},
        {"steps": 0},
    ],
)
def test_images_are_those_that_a_trial_really_looks_at(store: Store, training: dict) -> None:
    spec = tiny_trial(training=training)
    list(run_trial(spec, store=store, options=RunOptions(), data_root=None))
    spent = RecordReader(store).trial(trial_id(spec)).circumstances.spent  # type: ignore[union-attr]
    work = workload(spec, sizes_of(spec, store), OPERATIONS)
    assert spent is not None
    assert (work.images_trained, work.images_scored) == (spent.images_trained, spent.images_scored)
    assert work.flops == spent.images_trained * 30 + spent.images_scored * 10


def test_a_trial_that_goes_on_has_only_the_rest_to_do() -> None:
    spec = tiny_trial(training={"steps": 12, "batch_size": 16, "evaluation": {"points": 4}})
    whole = workload(spec, SplitSizes(100, 10, 20), None)
    assert whole == Workload(12 * 16, (5 + 1) * 10 + 20)  # at 0, 1, 2, 5 and 12
    rest = workload(spec, SplitSizes(100, 10, 20), None, from_step=5)
    assert rest == Workload(7 * 16, (1 + 1) * 10 + 20)


def test_a_trial_of_a_search_scores_nothing_at_its_end() -> None:
    spec = tiny_trial(training={"steps": 12, "batch_size": 16, "evaluation": {"points": 4}})
    tried = spec.model_copy(update={"purpose": "search"})
    assert workload(tried, SplitSizes(100, 10, None), None).images_scored == 5 * 10


def test_what_is_not_known_stays_unknown() -> None:
    spec = tiny_trial()
    assert workload(spec, SplitSizes(), OPERATIONS) == Workload(
        12 * 16, None, None, memory_bytes(spec.training, OPERATIONS)
    )
    assert workload(spec, SplitSizes(100, 10, 20), None).flops is None
    assert workload(tiny_trial(training={"epochs": 2}), SplitSizes(), None) == Workload()


def test_a_linear_probe_sends_every_image_through_once_and_trees_are_not_counted() -> None:
    probe = tiny_trial(training={"method": "linear_probe"})
    assert workload(probe, SplitSizes(100, 10, 20), OPERATIONS) == Workload(0, 130, 1300, None)
    trees = tiny_trial(architecture="decision_tree", training={"method": "fit"})
    assert workload(trees, SplitSizes(100, 10, 20), None) == Workload()


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [({"kind": "adam"}, 2), ({"kind": "sgd"}, 1), ({"kind": "sgd", "momentum": 0.0}, 0)],
)
def test_memory_is_that_of_the_optimizer_and_of_one_micro_batch(optimizer: dict, slots: int) -> None:
    training = tiny_trial(
        training={"steps": 1, "batch_size": 16, "micro_batch_size": 4, "optimizer": optimizer}
    ).training
    assert memory_bytes(training, OPERATIONS) == (100 + 60 * (1 + slots)) * 4 + 4 * 1000
