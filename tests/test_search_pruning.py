"""Rules by which a search stops settings, against Optuna's own pruners and by their invariances."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from study.search.pruning import Rungs
from study.search.section import PruningSection

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def rungs(kind: str, *, factor: int = 3, others: int = 4, rises: bool = True) -> Rungs:
    section = {"kind": kind, "first_images": 100, "factor": factor, "others": others}
    return Rungs(PruningSection.model_validate(section), rises=rises)


def goes_on(rule: Rungs, values: list[float], number: int) -> bool:
    return rule.why_not(str(number), {str(i): {100: value} for i, value in enumerate(values)}) is None


def test_rungs_are_multiples_below_the_end() -> None:
    assert list(rungs("asha").up_to(1000)) == [100, 300, 900]
    assert list(rungs("asha").up_to(900)) == [100, 300]
    assert list(Rungs(None, rises=True).up_to(1000)) == []


def test_the_end_of_a_training_is_no_rung() -> None:
    evaluations = [(100, 0.5), (400, 0.9)]
    assert rungs("asha").passed(evaluations) == {100: 0.5, 300: 0.9}
    assert rungs("asha").passed(evaluations, end=400) == {100: 0.5}


def test_a_rung_is_judged_by_the_first_evaluation_at_or_after_it() -> None:
    rule = rungs("asha")
    assert rule.passed([(0, 0.5), (90, 0.6), (110, 0.7), (290, 0.8), (1000, 0.9)]) == {
        100: 0.7,
        300: 0.9,
        900: 0.9,
    }


@given(values=VALUES, factor=st.integers(2, 4))
def test_successive_halving_decides_as_optuna_does(values: list[float], factor: int) -> None:
    # Optuna judges a trial once, when it comes; so here each is judged among those that came before it.
    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor),
    )
    for number, value in enumerate(values):
        trial = study.ask()
        trial.report(value, step=1)
        ours = goes_on(rungs("asha", factor=factor), values[: number + 1], number)
        assert ours == (not trial.should_prune())


@given(values=VALUES.filter(lambda values: len(values) > 5))
def test_median_stopping_decides_as_optuna_does(values: list[float]) -> None:
    study = optuna.create_study(direction="maximize")
    for value in values[:-1]:
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, intermediate_values={1: value}))
    trial = study.ask()
    trial.report(values[-1], step=1)
    frozen = study.trials[-1]
    theirs = optuna.pruners.MedianPruner(n_startup_trials=4).prune(study, frozen)
    assert goes_on(rungs("median"), values, len(values) - 1) == (not theirs)


@given(values=VALUES, kind=st.sampled_from(["median", "asha"]), data=st.data())
def test_the_order_of_the_others_and_the_sign_of_the_metric_do_not_matter(
    values: list[float], kind: str, data: st.DataObject
) -> None:
    mine, others = values[0], values[1:]
    expected = goes_on(rungs(kind), values, 0)
    assert goes_on(rungs(kind), [mine, *data.draw(st.permutations(others))], 0) == expected
    assert goes_on(rungs(kind, rises=False), [-value for value in values], 0) == expected


@given(values=VALUES, kind=st.sampled_from(["median", "asha"]))
def test_the_best_always_goes_on(values: list[float], kind: str) -> None:
    assert goes_on(rungs(kind), values, values.index(max(values)))


def test_one_that_was_stopped_goes_on_when_worse_ones_have_come() -> None:
    values = [0.9, 0.8, 0.1]
    assert not goes_on(rungs("asha"), values, 1)
    assert goes_on(rungs("asha"), [*values, 0.2, 0.3, 0.1], 1)


def test_median_stops_nobody_before_enough_have_come() -> None:
    assert goes_on(rungs("median", others=4), [0.1, 0.9, 0.9, 0.9], 0)
    assert not goes_on(rungs("median", others=3), [0.1, 0.9, 0.9, 0.9], 0)


@pytest.mark.parametrize("kind", ["median", "asha"])
def test_nan_is_the_worst(kind: str) -> None:
    values = [math.nan, *[0.1] * 5]
    assert not goes_on(rungs(kind), values, 0)
    assert goes_on(rungs(kind), [0.1, *[math.nan] * 5], 0)


def test_it_is_judged_at_its_last_rung_among_those_that_got_there() -> None:
    reached = {
        "0": {100: 0.1, 300: 0.9},
        "1": {100: 0.9},
        "2": {100: 0.8, 300: 0.95},
        "3": {100: 0.5, 300: 0.2},
    }
    assert rungs("asha").why_not("2", reached) is None
    assert rungs("asha").why_not("0", reached) == "0.9 after 300 images is not among the best 1 of 3"
    few = rungs("median", others=2)
    assert few.why_not("3", reached) == "0.2 after 300 images is worse than the median of the 2 others"
    assert few.why_not("7", reached) is None
