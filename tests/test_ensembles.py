import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.networks.ensembles import (
    CheckpointEnsemble,
    Member,
    NoEnsembleError,
    checkpoint_ensemble,
    choose_members,
    ensemble_rows,
)
from tests.conftest import tiny_trial
from tests.fake_records import record_of, spec_of
from trainables.architectures.stages import build_network
from trainables.augmentation import normalize_pixels, scale_pixels
from trainables.datasets.loading import Dataset, load_dataset
from trainables.record import TrialRecord
from trainables.scores import score

STEPS = (0, 1, 3, 10, 30)
VALUES = (0.5, 0.888, 0.9, 0.889, 0.9)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny_trial().dataset, data_root=None)


def record(steps=STEPS) -> TrialRecord:
    plain = record_of(spec_of("random", 0), checkpoints=[f"step-{step:07d}" for step in steps] + ["best"])
    refs = {
        name: replace(ref, step=int(name[5:]) if name[5:].isdigit() else 3)
        for name, ref in plain.checkpoints.items()
    }
    return replace(plain, checkpoints=refs)


def history(steps=STEPS, values=VALUES) -> pd.DataFrame:
    return pd.DataFrame({"step": steps, "value": values})


def state(name: str) -> dict[str, Tensor]:
    torch.manual_seed(int(name))
    return build_network("cbr_tiny", n_outputs=2, channels=1).module.state_dict()


def ensemble(dataset: Dataset, names: str, **options) -> CheckpointEnsemble:
    return checkpoint_ensemble(
        build_network("cbr_tiny", n_outputs=2, channels=1),
        [Member(name, int(name), 0.5) for name in names],
        read_weights=options.pop("read_weights", state),
        dataset=dataset,
        device=torch.device("cpu"),
        **options,
    )


def steps_of(members: tuple[Member, ...]) -> list[int]:
    return [member.step for member in members]


def test_the_best_of_the_series_are_chosen_best_first_and_the_earlier_of_equals():
    members = choose_members(record(), history(), metric="val_auroc", k=3)
    assert steps_of(members) == [3, 30, 10]
    assert members[0] == Member("step-0000003", 3, 0.9)


def test_of_a_loss_the_least_is_best():
    assert steps_of(choose_members(record(), history(), metric="val_loss", k=2)) == [1, 10]


def test_the_untrained_network_and_the_best_checkpoint_are_no_members():
    assert steps_of(choose_members(record(), history(), metric="val_auroc")) == [3, 30, 10, 1]


def test_checkpoints_that_were_not_validated_are_left_out():
    values = (0.5, 0.888, math.nan, 0.889, 0.9)
    assert steps_of(choose_members(record(), history(values=values), metric="val_auroc")) == [30, 10, 1]
    some = history(steps=(0, 10, 30), values=(0.5, 0.889, 0.9))
    assert steps_of(choose_members(record(), some, metric="val_auroc")) == [30, 10]


def test_checkpoints_that_have_hardly_learned_are_no_members():
    begun = history(values=(0.5, 0.6, 0.9, 0.7, 0.9))
    assert steps_of(choose_members(record(), begun, metric="val_auroc")) == [3, 30]
    alone = history(values=(0.5, 0.6, 0.9, 0.7, 0.8))
    text = r"within 2% of the best, got those of the steps 3 \(0.900\), 30 \(0.800\)"
    with pytest.raises(NoEnsembleError, match=text):
        choose_members(record(), alone, metric="val_auroc")


@pytest.mark.parametrize(
    ("steps", "values", "text"),
    [
        ((), (), "got 0 of 0 after step 0; keep a series of checkpoints"),
        ((0, 1), (0.5, 0.9), "with a val_auroc, got 1 of 1 after step 0"),
        ((0, 1, 3), (0.5, 0.9, math.nan), "got 1 of 2 after step 0"),
    ],
)
def test_a_trial_without_two_checkpoints_has_a_reason(steps, values, text):
    with pytest.raises(NoEnsembleError, match=text):
        choose_members(record(steps), history(steps, values), metric="val_auroc")


def test_one_checkpoint_is_no_ensemble(dataset):
    with pytest.raises(ValueError, match="k must be at least 2 checkpoints, got 1"):
        choose_members(record(), history(), metric="val_auroc", k=1)
    with pytest.raises(ValueError, match="at least 2 members, got 1"):
        ensemble(dataset, "1")


def test_an_ensemble_is_the_mean_of_the_probabilities_of_its_members(dataset):
    found = ensemble(dataset, "123")
    pixels = scale_pixels(torch.from_numpy(np.array(dataset.test.images)))
    pixels = normalize_pixels(pixels, mean=dataset.mean, sd=dataset.sd)
    parts = []
    for name in "123":
        network = build_network("cbr_tiny", n_outputs=2, channels=1).module.eval()
        network.load_state_dict(state(name))
        with torch.no_grad():
            parts.append(network(pixels).double().softmax(1).numpy())
    np.testing.assert_allclose(found.ensemble_scores, np.mean(parts, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.single_scores, parts[0], atol=1e-6)
    assert found.sample_ids.tolist() == dataset.test.sample_ids.tolist()
    labels = dataset.test.labels
    assert found.ensemble == score(dataset.task, found.ensemble_scores, labels)
    assert found.single == score(dataset.task, found.single_scores, labels) == found.of_members[0]
    assert len(found.of_members) == 3


def test_equal_members_are_as_good_as_one(dataset):
    found = ensemble(dataset, "11")
    assert found.ensemble == found.single


def test_the_order_of_members_does_not_change_the_ensemble(dataset):
    one, other = ensemble(dataset, "12"), ensemble(dataset, "21")
    np.testing.assert_allclose(one.ensemble_scores, other.ensemble_scores, rtol=1e-12)
    assert one.single != other.single


def test_fewer_images_are_a_seeded_choice(dataset):
    one, same = (ensemble(dataset, "12", n_images=20) for _ in range(2))
    other = ensemble(dataset, "12", n_images=20, seed=1)
    assert one.ensemble_scores.shape == (20, 2)
    assert one.sample_ids.tolist() == same.sample_ids.tolist() != other.sample_ids.tolist()
    whole = ensemble(dataset, "12")
    places = [whole.sample_ids.tolist().index(name) for name in one.sample_ids]
    np.testing.assert_allclose(one.ensemble_scores, whole.ensemble_scores[places], atol=1e-6)


def test_scores_that_are_not_finite_give_no_metrics(dataset):
    def broken(name: str) -> dict[str, Tensor]:
        factor = math.nan if name == "2" else 1.0
        return {k: t * factor if t.is_floating_point() else t for k, t in state(name).items()}

    found = ensemble(dataset, "12", read_weights=broken)
    assert all(math.isnan(value) for value in found.ensemble.values())
    assert not math.isnan(found.single["auroc"])


def test_rows_hold_one_metric_each(dataset):
    rows = ensemble_rows(ensemble(dataset, "12"))
    assert rows["metric"].tolist() == ["auroc", "auprc", "accuracy", "f1", "f1_micro"]
    assert set(rows["n_members"]) == {2}
    assert set(rows["n_images"]) == {len(dataset.test.labels)}
