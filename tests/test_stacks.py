"""Which trials a study trains together, how many at once, and what that is said to gain."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config import parse_study
from study.cost.screens import stack_lines
from study.cost.setting import setting_label, setting_of
from study.cost.speed import Measurements
from study.cost.splits import dataset_key
from study.grid import Resources
from study.plan import PlanEntry
from study.sections import Study
from study.stacks import (
    LARGEST,
    Companions,
    StackLimits,
    best_size,
    sizes_to_measure,
    stack_limits,
    stack_uses,
)
from tests.conftest import tiny_trial
from tests.test_estimate import SECONDS, make, no_cluster, plan_of, trial
from tests.test_speed import probed
from trainables.hardware import cpu_model
from trainables.probes import SizesProbe, StackProbe

__all__ = ["no_cluster"]

TRAINING_SECONDS = 192 / 64  # of `SECONDS`


def study_of(stack: object) -> Study:
    return parse_study(
        "name: s\ntrial: {architecture: cbr_tiny, dataset: digits_5_9, training: {steps: 1}}\n"
        f"resources: {{stack: {stack}}}\n"
    )


def stacked(members: int, gain: float | None, **changes: object) -> StackProbe:
    probe = StackProbe(
        setting=setting_of(tiny_trial()) or "",
        label=setting_label(tiny_trial()),
        hardware=cpu_model(),
        is_gpu=False,
        threads=1,
        at_once=1,
        members=members,
        alone_s=1.0,
        stacked_s=1 / gain if gain else None,
        why_not=None if gain else "dropout",
        series="first",
    )
    return replace(probe, **changes)


def knowing(*stacks: StackProbe) -> Measurements:
    sizes = SizesProbe(dataset_key(tiny_trial().dataset), "digits", 100, 10, 20)
    alone = probed(hardware=cpu_model(), train_s=1 / 64, score_s=1 / 20, overhead_s=3.0, start_s=7.0)
    return Measurements([], [sizes, alone, *stacks])


SEEDS = [trial(f"t{seed}", seed=seed, spec=tiny_trial(seed=seed)) for seed in range(8)]


def test_the_smallest_stack_that_is_nearly_the_fastest_is_best() -> None:
    assert best_size({}) == 1
    assert best_size({2: 0.9, 4: 0.4}) == 1
    assert best_size({2: 1.04}) == 1, "not worth it"
    assert best_size({2: 1.8, 4: 3.0, 8: 3.1, 16: 2.0}) == 4
    assert best_size({2: 0.8, 4: 1.2, 8: 0.1}) == 4


@given(st.dictionaries(st.integers(2, 64), st.floats(0, 100)))
def test_the_best_size_loses_little_and_no_smaller_one_does(gains: dict[int, float]) -> None:
    best, all_of_them = best_size(gains), {1: 1.0, **gains}
    assert all_of_them[best] * 1.05 >= max(all_of_them.values())
    assert all(gain * 1.05 < max(all_of_them.values()) for size, gain in all_of_them.items() if size < best)


def test_a_number_is_taken_at_its_word_and_auto_takes_what_was_measured() -> None:
    knows = knowing(stacked(2, 1.5), stacked(4, 2.5))
    for written, known, most in ((8, knows, 8), ("auto", knows, 4), ("auto", knowing(), 1)):
        limits = stack_limits(SEEDS[0], study_of(written), known)
        assert limits is not None
        assert limits.size(100) == most
    assert stack_limits(SEEDS[0], study_of(1), knows) is None


def test_what_was_measured_elsewhere_or_of_other_settings_does_not_count() -> None:
    for other in ({"hardware": "other"}, {"threads": 2}, {"is_gpu": True}, {"setting": "other"}):
        knows = knowing(stacked(4, 2.5, **other))
        limits = stack_limits(SEEDS[0], study_of("auto"), knows)
        assert limits is not None
        assert limits.size(100) == 1


def test_what_was_measured_last_counts_and_nothing_from_before() -> None:
    before = [stacked(2, 1.2), stacked(4, 1.6), stacked(8, 2.0)]
    limits = stack_limits(SEEDS[0], study_of("auto"), knowing(*before))
    assert limits is not None
    assert limits.size(100) == 8
    later = [stacked(2, 0.5, series="second"), stacked(4, 0.4, series="second")]
    limits = stack_limits(SEEDS[0], study_of("auto"), knowing(*before, *later))
    assert limits is not None
    assert limits.size(100) == 1
    assert limits.gains == {2: 0.5, 4: 0.4}


def test_auto_takes_no_stack_that_is_slower_only_because_the_best_does_not_fill_the_slots() -> None:
    knows, study = knowing(stacked(2, 0.8), stacked(4, 1.2)), study_of("auto")

    def limits_of(entry: PlanEntry) -> StackLimits | None:
        return stack_limits(entry, study, knows)

    limits = {entry.trial_id: limits_of(entry) for entry in SEEDS}
    known = {trial_id: limit for trial_id, limit in limits.items() if limit is not None}
    assert [stack_uses(known, n_slots=n)["t0"].members for n in (1, 2, 4)] == [4, 4, 1]
    companions = Companions(limits_of)
    assert [len(companions.of(SEEDS[0], SEEDS[1:], n_free=n)) for n in (1, 2, 4)] == [3, 3, 0]
    assert companions.may_have_any(SEEDS[0])
    companions.refuse("t0")
    assert not companions.may_have_any(SEEDS[0])
    assert companions.of(SEEDS[1], [SEEDS[0], *SEEDS[2:5]], n_free=1) == ["t2", "t3", "t4"]


@pytest.mark.parametrize("wanted", ["auto", 2, 8])
def test_a_stack_that_could_not_be_is_counted_as_if_alone(wanted: object) -> None:
    knows, study = knowing(stacked(2, None), stacked(8, None)), study_of(wanted)
    made = make(plan_of(*SEEDS), knows, at_most=1, stack_of=lambda e: stack_limits(e, study, knows))
    assert made.trials["t0"].left_s == pytest.approx(SECONDS)
    assert "a stack that was tried could not be: dropout" in stack_lines(made)[0]
    some = knowing(stacked(2, 1.5), stacked(4, None, why_not="4 do not fit the GPU"))
    made = make(plan_of(*SEEDS), some, at_most=1, stack_of=lambda e: stack_limits(e, study, some))
    share = SECONDS - TRAINING_SECONDS * (1 - 1 / 1.5)
    assert made.trials["t0"].left_s == pytest.approx(share), "what does not fit is split"


def test_trials_of_other_resources_are_not_trained_together() -> None:
    def limits(cpu: float, gpu: float) -> StackLimits | None:
        entry = replace(SEEDS[0], trial=replace(SEEDS[0].trial, resources=Resources(cpu, gpu)))
        return stack_limits(entry, study_of(4), knowing())

    assert limits(1, 0) == limits(1, 0) != limits(2, 0)
    assert limits(1, 1) != limits(1, 0.5)
    assert limits(1, 2) is None, "that is several GPUs for each"


def test_a_stack_is_no_larger_than_leaves_no_slot_idle() -> None:
    limits = {f"t{i}": StackLimits("a", 4, gains={2: 1.5, 3: 2.0}) for i in range(9)}
    assert [stack_uses(limits, n_slots=n)["t0"].members for n in (1, 2, 3, 5, 20, None)] == [4, 4, 3, 2, 1, 4]
    uses = stack_uses(limits, n_slots=1)
    assert uses["t0"].gain == uses["t0"].speed_up == 2.0, "of the next smaller one that was measured"
    alone = stack_uses(limits, n_slots=20)["t0"]
    assert (alone.gain, alone.best_gain, alone.speed_up) == (None, 2.0, 1.0)
    unknown = stack_uses({f"t{i}": StackLimits("a", 4, gains={8: 3.0}) for i in range(9)}, n_slots=1)["t0"]
    assert (unknown.members, unknown.gain, unknown.speed_up) == (4, None, 1.0)


def test_sizes_to_measure_are_those_that_may_be_used() -> None:
    assert sizes_to_measure(study_of(1), 100, n_slots=1) == ()
    assert sizes_to_measure(study_of(8), 100, n_slots=1) == (8,)
    assert sizes_to_measure(study_of(8), 9, n_slots=2) == (5,)
    assert sizes_to_measure(study_of("auto"), 10, n_slots=1) == (2, 4, 8, 10)
    assert sizes_to_measure(study_of("auto"), 1000, n_slots=1)[-1] == LARGEST
    for wanted in (8, "auto"):
        assert sizes_to_measure(study_of(wanted), 4, n_slots=4) == ()
        assert sizes_to_measure(study_of(wanted), 0, n_slots=4) == ()


def test_a_trial_of_a_stack_costs_its_share_of_the_training() -> None:
    knows = knowing(stacked(4, 3.0))
    study = study_of("auto")
    made = make(plan_of(*SEEDS), knows, at_most=2, stack_of=lambda e: stack_limits(e, study, knows))
    share = SECONDS - TRAINING_SECONDS * (1 - 1 / 3)
    assert [cost.left_s for cost in made.trials.values()] == [pytest.approx(share)] * 8
    assert made.wall_s == pytest.approx(4 * share + 7.0)
    assert stack_lines(made) == [
        "stacks: cbr_tiny, 16 px × 1, batch 16: 4 together, 3 times the images/s of one by one"
    ]


@pytest.mark.parametrize(
    ("wanted", "probes", "line"),
    [
        ("auto", [], "one by one; what a stack gains is not measured; measure with: transfusion probe"),
        (4, [], "4 together, counted as if alone; what a stack gains is not measured"),
        (
            "auto",
            [stacked(2, 0.45), stacked(4, 0.31)],
            "one by one; the fastest stack that was measured has 0.45",
        ),
        (
            4,
            [stacked(4, 0.31)],
            "0.31 times the images/s of one by one; with `stack: auto` they would go one by",
        ),
        (
            4,
            [stacked(2, 1.5), stacked(4, 0.9)],
            "4 together, 0.9 times the images/s of one by one; with `stack: ",
        ),
        (4, [stacked(2, 1.5), stacked(4, 0.9)], "`stack: auto` they would go 2 together"),
    ],
)
def test_people_are_told_what_stacks_gain(wanted: object, probes: list[StackProbe], line: str) -> None:
    knows, study = knowing(*probes), study_of(wanted)
    made = make(plan_of(*SEEDS), knows, at_most=2, stack_of=lambda e: stack_limits(e, study, knows))
    (told,) = stack_lines(made)
    assert line in told
    lonely = make(plan_of(SEEDS[0]), knows, stack_of=lambda e: stack_limits(e, study, knows))
    assert stack_lines(lonely) == []
