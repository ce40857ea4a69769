import math
from functools import partial

import pandas as pd
import pytest
import torch

from analysis.jobs.bench import Bench
from analysis.jobs.schedule import one_after_another, outcomes
from analysis.jobs.similarity import SIMILARITY_COLUMNS, Settings, similarity_jobs, similarity_rows
from analysis.jobs.work import do
from analysis.load import StudyTrials, load_trials
from analysis.networks.comparisons import (
    ACROSS_ARCHITECTURES,
    ALONG_TRAINING,
    AT_START,
    BEFORE_AFTER,
    PRETRAINED_RANDOM,
    RANDOM_RANDOM,
    STAGE_BY_STAGE,
    TOP_TWO,
    Comparison,
    plan_comparisons,
)
from analysis.tables.table import MEASURE_NAMES
from tests.fake_records import FakeReader, record_of, small_study, spec_of

SETTINGS = Settings(probe_images=80, positions_per_image=4)


def trials_of(*, seeds, inits=("random", "pretrained")) -> StudyTrials:
    return load_trials(FakeReader(small_study(seeds=seeds, inits=inits)), "fake")


def pairs(comparisons: list[Comparison], kind: str) -> list[tuple[int, int]]:
    return [(c.x.seed, c.y.seed) for c in comparisons if c.kind == kind]


def compare(reader: FakeReader, comparisons: list[Comparison] | None = None, **options) -> pd.DataFrame:
    trials = load_trials(reader, "fake")
    if comparisons is None:
        kinds = options.pop("kinds", (BEFORE_AFTER, PRETRAINED_RANDOM, RANDOM_RANDOM))
        planned = plan_comparisons(trials.finished, trials.records)
        comparisons = [comparison for comparison in planned if comparison.kind in kinds]
    settings = options.pop("settings", SETTINGS)
    bench = Bench(reader, None, torch.device("cpu"))
    found = outcomes(
        similarity_jobs(comparisons, trials, settings),
        perform=one_after_another(partial(do, bench=bench)),
        cache=None,
        **options,
    )
    return similarity_rows(comparisons, found, settings)


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
    planned = plan_comparisons(trials.finished)
    assert {c.kind for c in planned} > {BEFORE_AFTER, ACROSS_ARCHITECTURES}
    for comparison in planned:
        if comparison.kind == ACROSS_ARCHITECTURES:
            both = [settings[side.trial_id] for side in (comparison.x, comparison.y)]
            assert comparison.setting == " – ".join(both)
            assert both[0] != both[1]
            continue
        assert settings[comparison.x.trial_id] == settings[comparison.y.trial_id] == comparison.setting
        if comparison.kind != BEFORE_AFTER:
            assert comparison.x.seed != comparison.y.seed


def test_rows_hold_every_stage_and_measure_with_their_noise_floor():
    rows = compare(FakeReader(small_study(seeds=(0, 1), inits=("random", "pretrained"))))
    assert list(rows) == list(SIMILARITY_COLUMNS)
    assert (rows["reason"] == "").all()
    assert set(rows["stage"]) == {"conv1", "conv2", "conv3", "conv4", "head", TOP_TWO}
    assert set(rows["measure"]) == set(MEASURE_NAMES)
    assert len(rows) == (4 + 2 + 1) * 6 * len(MEASURE_NAMES)
    # Unbiased, debiased CKA of nearly unrelated networks can be a little below 0.
    assert rows["value"].between(-0.1, 1).all()
    assert rows["noise_floor"].between(0, 1).all()
    assert set(rows["n_images"]) == {80}
    # A network of another seed is less alike than the same network before a little training.
    means = rows[rows["stage"] == "conv2"].groupby(["kind", "measure"])["value"].mean()
    for measure in ("svcca", "mean_cca", "linear_cka"):
        assert means[BEFORE_AFTER, measure] > means[RANDOM_RANDOM, measure]


def test_pairs_are_also_compared_at_initialization():
    planned = plan_comparisons(trials_of(seeds=(0, 1)).finished)
    for kind in (PRETRAINED_RANDOM, RANDOM_RANDOM):
        assert pairs(planned, kind) == pairs(planned, kind + AT_START)
    starts = [c for c in planned if c.kind.endswith(AT_START)]
    assert {(c.x.checkpoint, c.y.checkpoint) for c in starts} == {("initial", "initial")}


def test_the_first_pair_of_each_kind_is_compared_stage_by_stage():
    reader = FakeReader(small_study(seeds=(0, 1, 2), inits=("random", "pretrained")))
    rows = compare(reader, kinds=(STAGE_BY_STAGE,))
    assert set(rows["measure"]) == {"svcca", "linear_cka"}
    assert len(rows) == 2 * 4 * 4 * 2
    assert (rows["reason"] == "").all()
    # CKA finds the stages that correspond; with 80 images SVCCA is mostly noise (Kornblith et al. 2019).
    cka = rows[rows["measure"] == "linear_cka"]
    assert cka[cka["stage"] == cka["stage_y"]]["value"].mean() > cka["value"].mean() + 0.1


def test_networks_are_compared_with_their_end_along_the_training():
    record = record_of(spec_of("random", 0), checkpoints=("initial", "step-0000010", "step-0000100", "final"))
    planned = plan_comparisons(load_trials(FakeReader([record]), "fake").finished, {record.trial_id: record})
    along = [(c.x.checkpoint, c.y.checkpoint) for c in planned if c.kind == ALONG_TRAINING]
    assert along == [("step-0000010", "final"), ("step-0000100", "final")]


def test_two_architectures_are_compared_by_all_their_stages():
    records = [record_of(spec_of("random", 0, architecture=name)) for name in ("cbr_large_t", "cbr_tiny")]
    settings = Settings(probe_images=300, positions_per_image=4)
    rows = compare(FakeReader(records), kinds=(ACROSS_ARCHITECTURES,), settings=settings)
    assert len(rows) == 5 * 4 * 2
    assert rows["architecture"].unique().tolist() == ["cbr_large_t – cbr_tiny"]
    # The last map of the larger network has one position, on which all stages are compared.
    assert (rows["n_samples"] == rows["n_images"]).all()
    assert (rows[rows["measure"] == "linear_cka"]["reason"] == "").all()
    assert "more samples than kept directions" in rows[rows["measure"] == "svcca"]["reason"].iloc[-1]


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
