"""What the trials of a plan take: per trial, in total, by axis, and on slots."""

from dataclasses import replace

import pytest

from study.cost.estimate import Announced, Estimate, announced_ids, estimate
from study.cost.priorities import Priorities
from study.cost.slots import Capacity, count_slots
from study.cost.speed import Measurements
from study.cost.totals import Amount, totals_by_axis, totals_left
from study.grid import PlannedTrial, Resources
from study.plan import Plan, PlanEntry, State
from study.sections import PriceSection
from tests.conftest import tiny_trial
from tests.fake_records import record_of
from tests.test_speed import SPENT, finished, probed
from trainables.hardware import cpu_model
from trainables.operations import Operations
from trainables.probes import SizesProbe
from trainables.record import CheckpointRef
from trainables.spec import TrialSpec

ONE_CPU = Resources(cpu=1, gpu=0)
FREE = PriceSection()
# 16 × 12 images at 1/64 s, 6 × 10 + 20 at 1/20 s, and 3 s besides.
SECONDS = 3.0 + 4.0 + 3.0
SPENT_SIZES = replace(SPENT, n_train=100, n_val=10, n_test=20)


class Counts:
    """Stands in for counting: every network takes the same."""

    notices: tuple[str, ...] = ()

    def of(self, spec: TrialSpec) -> Operations:
        return Operations(10, 30, n_params=100, n_trainable_params=100, activation_bytes=10**9)


def trial(
    name: str, *parents: str, spec: TrialSpec | None = None, resources: Resources = ONE_CPU, **axes: object
) -> PlanEntry:
    planned = PlannedTrial(
        spec or tiny_trial(),
        name,
        axes,  # type: ignore[arg-type]
        parents,
        is_source=not axes,
        resources=resources,
    )
    return PlanEntry(planned, name, State.TO_RUN, None, "")


def plan_of(*entries: PlanEntry) -> Plan:
    return Plan("s", entries, (), 0)


@pytest.fixture
def measured() -> Measurements:
    sizes = SizesProbe(*_key(), "digits", 100, 10, 20)  # type: ignore[arg-type]
    here = probed(hardware=cpu_model(), train_s=1 / 64, score_s=1 / 20, overhead_s=3.0, start_s=7.0)
    return Measurements([], [sizes, here])


def _key() -> tuple[str]:
    from study.cost.splits import dataset_key

    return (dataset_key(tiny_trial().dataset),)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def make(plan: Plan, measured: Measurements, **more: object) -> Estimate:
    return estimate(plan, measured=measured, counts=Counts(), **{"at_most": 2, **more})  # type: ignore[arg-type]


def test_seconds_are_images_by_speed_and_the_overhead(measured: Measurements) -> None:
    made = make(plan_of(trial("a", seed=0)), measured)
    cost = made.trials["a"]
    assert cost.left_s == cost.whole_s == pytest.approx(SECONDS)
    assert cost.left.images_trained == 192
    assert cost.left.flops == 192 * 30 + 80 * 10
    assert made.wall_s == pytest.approx(SECONDS + 7.0)
    assert made.hardware == (cpu_model(),)


def test_only_what_is_left_counts(measured: Measurements) -> None:
    state = CheckpointRef("state", "state/x", "0" * 64, 6, 1)
    record = replace(record_of(tiny_trial(), status="killed"), state=state)
    entries = [trial("done", seed=0), trial("half", seed=1), trial("new", seed=2), trial("pruned", seed=3)]
    entries[0] = replace(entries[0], state=State.DONE)
    entries[1] = replace(entries[1], state=State.PARTIAL, record=record)
    entries[3] = replace(entries[3], state=State.PRUNED)
    made = make(plan_of(*entries), measured)
    # Half of the steps, the evaluation at the last, and the scores at the end.
    half = 96 / 64 + (2 * 10 + 20) / 20 + 3.0
    assert [made.trials[k].left_s for k in ("done", "half", "new", "pruned")] == [0, half, SECONDS, 0]
    assert totals_left(made, FREE).n_trials == 2
    assert totals_left(made, FREE).cpu_hours.value == pytest.approx((half + SECONDS) / 3600)
    assert made.wall_s == pytest.approx(SECONDS + 7.0)


def test_nothing_open_takes_no_time(measured: Measurements) -> None:
    made = make(plan_of(replace(trial("a", seed=0), state=State.DONE)), measured)
    assert made.wall_s == 0.0


def test_what_was_not_measured_is_unknown_and_so_is_every_sum_with_it(measured: Measurements) -> None:
    other = tiny_trial(architecture="cbr_small")
    made = make(
        plan_of(trial("a", net="tiny", seed=0), trial("b", spec=other, net="small", seed=0)), measured
    )
    assert made.trials["b"].left_s is None
    assert (made.n_unknown, made.wall_s, made.timetable) == (1, None, None)
    totals = totals_left(made, PriceSection(cpu_hour=1.0))
    assert totals.cpu_hours == Amount(pytest.approx(SECONDS / 3600), 1, 1)  # type: ignore[arg-type]
    assert totals.cpu_hours.value is None
    assert totals.money is not None
    assert totals.money.n_unknown == 1
    by_net = totals_by_axis(made, FREE)["net"]
    assert by_net.left["tiny"].cpu_hours.value == pytest.approx(SECONDS / 3600)
    assert by_net.left["small"].cpu_hours.value is None
    assert by_net.one_more.cpu_hours.value is None


