"""More seeds for the cells whose interval is wide: which, how many, and when it ends."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher
from scipy import stats

from study.config import parse_study
from study.plan import Plan, State, make_plan
from study.until import MoreSeeds, Until
from tests.searching import dispatcher_of, end, only_trial
from trainables.errors import UserError
from trainables.identity import cell_id
from trainables.record import TrialRecord
from trainables.spec import TrialSpec

STUDY = """
name: until
seeds: 2
trial:
  architecture: cbr_tiny
  dataset: {from: digits_5_9, size_px: 16}
  training: {steps: 4}
source:
  dataset: {from: digits_0_4, size_px: 16}
  training: {steps: 4}
grid:
  init: [random, pretrained]
"""
# Of seed 0, 1, 2, …: the first cell is settled at once, the second needs four seeds.
VALUES = {"random": [0.9, 0.901, 0.9, 0.9, 0.9], "pretrained": [0.7, 0.9, 0.8, 0.8, 0.8, 0.8]}
UNTIL = Until("test_auroc", 0.15, max_seeds=5)


def value_of(spec: TrialSpec) -> float:
    return VALUES[spec.init.kind][spec.seed]


def run(until: Until, records: tuple[TrialRecord, ...] = ()) -> tuple[list[str], MoreSeeds]:
    """Run the study on one slot; return the labels in the order in which they were handed out."""
    plan = make_plan(parse_study(STUDY), records)
    entries: dict[str, Any] = {}

    def metrics_of(trial_id: str) -> dict[str, float]:
        return {"test_auroc": value_of(entries[trial_id].trial.spec)}

    more = MoreSeeds(plan, until, metrics_of)
    dispatcher = dispatcher_of(plan, more)
    entries = dispatcher.entries
    handed_out: list[str] = []
    while (config := dispatcher.suggest(f"t{len(handed_out)}")) != Searcher.FINISHED:
        assert isinstance(config, dict)
        entry = entries[only_trial(config)]
        end(dispatcher, f"t{len(handed_out)}")
        handed_out.append(
            "source" if entry.trial.is_source else f"{entry.trial.spec.init.kind} {entry.trial.spec.seed}"
        )
    return handed_out, more


def record(spec: TrialSpec, trial_id: str, *, is_added: bool) -> TrialRecord:
    return TrialRecord(
        run_id=trial_id, trial_id=trial_id, cell_id=cell_id(spec), spec=spec, status="finished", cause=None,
        metrics={"test_auroc": value_of(spec)}, checkpoints={}, state=None, dataset_digest=None,
        studies=frozenset({"until"}), seconds=1.0, added_to=frozenset({"until"} if is_added else ()),
    )  # fmt: skip


def test_the_cell_that_is_wide_gets_seeds_until_it_is_not_and_after_those_of_the_file() -> None:
    handed_out, more = run(UNTIL)
    assert handed_out == [
        "source", "random 0", "random 1", "pretrained 0", "pretrained 1", "pretrained 2", "pretrained 3",
    ]  # fmt: skip
    assert more.still_wide() == []
    assert not more.is_wanted


def test_a_cell_that_stays_wide_is_told_when_it_has_all_its_seeds() -> None:
    handed_out, more = run(Until("test_auroc", 0.0001, max_seeds=4))
    assert len(handed_out) == 1 + 4 + 4
    told = more.still_wide()
    assert len(told) == 2
    assert told[1].endswith("ci(test_auroc) is ±0.13 with 4 seeds, not below 0.0001")


def test_the_cell_with_the_fewest_seeds_is_next() -> None:
    handed_out, _ = run(Until("test_auroc", 0.0001, max_seeds=4))
    assert handed_out[5:] == ["random 2", "pretrained 2", "random 3", "pretrained 3"]


def test_seeds_that_were_added_belong_to_the_study_and_are_not_added_again() -> None:
    plan = make_plan(parse_study(STUDY), [])
    more = MoreSeeds(plan, UNTIL, lambda _: {})
    dispatcher = dispatcher_of(plan, more)
    specs = {entry.trial_id: entry.trial.spec for entry in plan.entries}
    [source] = [entry.trial_id for entry in plan.entries if entry.trial.is_source]
    for number, trial_id in enumerate(specs):
        dispatcher.suggest(str(number))
        more._metrics_of = lambda _, spec=specs[trial_id]: {  # type: ignore[misc]
            "test_auroc": value_of(spec)
        }
        end(dispatcher, str(number))
    added = dispatcher.suggest("more")
    assert isinstance(added, dict)
    new = dispatcher.entries[only_trial(added)].trial
    assert more.marks(new.trial_id) == {"study.until": "added"}
    assert more.marks(source) == {}
    records = [record(spec, key, is_added=False) for key, spec in specs.items() if key != source]
    records.append(record(new.spec, new.trial_id, is_added=True))
    again = make_plan(parse_study(STUDY), records)
    assert [e.label for e in again.entries][-1] == "cbr_tiny · pretrained · digits 5–9 · seed 2"
    assert again.entries[-1].state == State.DONE
    assert again.entries[-1].trial == new
    handed_out, _ = run(UNTIL, tuple(records))
    assert handed_out == ["source", "pretrained 3"]


def test_seeds_of_other_studies_do_not_count() -> None:
    plan = make_plan(parse_study(STUDY), [])
    trial = plan.entries[-1].trial
    other = trial.spec.model_copy(update={"seed": 4})
    from trainables.identity import trial_id

    records = [record(other, trial_id(other), is_added=False)]
    assert len(make_plan(parse_study(STUDY), records).entries) == len(plan.entries)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_half_the_width_is_that_of_students_interval(values: list[float]) -> None:
    sem = stats.sem(values)
    expected = 0.0
    if sem > 0:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=0, scale=sem)
        expected = (high - low) / 2
    assert UNTIL.half_width(values) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_one_value_tells_nothing() -> None:
    assert UNTIL.half_width([0.9]) == math.inf
    assert UNTIL.half_width([]) == math.inf


def test_a_planned_seed_in_training_is_not_handed_out_again() -> None:
    plan = make_plan(parse_study(STUDY), [])
    more = MoreSeeds(Plan("until", (), (), 0), UNTIL, lambda _: {"test_auroc": 0.5})
    results = [entry for entry in plan.entries if not entry.trial.is_source]
    for entry in results:
        more.planned(entry)
    more.ended(results[0], "finished", {})
    assert more.next(lambda _: True) is None, "the other seed of its cell is in training"


def test_a_seed_that_failed_and_is_kept_so_holds_nothing_up() -> None:
    plan = make_plan(parse_study(STUDY), [])
    failed = replace(plan, entries=tuple(replace(entry, state=State.FAILED) for entry in plan.entries))
    assert not MoreSeeds(failed, UNTIL, lambda _: {}).next(lambda _: True)
    assert MoreSeeds(failed, UNTIL, lambda _: {}, keep_failed=True).next(lambda _: True)


def test_a_metric_that_no_trial_has_is_not_waited_for() -> None:
    plan = make_plan(parse_study(STUDY), [])
    more = MoreSeeds(plan, Until("val_kappa", 0.1), lambda _: {"val_auroc": 0.5})
    for entry in plan.entries:
        more.ended(entry, "finished", {})
    assert not more.is_wanted
    assert len(more.still_wide()) == 2


def test_trainings_in_which_nothing_is_drawn_get_no_seeds() -> None:
    study = STUDY.replace("training: {steps: 4}\nsource", "training: {method: linear_probe}\nsource")
    plan = make_plan(parse_study(study.replace("[random, pretrained]", "[pretrained]")), [])
    more = MoreSeeds(plan, UNTIL, lambda _: {"test_auroc": 0.5})
    for entry in plan.entries:
        more.ended(entry, "finished", {})
    assert more.next(lambda _: True) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "val_auroc < 0.1",
        "ci(auroc) < 0.1",
        "ci(val_auroc) > 0.1",
        "ci(val_auroc) < 0",
        "ci(val_auroc) < x",
    ],
)
def test_what_is_no_condition_is_said(text: str) -> None:
    with pytest.raises(UserError, match=r"--until must be written like 'ci\(val_auroc\) < 0.01'.*got "):
        Until.parse(text, max_seeds=3)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("ci(val_auroc) < 0.01", 0.01), (" ci( test_f1 )<1e-3 ", 0.001), ("ci(val_loss) < 2", 2)],
)
def test_a_condition_is_read(text: str, limit: float) -> None:
    assert Until.parse(text, max_seeds=3).limit == limit
