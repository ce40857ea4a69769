import math

import pandas as pd
import pytest
import torch

from analysis.load import StudyTrials, load_trials
from analysis.networks.comparisons import (
    BEFORE_AFTER,
    PRETRAINED_RANDOM,
    RANDOM_RANDOM,
    SIMILARITY_COLUMNS,
    TOP_TWO,
    Comparison,
    Settings,
    compare_networks,
    plan_comparisons,
)
from tests.fake_records import FakeReader, record_of, small_study, spec_of

SETTINGS = Settings(probe_images=80, positions_per_image=4)


def trials_of(*, seeds, inits=("random", "pretrained")) -> StudyTrials:
    return load_trials(FakeReader(small_study(seeds=seeds, inits=inits)), "fake")


def pairs(comparisons: list[Comparison], kind: str) -> list[tuple[int, int]]:
    return [(c.x.seed, c.y.seed) for c in comparisons if c.kind == kind]


def compare(reader: FakeReader, comparisons: list[Comparison] | None = None, **options) -> pd.DataFrame:
    trials = load_trials(reader, "fake")
    return compare_networks(
        plan_comparisons(trials.finished) if comparisons is None else comparisons,
        trials,
        reader=reader,
        data_root=None,
        settings=options.pop("settings", SETTINGS),
        device=torch.device("cpu"),
        **options,
    )


def test_every_trained_network_is_compared_with_its_beginning():
    planned = plan_comparisons(trials_of(seeds=(0, 1), inits=("random", "2", "pretrained")).finished)
    chosen = [c for c in planned if c.kind == BEFORE_AFTER]
    assert len(chosen) == 6
    assert all(c.x.trial_id == c.y.trial_id for c in chosen)
    assert {(c.x.checkpoint, c.y.checkpoint) for c in chosen} == {("initial", "final")}