def test_money_is_the_hours_by_the_prices_that_are_given(measured: Measurements) -> None:
    made = make(plan_of(trial("a", resources=Resources(4, 0.5), seed=0)), _on_gpu(gpu_share=0.5))
    totals = totals_left(made, PriceSection(gpu_hour=2.0, cpu_hour=0.25))
    hours = SECONDS / 3600
    assert totals.gpu_hours.value == pytest.approx(hours / 2)
    assert totals.cpu_hours.value == pytest.approx(hours * 4)
    assert totals.money is not None
    assert totals.money.value == pytest.approx(hours * (2.0 / 2 + 0.25 * 4))
    assert totals_left(made, FREE).money is None
    gpu_only = totals_left(made, PriceSection(gpu_hour=2.0)).money
    assert gpu_only is not None
    assert gpu_only.value == pytest.approx(hours)


def test_another_share_of_a_gpu_was_not_measured() -> None:
    made = make(plan_of(trial("a", resources=Resources(4, 0.25), seed=0)), _on_gpu(gpu_share=0.5))
    assert made.n_unknown == 1


def _on_gpu(*, gpu_share: float = 1.0) -> Measurements:
    sizes = SizesProbe(*_key(), "digits", 100, 10, 20)  # type: ignore[arg-type]
    gpu = probed(
        hardware="A10G",
        is_gpu=True,
        gpu_memory_gb=20.0,
        train_s=1 / 64,
        score_s=1 / 20,
        gpu_share=gpu_share,
    )
    return Measurements([], [sizes, gpu])


def test_values_of_an_axis_add_up_to_the_whole_and_one_more_is_their_mean(measured: Measurements) -> None:
    entries = [trial(f"{net}{seed}", net=net, seed=seed) for net in "ab" for seed in range(3)]
    entries[0] = replace(entries[0], state=State.DONE)
    made = make(plan_of(*entries), measured)
    axes = totals_by_axis(made, FREE)
    assert {axis: list(totals.left) for axis, totals in axes.items()} == {
        "net": ["a", "b"],
        "seed": [0, 1, 2],
    }
    for totals in axes.values():
        assert sum(left.cpu_hours.known for left in totals.left.values()) == pytest.approx(5 * SECONDS / 3600)
    # From scratch, what is done included.
    assert axes["net"].one_more.n_trials == 3
    assert axes["net"].one_more.cpu_hours.value == pytest.approx(3 * SECONDS / 3600)
    assert axes["seed"].one_more.n_trials == 2


def test_an_axis_of_one_value_is_not_listed(measured: Measurements) -> None:
    made = make(plan_of(trial("a", net="a", seed=0), trial("b", net="a", seed=1)), measured)
    assert list(totals_by_axis(made, FREE)) == ["seed"]


def test_a_source_counts_where_all_that_need_it_have_the_value(measured: Measurements) -> None:
    entries = [
        trial("first"),
        trial("source", "first"),
        trial("x0", "source", net="x", seed=0),
        trial("x1", "source", net="x", seed=1),
        trial("y0", net="y", seed=0),
    ]
    axes = totals_by_axis(make(plan_of(*entries), measured), FREE)
    assert {value: left.n_trials for value, left in axes["net"].left.items()} == {"x": 4, "y": 1}
    assert {value: left.n_trials for value, left in axes["seed"].left.items()} == {0: 2, 1: 1}


def test_trials_wait_for_their_sources_on_the_slots(measured: Measurements) -> None:
    entries = [trial("source"), *(trial(f"t{i}", "source", seed=i) for i in range(4))]
    made = make(plan_of(*entries), measured)
    assert made.timetable is not None
    assert made.timetable.makespan == pytest.approx(3 * SECONDS)
    assert made.timetable.critical_path == ("source", "t0")


def test_announced_trials_are_counted_and_wait_for_what_they_come_after(measured: Measurements) -> None:
    settings = Announced(tiny_trial(), ONE_CPU, {"net": "a"}, 3, after=("source",))
    results = Announced(tiny_trial(), ONE_CPU, {"net": "a"}, 1, after=announced_ids(0, 3))
    made = make(plan_of(trial("source")), measured, announced=[settings, results], at_most=3)
    assert len(made.open_trials) == 5
    assert made.timetable is not None
    assert made.timetable.makespan == pytest.approx(3 * SECONDS)


def test_a_trial_that_needs_more_than_its_part_of_a_gpu_does_not_fit(measured: Measurements) -> None:
    # A batch of 16 keeps 16 GB; the GPU has 20.
    def fits(gpu: float) -> bool:
        return make(plan_of(trial("a", resources=Resources(1, gpu), seed=0)), _on_gpu()).trials["a"].fits

    assert [fits(1.0), fits(2.0), fits(0.75)] == [True, True, False]
    assert make(plan_of(trial("a", seed=0)), measured).trials["a"].fits
    full = probed(hardware="A10G", is_gpu=True, gpu_share=1.0, train_s=None, score_s=None, overhead_s=None)
    made = make(plan_of(trial("a", resources=Resources(1, 1), seed=0)), Measurements([], [full]))
    assert not made.trials["a"].fits


