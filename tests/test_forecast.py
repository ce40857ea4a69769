"""How long a run still takes: the estimate, corrected by what its trials took so far."""

import pytest

from study.cost.estimate import Announced, Estimate
from study.cost.forecast import Forecast
from study.cost.speed import Measurements
from study.cost.wall_time import WallTime, keep_wall_time, last_wall_time
from study.tracking import open_study_run
from tests.conftest import tiny_trial
from tests.test_estimate import ONE_CPU, SECONDS, make, measured, no_cluster, plan_of, trial
from trainables.record import Store

__all__ = ["measured", "no_cluster"]


@pytest.fixture
def expected(measured: Measurements) -> Estimate:
    return make(plan_of(trial("source"), *(trial(f"t{i}", "source", seed=i) for i in range(3))), measured)


def forecast_of(estimate: Estimate) -> Forecast:
    made = Forecast.of(estimate)
    assert made is not None
    return made


def test_at_the_start_all_is_left(expected: Estimate) -> None:
    forecast = forecast_of(expected)
    assert forecast.seconds_left({}) == pytest.approx(3 * SECONDS)
    assert forecast.wall_s == pytest.approx(3 * SECONDS + 7.0)


def test_what_took_longer_than_estimated_makes_the_rest_longer(expected: Estimate) -> None:
    forecast = forecast_of(expected)
    forecast.note_done("source", 2 * SECONDS)
    assert forecast.ratio == pytest.approx(2)
    assert forecast.seconds_left({}) == pytest.approx(2 * 2 * SECONDS)


def test_trials_in_flight_count_in_part_and_their_children_wait_for_them(expected: Estimate) -> None:
    forecast = forecast_of(expected)
    assert forecast.seconds_left({"source": 0.5}) == pytest.approx(2.5 * SECONDS)
    forecast.note_done("source", SECONDS)
    assert forecast.seconds_left({"t0": 0.25, "t1": 0.75}) == pytest.approx(1.25 * SECONDS)


def test_trials_of_a_stack_take_one_worker(measured: Measurements) -> None:
    forecast = forecast_of(make(plan_of(*(trial(f"t{i}", seed=i) for i in range(4))), measured, at_most=1))
    running = {"t0": 0.5, "t1": 0.5}
    assert forecast.seconds_left(running) == pytest.approx(1.5 * SECONDS), "a worker each"
    assert forecast.seconds_left(running, n_workers=1) == pytest.approx(3 * SECONDS)


def test_what_will_not_run_is_not_waited_for(expected: Estimate) -> None:
    forecast = forecast_of(expected)
    assert forecast.seconds_left({}, dropped=["t0", "t1", "t2"]) == pytest.approx(SECONDS)
    assert forecast.seconds_left({}, dropped=list(expected.trials)) == 0.0


def test_a_run_of_unknown_length_has_no_forecast(measured: Measurements) -> None:
    unknown = plan_of(trial("a", spec=tiny_trial(architecture="cbr_small"), seed=0))
    assert Forecast.of(make(unknown, measured)) is None
    assert Forecast.of(make(plan_of(trial("a", seed=0)), measured, at_most=None)) is None


def test_a_trial_that_was_not_known_takes_the_place_of_an_announced_one(measured: Measurements) -> None:
    announced = [Announced(tiny_trial(), ONE_CPU, {}, 2)]
    forecast = forecast_of(make(plan_of(), measured, announced=announced, at_most=1))
    assert forecast.seconds_left({"drawn": 0.5}) == pytest.approx(1.5 * SECONDS)
    forecast.note_done("drawn", SECONDS)
    assert forecast.seconds_left({"next": 0.5}) == pytest.approx(0.5 * SECONDS)
    assert forecast.seconds_left({"next": 0.5, "one more": 0.1}) == pytest.approx(0.5 * SECONDS)


def test_how_far_off_a_run_was_is_kept_with_its_study(store: Store) -> None:
    run = open_study_run(store, "s")
    assert last_wall_time(run) is None
    keep_wall_time(run, WallTime(100.0, 112.0))
    assert last_wall_time(run) == WallTime(100.0, 112.0)
    assert WallTime(100.0, 112.0).worded() == "predicted 2 min, took 2 min (+12%)"
    assert WallTime(60.0, 45.0).worded() == "predicted 60 s, took 45 s (-25%)"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"predicted_s": "x", "measured_s": 1}', '{"predicted_s": NaN, "measured_s": 1}'],
)
def test_an_edited_tag_counts_as_absent(store: Store, text: str) -> None:
    run = open_study_run(store, "s")
    run.set_tag("wall_time", text)
    assert last_wall_time(run) is None
