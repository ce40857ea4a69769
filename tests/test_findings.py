import math

import pandas as pd

from analysis.load import load_trials
from analysis.networks.comparisons import BEFORE_AFTER, PRETRAINED_RANDOM, RANDOM_RANDOM, TOP_TWO
from analysis.report.findings import (
    change_finding,
    find,
    performance_finding,
    similarity_finding,
    speed_finding,
)
from tests.fake_records import FakeReader, record_of, spec_of


def finished(values: dict[str, dict[int, float]]) -> pd.DataFrame:
    records = [
        record_of(spec_of(init, seed), metrics={"test_auroc": value})
        for init, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return load_trials(FakeReader(records), "fake").finished


def performance(values: dict[str, dict[int, float]], baseline: str = "random") -> str:
    return performance_finding(finished(values), primary="test_auroc", baseline=baseline)


def test_a_clear_lead_is_told_with_its_interval():
    text = performance({"random": {0: 0.80, 1: 0.81, 2: 0.82}, "pretrained": {0: 0.90, 1: 0.91, 2: 0.93}})
    assert text == (
        "Best mean test AUROC: pretrained, 0.9133 ± 0.0153 (3 seeds). It differs from random by +0.1033 "
        "(95 % interval +0.0890 to +0.1177, 3 paired seeds): the interval, which is not "
        "corrected for other comparisons, excludes zero."
    )


def test_a_lead_within_the_noise_is_not_claimed():
    text = performance({"random": {0: 0.80, 1: 0.90, 2: 0.85}, "pretrained": {0: 0.90, 1: 0.82, 2: 0.87}})
    assert text.startswith("Best mean test AUROC: pretrained")
    assert text.endswith("the interval includes zero.")


def test_one_seed_claims_nothing():
    text = performance({"random": {0: 0.8}, "pretrained": {0: 0.9}})
    assert text.endswith("in one seed; one seed tells nothing about the spread.")


def test_where_the_baseline_is_best_the_runner_up_is_compared():
    text = performance({"random": {0: 0.95, 1: 0.96}, "pretrained": {0: 0.9, 1: 0.92}, "1": {0: 0.8, 1: 0.8}})
    assert text.startswith("Best mean test AUROC: random")
    assert "The runner-up, pretrained, differs from random by −0.0450" in text


def test_without_baseline_no_difference_is_told():
    text = performance({"pretrained": {0: 0.9}, "1": {0: 0.8}})
    assert text.endswith("There is no random to compare with.")


def test_without_a_shared_seed_no_difference_is_told():
    text = performance({"random": {0: 0.8}, "pretrained": {1: 0.9}})
    assert text.endswith("It shares no seed with random, so no paired difference can be given.")


def test_a_single_cell_is_only_described():
    assert (
        performance({"random": {0: 0.8, 1: 0.9}})
        == "Only random was trained: test AUROC 0.8500 ± 0.0707 (2 seeds)."
    )


def test_metrics_that_could_not_be_computed_are_told():
    assert performance({"random": {0: math.nan}}) == "No trial has a test AUROC."


def test_for_a_loss_the_smallest_is_best():
    rows = finished({"random": {0: 0.8}, "pretrained": {0: 0.9}}).rename(columns={"test_auroc": "test_loss"})
    assert performance_finding(rows, primary="test_loss", baseline="random").startswith(
        "Best mean test loss: random"
    )


def cells(medians: dict[str, float | None]) -> pd.DataFrame:
    rows = [("s", init, "val_auroc", 0.9, 3 if m else 1, 3, m) for init, m in medians.items()]
    columns = ["setting", "init", "metric", "threshold", "n_reached", "n_trials", "median_steps"]
    return pd.DataFrame(rows, columns=columns).astype({"median_steps": float})


def speed(medians: dict[str, float | None]) -> str:
    rows = finished({"random": {0: 0.8}, "pretrained": {0: 0.9}})
    return speed_finding(cells(medians), rows, baseline="random")


def test_the_fastest_is_named_beside_the_baseline():
    assert speed({"random": 1300, "pretrained": 100}) == (
        "val_auroc ≥ 0.9000 is reached first by pretrained, after 100 steps (median; 3 of 3 seeds); "
        "random takes 1,300 steps (median; 3 of 3 seeds)."
    )


def test_ties_are_named_together():
    assert "reached first by random and pretrained, after 100" in speed({"random": 100, "pretrained": 100})


def test_a_baseline_that_does_not_arrive_is_told_so():
    assert speed({"random": None, "pretrained": 100}).endswith(
        "random does not in half of its seeds (1 of 3 seeds)."
    )


def test_no_arrival_at_all_is_told():
    assert speed({"random": None}) == "In no cell did half of the seeds reach val_auroc ≥ 0.9000."


def test_no_measurement_gives_no_sentence():
    assert speed_finding(pd.DataFrame(), finished({"random": {0: 0.8}}), baseline="random") == ""


def pairs(mixed: list[float], same: list[float]) -> pd.DataFrame:
    rows = [(PRETRAINED_RANDOM, value) for value in mixed] + [(RANDOM_RANDOM, value) for value in same]
    return pd.DataFrame(rows, columns=["kind", "value"]).assign(
        measure="svcca", stage=TOP_TWO, noise_floor=0.2
    )


def test_similarity_below_every_random_pair_is_a_finding():
    text = similarity_finding(pairs([0.40, 0.42, 0.41], [0.55, 0.56, 0.60]))
    assert text == (
        "Over the top two stages, SVCCA of a pretrained with a random network is 0.41, of two random "
        "networks 0.57 (3 and 3 pairs, noise floor 0.20); lower than every random pair's: a hint "
        "that pretrained networks end elsewhere."
    )


def test_overlapping_similarity_is_no_finding():
    assert "no difference is visible" in similarity_finding(pairs([0.40, 0.60], [0.50, 0.55]))


def test_one_pair_each_is_too_few():
    assert "too few to tell them apart" in similarity_finding(pairs([0.4], [0.5]))


def test_similarity_without_random_pairs_gives_no_sentence():
    assert similarity_finding(pairs([0.4], [])) == ""


def test_the_most_and_least_changed_stage_are_named():
    rows = pd.DataFrame({"stage": ["conv1", "conv2", "conv3", "head"], "value": [0.8, 0.95, 0.3, 0.1]})
    rows = rows.assign(kind=BEFORE_AFTER, measure="svcca", init_x="random")
    assert change_finding(rows) == (
        "From random weights, training changes conv3 the most (SVCCA with the start 0.30) "
        "and conv2 the least (0.95)."
    )


def test_no_finished_trial_gives_no_finding():
    empty = load_trials(FakeReader([]), "fake").finished
    assert find(empty, pd.DataFrame(), pd.DataFrame(), primary="test_auroc", baseline="random") == []
