"""The sizes of splits before the data are there, and how many images a training looks at."""

from pathlib import Path

import pytest
import torch

from study.extent import SplitSizes, published_sizes, total_steps, training_images
from tests.conftest import tiny_trial
from trainables.datasets.catalog import find_dataset, normalize_dataset
from trainables.datasets.loading import load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.training import Training


def sizes(name: str, **changes: object) -> SplitSizes:
    content = {**find_dataset(name), **changes}
    return published_sizes(normalize_dataset(DatasetSpec.model_validate(content)))


def test_splits_that_are_published_have_their_published_sizes() -> None:
    assert sizes("eyepacs") == SplitSizes(35_126, 10_906, 42_670)
    assert sizes("pneumoniamnist") == SplitSizes(4_708, 524, 624)


def test_splits_that_are_drawn_are_shares_of_what_they_are_drawn_from() -> None:
    cifar = normalize_dataset(DatasetSpec(reader="cifar", path="cifar-10", validation_fraction=0.1))
    assert published_sizes(cifar) == SplitSizes(45_000, 5_000, 10_000)
    assert sizes("ham10000", validation_fraction=0.2, test_fraction=0.1) == SplitSizes(7_010, 2_003, 1_002)
    assert sizes("imagenet", validation_fraction=0.01).test == 50_000


def test_all_that_was_not_drawn_from_is_tested_where_there_is_one_such_split_to_fill() -> None:
    tested = sizes("eyepacs", options={"public_as_validation": False}, validation_fraction=0.1)
    assert tested.test == 10_906 + 42_670


def test_a_part_of_the_training_split_leaves_the_others() -> None:
    part = sizes("pneumoniamnist", train_fraction=0.5)
    assert part == SplitSizes(2_354, 524, 624)


@pytest.mark.parametrize("changes", [{"partial": True}, {"classes": ["0", "1"], "referable_grade": "none"}])
def test_what_depends_on_the_copy_or_its_classes_is_not_known(changes: dict) -> None:
    assert sizes("eyepacs", **changes) == SplitSizes()


def test_steps_and_images_are_those_that_the_training_counts(tmp_path: Path) -> None:
    from trainables.architectures.stages import build_network

    for changes in ({"epochs": 1.5, "batch_size": 32}, {"steps": 7}, {"epochs": 2, "batch_size": 10_000}):
        spec = tiny_trial(training=changes)
        dataset = load_dataset(spec.dataset, data_root=None)
        n_train = len(dataset.train.labels)
        network = build_network(spec.architecture, n_outputs=2, channels=1)
        training = Training(network, dataset, spec.training, seed=0, device=torch.device("cpu"))
        assert total_steps(spec.training, n_train) == training.total_steps
        looked_at = training_images(spec, SplitSizes(n_train))
        assert looked_at == training.total_steps * training.batch_size


def test_epochs_of_an_unknown_split_are_not_known() -> None:
    assert training_images(tiny_trial(training={"epochs": 3}), SplitSizes()) is None
    assert training_images(tiny_trial(training={"steps": 3, "batch_size": 8}), SplitSizes()) == 24
