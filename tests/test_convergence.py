import math

import numpy as np
import pandas as pd
import pytest

from analysis.convergence import (
    Arrival,
    Threshold,
    area_under_learning_curve,
    arrival,
    choose_thresholds,
    kaplan_meier_median,
    measure_convergence,
)


def reached(*steps: int) -> list[Arrival]:
    return [Arrival(step, True) for step in steps]


def censored(*steps: int) -> list[Arrival]:
    return [Arrival(step, False) for step in steps]


def test_the_first_evaluation_at_the_threshold_counts():
    assert arrival([0, 10, 20, 40], [0.5, 0.8, 0.7, 0.9], threshold=0.8) == Arrival(10, True)


def test_a_trial_that_starts_above_the_threshold_needs_no_step():
    assert arrival([0, 10], [0.9, 0.9], threshold=0.8) == Arrival(0, True)


def test_a_trial_that_never_arrives_is_censored_at_its_last_evaluation():
    assert arrival([0, 10, 20], [0.5, 0.6, 0.7], threshold=0.8) == Arrival(20, False)


def test_nan_reaches_nothing():
    assert arrival([0, 10, 20], [math.nan, math.nan, 0.9], threshold=0.8) == Arrival(20, True)


def test_a_loss_arrives_from_above():
    assert arrival([0, 10, 20], [1.0, 0.4, 0.3], threshold=0.5, rising=False) == Arrival(10, True)


def test_no_evaluation_is_an_error():
    with pytest.raises(ValueError, match="at least one evaluation, got none"):
        arrival([], [], threshold=0.5)


def test_without_censoring_the_median_is_the_middle_trial():
    assert kaplan_meier_median(reached(30, 10, 20)) == 20


def test_median_follows_a_worked_kaplan_meier_example():
    # Survival: 5/6 after 6; 5/6 · 3/4 = 0.625 after 10 (one censored at 8); 0.625 · 1/2 after 22.
    assert kaplan_meier_median(reached(6, 10, 22) + censored(8, 15, 40)) == 22


def test_censored_trials_push_the_median_up_and_dropping_them_would_not():
    assert kaplan_meier_median(reached(10, 20) + censored(100, 100)) == 20
    assert kaplan_meier_median(reached(10, 20) + censored(100, 100, 100)) is None


def test_without_censoring_the_median_is_the_ordinary_one_for_any_number_of_trials():
    for n in range(1, 60):
        steps = [3 * i * i for i in range(n)]
        assert kaplan_meier_median(reached(*steps)) == np.median(steps)


def test_no_trial_has_no_median():
    assert kaplan_meier_median([]) is None


def test_area_of_a_constant_curve_is_its_value():
    assert area_under_learning_curve([0, 1, 10, 100], [0.7] * 4) == pytest.approx(0.7)


def test_area_uses_the_logarithm_of_the_steps():
    # log(1 + step) = 0, 1, 2 · ln 10: two trapezoids of equal width.
    assert area_under_learning_curve([0, 9, 99], [0.0, 1.0, 1.0]) == pytest.approx(0.75)


def test_area_rewards_early_learning():
    steps = [0, 10, 100, 1000]
    assert area_under_learning_curve(steps, [0.5, 0.9, 0.9, 0.9]) > area_under_learning_curve(
        steps, [0.5, 0.5, 0.5, 0.9]
    )


def test_area_of_one_evaluation_is_nan():
    assert math.isnan(area_under_learning_curve([5], [0.9]))
    assert math.isnan(area_under_learning_curve([0, 5], [math.nan, 0.9]))


@pytest.fixture
def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    trials = pd.DataFrame(
        [
            ("a", "digits", "random", "random"),
            ("b", "digits", "random", "random"),
            ("c", "digits", "pretrained", "pretrained"),
            ("d", "other", "pretrained", "pretrained"),
        ],
        columns=["trial_id", "dataset", "init", "init_kind"],
    )
    curves = {"a": [0.5, 0.8, 0.7], "b": [0.5, 0.6, 0.6], "c": [0.5, 0.9, 0.9], "d": [0.4, 0.5, 0.5]}
    rows = [
        (trial, "val_auroc", step, value)
        for trial, values in curves.items()
        for step, value in zip([0, 10, 20], values, strict=True)
    ]
    return trials, pd.DataFrame(rows, columns=["trial_id", "metric", "step", "value"])


def test_default_threshold_is_a_share_of_the_baselines_mean_best(study):
    chosen = choose_thresholds(*study, metric="val_auroc", baseline="random", given={})
    assert chosen["digits"].value == pytest.approx(0.99 * 0.7)
    assert chosen["digits"].origin == "0.99 × the mean best val_auroc of random"


def test_without_a_baseline_the_threshold_says_that_all_cells_made_it(study):
    chosen = choose_thresholds(*study, metric="val_auroc", baseline="random", given={})
    assert chosen["other"].value == pytest.approx(0.99 * 0.5)
    assert chosen["other"].origin == "0.99 × the mean best val_auroc of all cells"


def test_a_given_threshold_wins(study):
    chosen = choose_thresholds(*study, metric="val_auroc", baseline="random", given={"digits": 0.75})
    assert chosen["digits"] == Threshold(0.75, "given in the study file")


def test_a_metric_without_history_has_no_threshold(study):
    assert choose_thresholds(*study, metric="val_f1", baseline="random", given={}) == {}


def test_every_trial_is_measured_against_its_datasets_threshold(study):
    thresholds = {"digits": Threshold(0.65, ""), "other": Threshold(0.6, "")}
    measured = measure_convergence(*study, metric="val_auroc", thresholds=thresholds).set_index("trial_id")
    assert measured["steps"].to_dict() == {"a": 10, "b": 20, "c": 10, "d": 20}
    assert measured["reached"].to_dict() == {"a": True, "b": False, "c": True, "d": False}
    assert np.isfinite(measured["curve_area"]).all()


def test_no_trial_gives_an_empty_table_with_its_columns(study):
    trials, histories = study
    measured = measure_convergence(trials.iloc[:0], histories, metric="val_auroc", thresholds={})
    assert list(measured) == [
        "trial_id", "threshold", "steps", "reached", "images", "training_seconds", "curve_area"
    ]  # fmt: skip