def test_each_seed_is_paired_with_the_next_in_a_circle():
    planned = plan_comparisons(trials_of(seeds=(0, 1, 2, 3)).finished)
    circle = [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert sorted(pairs(planned, PRETRAINED_RANDOM)) == sorted(circle)
    assert sorted(pairs(planned, RANDOM_RANDOM)) == sorted(circle)


def test_two_seeds_make_one_random_pair():
    planned = plan_comparisons(trials_of(seeds=(0, 1)).finished)
    assert pairs(planned, RANDOM_RANDOM) == [(0, 1)]
    assert sorted(pairs(planned, PRETRAINED_RANDOM)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("seeds", "inits"), [((0,), ("random", "pretrained")), ((0, 1), ("pretrained", "2")), ((), ())]
)
def test_without_two_seeds_or_without_random_only_before_and_after_remain(seeds, inits):
    planned = plan_comparisons(trials_of(seeds=seeds, inits=inits).finished)
    assert {c.kind for c in planned} <= {BEFORE_AFTER}
    assert len(planned) == len(seeds) * len(inits)


def test_pairs_never_share_a_seed_and_never_cross_settings():
    records = small_study() + [
        record_of(spec_of(init, seed, architecture="cbr_small"))
        for init in ("random", "pretrained")
        for seed in (0, 5)
    ]
    trials = load_trials(FakeReader(records), "fake")
    settings = trials.table.set_index("trial_id")["setting"]
    for comparison in plan_comparisons(trials.finished):
        assert settings[comparison.x.trial_id] == settings[comparison.y.trial_id] == comparison.setting
        if comparison.kind != BEFORE_AFTER:
            assert comparison.x.seed != comparison.y.seed


def test_rows_hold_every_stage_and_measure_with_their_noise_floor():
    rows = compare(FakeReader(small_study(seeds=(0, 1), inits=("random", "pretrained"))))
    assert list(rows) == list(SIMILARITY_COLUMNS)
    assert (rows["reason"] == "").all()
    assert set(rows["stage"]) == {"conv1", "conv2", "conv3", "conv4", "head", TOP_TWO}
    assert set(rows["measure"]) == {"svcca", "mean_cca", "linear_cka"}
    assert len(rows) == (4 + 2 + 1) * 6 * 3
    assert rows["value"].between(0, 1).all()
    assert rows["noise_floor"].between(0, 1).all()
    assert set(rows["n_images"]) == {80}
    # A network of another seed is less alike than the same network before a little training.
    means = rows[rows["stage"] == "conv2"].groupby(["kind", "measure"])["value"].mean()
    for measure in ("svcca", "mean_cca", "linear_cka"):
        assert means[BEFORE_AFTER, measure] > means[RANDOM_RANDOM, measure]


def test_top_two_is_the_mean_over_the_last_two_backbone_stages():
    rows = compare(FakeReader(small_study(seeds=(0,), inits=("random",))))
    values = rows[rows["measure"] == "svcca"].set_index("stage")["value"]
    assert values[TOP_TWO] == pytest.approx((values["conv3"] + values["conv4"]) / 2)


def test_a_damaged_checkpoint_is_listed_and_the_rest_goes_on():
    records = small_study(seeds=(0, 1), inits=("random",))
    damaged = records[0]
    rows = compare(FakeReader(records, damaged=[(damaged.trial_id, "initial")]))
    missing = rows[rows["reason"] != ""]
    assert missing["kind"].tolist() == [BEFORE_AFTER]
    assert missing["seed_x"].tolist() == [0]
    assert missing["reason"].tolist() == [
        "cbr_tiny · random · digits 5–9 · seed 0: checkpoint 'initial' cannot be used: truncated"
    ]
    assert missing["value"].isna().all()
    assert set(rows[rows["reason"] == ""]["kind"]) == {BEFORE_AFTER, RANDOM_RANDOM}


def test_a_checkpoint_that_was_not_kept_is_listed():
    record = record_of(spec_of("random", 0), checkpoints=("final",))
    rows = compare(FakeReader([record]))
    assert "checkpoint 'initial'" in rows["reason"].item()


def test_a_checkpoint_of_another_network_is_listed():
    class Confused(FakeReader):
        def weights(self, record, checkpoint):
            return {"stranger": torch.zeros(1)}

    rows = compare(Confused([record_of(spec_of("random", 0))]))
    assert (
        rows["reason"]
        .item()
        .startswith(
            "cbr_tiny · random · digits 5–9 · seed 0: checkpoint 'initial' does not fit the network: "
        )
    )


def test_a_network_that_diverged_is_listed():
    class Diverged(FakeReader):
        def weights(self, record, checkpoint):
            state = super().weights(record, checkpoint)
            return {key: value * math.nan if key == "head.bias" else value for key, value in state.items()}

    rows = compare(Diverged([record_of(spec_of("random", 0))]))
    assert (
        rows["reason"].item() == "activations must be finite, got NaN or infinity; the network has diverged"
    )


def test_a_dataset_that_is_not_here_is_listed_once_per_comparison():
    dataset = {"reader": "medmnist", "path": "pneumoniamnist.npz", "size_px": 28}
    records = [record_of(spec_of("random", seed, dataset=dataset)) for seed in (0, 1)]
    rows = compare(FakeReader(records))
    assert len(rows) == 3
    assert rows["reason"].str.contains("set TRANSFUSION_DATA to the folder that holds it").all()
    assert rows["n_images"].isna().all()


def test_too_few_samples_are_listed_per_stage():
    rows = compare(
        FakeReader([record_of(spec_of("random", 0))]),
        settings=Settings(probe_images=30, positions_per_image=1),
    )
    cca = rows[rows["measure"] == "mean_cca"].set_index("stage")
    assert cca.loc["conv1", "reason"].startswith(
        "conv1: mean CCA needs more samples than units, got n_samples=30"
    )
    assert "conv4: mean CCA needs more samples" in cca.loc[TOP_TWO, "reason"]
    assert math.isnan(cca.loc["conv1", "value"])
    assert cca.loc["head", "reason"] == ""
    assert (rows[rows["measure"] == "linear_cka"]["reason"] == "").all()


def test_nothing_to_compare_gives_an_empty_table_with_its_columns():
    rows = compare(FakeReader([]))
    assert rows.empty
    assert list(rows) == list(SIMILARITY_COLUMNS)


def test_results_are_reproducible():
    reader = FakeReader(small_study(seeds=(0, 1), inits=("random",)))
    pd.testing.assert_frame_equal(compare(reader), compare(reader))


def test_progress_is_told():
    told = []
    compare(
        FakeReader(small_study(seeds=(0,), inits=("random", "2"))),
        progress=lambda what, done, of: told.append((what, done, of)),
    )
    assert told == [("comparing networks", done, 2) for done in range(3)]