def test_on_a_cluster_the_hardware_is_what_was_measured_last(
    measured: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        finished(hardware=cpu_model(), spent=SPENT_SIZES),
        finished(seed=1, spent=SPENT_SIZES, hardware="node"),
    ]
    plan = plan_of(trial("a", seed=0))
    assert make(plan, Measurements(records)).hardware == (cpu_model(),)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert make(plan, Measurements(records)).hardware == ("node",)


@pytest.mark.parametrize(
    ("wanted", "at_most", "capacity", "expected"),
    [
        ([(1, 0)], None, Capacity(2, 0), 2),
        ([(1, 0)], 3, None, 3),
        ([(1, 0)], 1, Capacity(8, 0), 1),
        ([(1, 0)], 100, Capacity(8, 0), 8),
        ([(0.5, 0)], None, Capacity(2, 0), 4),
        ([(0.1, 0)], None, Capacity(11, 0), 110),
        ([(2, 0.3333)], None, Capacity(64, 2), 6),
        ([(4, 1)], None, Capacity(8, 4), 2),
        ([(1, 0), (3, 0)], None, Capacity(8, 0), 4),
        ([(1, 1)], None, Capacity(8, 0), None),
        ([(1, 1)], 4, Capacity(8, 0), 4),
        ([(1, 0)], None, None, None),
        ([], 2, Capacity(8, 0), 2),
    ],
)
def test_slots_are_what_the_resources_allow_and_the_file_permits(
    wanted: list, at_most: int | None, capacity: Capacity | None, expected: int | None
) -> None:
    resources = [Resources(cpu, gpu) for cpu, gpu in wanted]
    assert count_slots(resources, at_most=at_most, capacity=capacity) == expected


def lengths(plan: Plan, expected: Estimate) -> dict[str, float]:
    found = Priorities(expected, cost_of=lambda entry: pytest.fail(f"{entry.trial_id} is in the plan"))
    return {entry.trial_id: found.of(entry) for entry in plan.entries if entry.state != State.DONE}


def test_the_longest_chain_goes_first_by_whatever_is_known_of_all(measured: Measurements) -> None:
    long = tiny_trial(training={"steps": 24, "batch_size": 16, "evaluation": {"points": 4}})
    plan = plan_of(trial("source"), trial("child", "source", spec=long, seed=0), trial("lone", seed=0))
    by_seconds = lengths(plan, make(plan, measured))
    assert by_seconds["lone"] == pytest.approx(SECONDS)
    assert by_seconds["source"] == pytest.approx(by_seconds["child"] + SECONDS)
    by_flops = lengths(plan, make(plan, Measurements([], [_sizes()])))
    assert by_flops["lone"] == 192 * 30 + 80 * 10
    assert by_flops["source"] == by_flops["child"] + by_flops["lone"]
    by_images = lengths(plan, estimate(plan, measured=Measurements(), at_most=2))
    assert by_images == {"source": 576.0, "child": 384.0, "lone": 192.0}
    epochs = tiny_trial(training={"epochs": 2})
    unknown = plan_of(trial("source"), trial("child", "source", spec=epochs, seed=0))
    assert lengths(unknown, estimate(unknown, measured=Measurements())) == {"source": 2.0, "child": 1.0}


@pytest.mark.parametrize("n_known", [0, 1, 2])
def test_a_trial_that_is_decided_on_later_is_measured_as_the_others_are(
    n_known: int, measured: Measurements
) -> None:
    known = (Measurements(), Measurements([], [_sizes()]), measured)[n_known]
    plan, later = plan_of(trial("lone", seed=0)), plan_of(trial("later", seed=1))
    found = Priorities(make(plan, known), lambda entry: make(later, known).trials[entry.trial_id])
    assert found.of(later.entries[0]) == found.of(plan.entries[0]) > 0


def test_a_later_trial_that_nobody_knows_is_neither_held_back_nor_preferred(measured: Measurements) -> None:
    plan = plan_of(*(trial(f"t{k}", seed=k) for k in range(3)))
    unknown = make(plan_of(trial("later", seed=9)), Measurements()).trials["later"]
    found = Priorities(make(plan, measured), lambda entry: unknown)
    assert found.of(plan_of(trial("later", seed=9)).entries[0]) == pytest.approx(SECONDS)


def _sizes() -> SizesProbe:
    return SizesProbe(*_key(), "digits", 100, 10, 20)  # type: ignore[arg-type]


def test_a_trial_that_is_done_has_no_priority(measured: Measurements) -> None:
    plan = plan_of(replace(trial("source"), state=State.DONE), trial("child", "source", seed=0))
    assert lengths(plan, make(plan, measured)) == {"child": pytest.approx(SECONDS)}
