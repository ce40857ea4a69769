"""Searches while they run, against a simulated Tune and a simulated store, killed at any moment."""

from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher
from rich.console import Console

from study.config import parse_study
from study.dispatch import Dispatcher
from study.plan import Plan, State, make_plan
from study.screens import STYLES, print_plan
from study.search.judge import Judge
from study.search.live import LiveSearches
from study.search.records import IMAGES_SEEN
from study.sections import Study
from tests.searching import (
    SPACE,
    bare_config,
    dispatcher_of,
    end,
    only_trial,
    report_of,
    score_of,
    search_study,
)
from trainables.identity import cell_id
from trainables.record import TrialRecord
from trainables.spec import TrialSpec

EVALUATIONS = (50, 100, 200, 300, 400)  # images of a training of 40 steps of 10; it is reported at each
PRUNED = "settings: 7\n  pruning: {kind: KIND, first_images: 100, factor: 2, others: 2}"


class KilledError(Exception):
    """The driver and its worker are gone."""


@dataclass
class World:
    """A store, and a machine of one slot that trains what a dispatcher hands out.

    Attributes:
        trouble: settings with a rate above 0.1 end at 200 images: their loss `diverges`, or a file `breaks`.
        drawn: labels of the trials in the order in which they were first begun.
        n_trained: evaluations that were made, by trial.
    """

    study: Study
    trouble: str = ""
    specs: dict[str, TrialSpec] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)
    n_trained: dict[str, int] = field(default_factory=dict)

    def records(self) -> list[TrialRecord]:
        return [self._record(trial_id) for trial_id in self.specs]

    def plan(self) -> Plan:
        return make_plan(self.study, self.records(), histories=self.histories)

    def histories(self, records: Any, metrics: Any) -> pd.DataFrame:
        rows: list[tuple[str, str, int, float]] = []
        for record in records:
            for images, value in self.curves[record.trial_id].items():
                rows.append((record.trial_id, IMAGES_SEEN, images // 10, float(images)))
                rows.append((record.trial_id, "val_auroc", images // 10, value))
        return pd.DataFrame(rows, columns=["trial_id", "metric", "step", "value"])

    def run(self, *, kill_after: int | None = None, keep_failed: bool = False) -> Dispatcher:
        """Run the study; the driver is killed after so many events (begun, reported, ended)."""
        self._events_left = kill_after if kill_after is not None else 10**9
        plan = self.plan()
        searches = LiveSearches(
            plan, lambda trial_id: self._record(trial_id).metrics, keep_failed=keep_failed
        )
        dispatcher = Dispatcher(
            plan,
            bare_config,
            resume_step=lambda _: 0,
            lost_workers=2,
            keep_failed=keep_failed,
            supplies=[searches],
        )
        judge = Judge(searches, dispatcher, lambda label, trial_id, why: None)
        number = 0
        while (config := dispatcher.suggest(f"tune-{number}")) != Searcher.FINISHED:
            assert isinstance(config, dict), "one slot never waits"
            self._begin(dispatcher, only_trial(config), searches)
            report = self._train(judge, f"tune-{number}", only_trial(config))
            self._event()
            end(dispatcher, f"tune-{number}", **report)
            number += 1
        return dispatcher

    def _begin(self, dispatcher: Dispatcher, trial_id: str, searches: LiveSearches) -> None:
        self._event()
        entry = dispatcher.entries[trial_id]
        if trial_id not in self.specs:
            self.drawn.append(entry.label)
        self.specs[trial_id], self.status[trial_id] = entry.trial.spec, "running"
        self.marks[trial_id] = next(iter(searches.marks(trial_id).values()), "")
        self.curves.setdefault(trial_id, {})

    def _train(self, judge: Judge, tune_id: str, trial_id: str) -> dict[str, Any]:
        """Train from the newest evaluation on; states are committed at each."""
        spec, curve = self.specs[trial_id], self.curves[trial_id]
        for images in (images for images in EVALUATIONS if images not in curve):
            self._event()
            if self.trouble and images == 200 and spec.training.optimizer.lr > 0.1:
                self.status[trial_id] = "failed"
                is_diverged = self.trouble == "diverges"
                return {"status": "failed", "cause": self.trouble, "is_diverged": is_diverged}
            curve[images] = _score(spec) * images / 400
            self.n_trained[trial_id] = self.n_trained.get(trial_id, 0) + 1
            metrics = {IMAGES_SEEN: float(images), "val_auroc": curve[images]}
            report = {"status": "running", "step": images // 10, "total_steps": 40, "metrics": metrics}
            if judge.ends_early(tune_id, report_of(trial_id, **report)):
                return report
        self._event()
        self.status[trial_id] = "finished"
        return {"status": "finished", "metrics": {"best_val_auroc": curve[400]}}

    def _event(self) -> None:
        self._events_left -= 1
        if self._events_left < 0:
            raise KilledError

    def _record(self, trial_id: str) -> TrialRecord:
        status = self.status[trial_id]
        metrics = {"best_val_auroc": self.curves[trial_id][400]} if status == "finished" else {}
        spec = self.specs[trial_id]
        marks = {"searched": self.marks[trial_id]} if self.marks[trial_id] else {}
        return TrialRecord(
            run_id=trial_id, trial_id=trial_id, cell_id=cell_id(spec), spec=spec, status=status, cause=None,
            metrics=metrics, checkpoints={}, state=None, dataset_digest=None,
            studies=frozenset({"searched"}), seconds=1.0, settings=marks,
            is_diverged=status == "failed" and self.trouble == "diverges",
        )  # fmt: skip


def _score(spec: TrialSpec) -> float:
    optimizer = spec.training.optimizer
    return score_of({"training.optimizer.lr": optimizer.lr})


def test_every_cell_is_searched_and_then_compared_at_its_best_setting() -> None:
    world = World(search_study("settings: 5"))
    dispatcher = world.run()
    assert not dispatcher.failed
    assert not dispatcher.not_run
    plan = world.plan()
    assert [len(search.tried) for search in plan.searches] == [5, 5]
    results = [entry for entry in plan.entries if entry.trial.setting is None and not entry.trial.is_source]
    assert [entry.label.split(" · ")[1:] for entry in results] == [
        [init, "digits 5–9", f"seed {seed}"] for init in ("random", "pretrained") for seed in (0, 1)
    ]
    for search in plan.searches:
        best = max(search.tried, key=lambda one: one.value or 0)
        assert {entry.trial.spec.training for entry in results} >= {best.trial.spec.training}
    assert all(entry.state == State.DONE for entry in plan.entries)


@settings(max_examples=25, deadline=None)
@given(
    kills=st.lists(st.integers(0, 40), max_size=3),
    kind=st.sampled_from(["asha", "median"]),
    trouble=st.sampled_from(["", "diverges"]),
)
def test_a_killed_study_tries_the_settings_of_an_undisturbed_one_and_none_twice(
    kills: list[int], kind: str, trouble: str
) -> None:
    study = search_study(PRUNED.replace("KIND", kind))
    undisturbed = World(study, trouble=trouble)
    undisturbed.run()
    world = World(study, trouble=trouble)
    for kill in kills:
        try:
            world.run(kill_after=kill)
        except KilledError:
            continue
    world.run()
    assert world.drawn == undisturbed.drawn
    assert len(set(world.drawn)) == len(world.drawn)
    assert world.curves == undisturbed.curves
    assert world.n_trained == undisturbed.n_trained, "no evaluation was made twice"


def test_settings_are_stopped_early_and_some_go_on_later() -> None:
    world = World(search_study(PRUNED.replace("KIND", "asha")))
    world.run()
    plan = world.plan()
    lengths = [max(world.curves[e.trial_id]) for e in plan.entries if e.trial.setting is not None]
    assert min(lengths) == 100
    assert max(lengths) == 400
    pruned = [entry for entry in plan.entries if entry.state == State.PRUNED]
    assert pruned
    assert all("is not among the best" in entry.reason for entry in pruned)
    again = world.run()
    assert again.entries.keys() == {entry.trial_id for entry in plan.entries}, "nothing more is trained"
    without = World(search_study("settings: 7"))
    without.specs, without.marks = dict(world.specs), dict(world.marks)
    without.status, without.curves = dict(world.status), dict(world.curves)
    without.run()
    assert all(max(curve) == 400 for curve in without.curves.values()), (
        "pruned ones go on when nothing prunes"
    )


def test_a_diverging_setting_fails_the_setting_and_not_the_study() -> None:
    world = World(search_study("settings: 8"), trouble="diverges")
    dispatcher = world.run()
    assert "failed" in world.status.values()
    assert not dispatcher.failed
    assert not dispatcher.not_run
    n_trained = dict(world.n_trained)
    assert not world.run().failed
    assert world.n_trained == n_trained, "not tried once more"


def test_a_setting_that_fails_by_no_fault_of_its_own_is_told_and_tried_once_more_by_the_next_run() -> None:
    world = World(search_study("settings: 8"), trouble="breaks")
    dispatcher = world.run()
    failed = [trial_id for trial_id, status in world.status.items() if status == "failed"]
    assert dispatcher.failed == dict.fromkeys(failed, "breaks")
    assert dispatcher.failed
    kept = world.run(keep_failed=True)
    assert [world.status[trial_id] for trial_id in failed] == ["failed"] * len(failed)
    assert set(kept.failed) == set(failed)
    world.trouble = ""
    assert not world.run().failed
    assert set(world.status.values()) == {"finished"}


def test_a_cell_of_which_no_setting_comes_through_is_told() -> None:
    space = "\n    training.optimizer.lr: {choice: [0.2, 0.3]}"
    # The source has a rate of 0.02 and comes through.
    dispatcher = World(search_study("settings: 4", space=space), trouble="diverges").run()
    assert set(dispatcher.not_run.values()) == {"none of its 2 settings came to an end; 2 failed"}


def test_a_leader_that_fails_keeps_nobody_out() -> None:
    plan = World(search_study(PRUNED.replace("KIND", "asha").replace("7", "3"))).plan()
    searches = LiveSearches(plan, lambda _: {})
    search = plan.searches[0]
    handed_out = [searches.next(lambda _: True) for _ in range(6)]
    mine = [entry for entry in handed_out if entry and entry.trial.axes["init"] == "random"]
    for entry, value in zip(mine, (0.9, 0.8, 0.7), strict=True):
        searches.reported(entry.trial_id, 100, value)
    assert len(search.pruned()) == 2
    searches.ended(mine[0], "diverged", {})
    assert searches.next(lambda _: True) == mine[1]
    searches.ended(mine[1], "finished", {"best_val_auroc": 0.8})
    assert search.best is not None
    assert search.best.trial_id == mine[1].trial_id


def test_a_finished_setting_of_which_mlflow_does_not_tell_is_asked_for_again() -> None:
    plan = World(search_study("settings: 1")).plan()
    told: dict[str, float] = {}  # the cell without a source is alone: no parent is done
    searches = LiveSearches(plan, lambda _: told)
    entry = searches.next(lambda _: False)
    assert entry is not None
    searches.ended(entry, "finished", {})
    assert not plan.searches[0].is_decided
    told["best_val_auroc"] = 0.7
    assert searches.next(lambda _: False) == entry
    searches.ended(entry, "finished", {})
    assert plan.searches[0].is_decided


def test_settings_outside_a_narrower_space_keep_their_numbers() -> None:
    wide, narrow = (
        search_study("settings: 4"),
        search_study("settings: 4", space=SPACE.replace("1.0]", "0.03]")),
    )
    world = World(wide)
    world.run()
    for study in (narrow, wide, narrow):
        world.study = study
        world.run()
        for search in world.plan().searches:
            numbers = [one.number for one in search.tried]
            assert len(set(numbers)) == len(numbers)
            assert search.is_decided


def test_what_the_file_says_of_a_searched_field_is_no_part_of_its_cell() -> None:
    world = World(search_study("settings: 3"))
    world.run()
    world.study = parse_study(world.study.text.replace("optimizer: {lr: 0.02}", "optimizer: {lr: 0.5}"))
    known, other = world.plan().searches
    assert [one.number for one in known.tried] == [0, 1, 2]
    assert known.is_decided
    assert other.tried == [], "its source is trained at the rate of the file"


def test_cells_that_start_warm_begin_with_the_best_of_the_other_cell() -> None:
    world = World(search_study("settings: 4\n  warm_start: {cell: {init: random}, best: 2}"))
    world.run()
    cold, warm = world.plan().searches
    assert [one.setting for one in warm.tried[:2]] == [one.setting for one in cold.ranked()[:2]]
    assert world.drawn.index(warm.label_of(warm.tried[0])) > world.drawn.index(cold.label_of(cold.tried[-1]))


def test_no_more_settings_of_a_cell_are_in_training_at_once_than_it_allows() -> None:
    plan = World(search_study("settings: 6\n  at_once: 2")).plan()
    searches = LiveSearches(plan, lambda _: {})
    handed_out = []
    while (entry := searches.next(lambda _: True)) is not None:
        handed_out.append(entry)
    assert [entry.trial.axes["init"] for entry in handed_out] == ["random", "pretrained"] * 2
    searches.ended(handed_out[0], "failed", {})
    assert searches.next(lambda _: True) is not None
    assert searches.next(lambda _: True) is None


def test_a_source_that_fails_takes_its_cells_with_it() -> None:
    plan = World(search_study("settings: 2")).plan()
    searches = LiveSearches(plan, lambda _: {})
    dispatcher = dispatcher_of(plan, searches)
    assert isinstance(dispatcher.suggest("source"), dict)
    end(dispatcher, "source", "failed", cause="no data")
    number = 0
    while (config := dispatcher.suggest(f"t{number}")) != Searcher.FINISHED:
        assert isinstance(config, dict)
        end(dispatcher, f"t{number}", "finished", metrics={"best_val_auroc": 0.5})
        number += 1
    [reason] = dispatcher.not_run.values()
    assert reason == "its source failed: cbr_tiny · random · digits 0–4 · seed 0: no data"
    assert number == 2 + 2, "the other cell is searched and compared"


def test_a_setting_in_training_is_judged_at_its_rungs_alone_and_its_cell_waits_for_it() -> None:
    plan = World(search_study(PRUNED.replace("KIND", "asha").replace("7", "2"))).plan()
    searches = LiveSearches(plan, lambda _: {})
    search = plan.searches[0]
    handed_out = [searches.next(lambda _: True) for _ in range(4)]
    a, b = (entry for entry in handed_out if entry and entry.trial.axes["init"] == "random")
    assert searches.reported(a.trial_id, 100, 0.5) is None
    assert searches.reported(b.trial_id, 100, 0.9) is None
    assert searches.reported(a.trial_id, 150, 0.5) is None, "overtaken, but between two rungs"
    searches.ended(b, "finished", {"best_val_auroc": 0.9})
    assert not search.is_decided
    assert searches.next(lambda _: True) is None
    assert searches.reported(a.trial_id, 200, 0.95) is None
    searches.ended(a, "finished", {"best_val_auroc": 0.95})
    assert search.is_decided
    assert search.best is not None
    assert search.best.trial.trial_id == a.trial_id


def test_a_cell_whose_setting_was_taken_over_is_told() -> None:
    plan = World(search_study("settings: 1")).plan()
    searches = LiveSearches(plan, lambda _: {})
    dispatcher = dispatcher_of(plan, searches)
    number = 0
    while (config := dispatcher.suggest(f"t{number}")) != Searcher.FINISHED:
        assert isinstance(config, dict)
        entry = dispatcher.entries[only_trial(config)]
        is_setting = entry.trial.setting is not None
        status = "taken over" if is_setting else "finished"
        end(dispatcher, f"t{number}", status)
        number += 1
    keys = {search.cell.key for search in plan.searches}
    assert {dispatcher.not_run[key] for key in keys} == {
        "its search did not come to an end in this run; run the study again"
    }


def test_transfusions_start_warm_from_a_cell_that_has_no_depth() -> None:
    text = search_study("settings: 2\n  warm_start: {cell: {init: random}}").text
    text = text.replace("[random, pretrained]", "[random, transfusion]\n  transfusion_depth: [1, 2]")
    plan = make_plan(parse_study(text), [])
    searches = LiveSearches(plan, lambda _: {})
    first = [searches.next(lambda _: True) for _ in range(2)]
    assert [entry.trial.axes for entry in first if entry] == [{"init": "random"}] * 2
    assert searches.next(lambda _: True) is None, "the others wait for it"
    for entry, value in zip(first, (0.6, 0.9), strict=True):
        assert entry is not None
        searches.ended(entry, "finished", {"best_val_auroc": value})
    searches.released()
    warm = [searches.next(lambda _: True) for _ in range(2)]
    assert [entry.trial.axes["transfusion_depth"] for entry in warm if entry] == [1, 2]
    assert {str(entry.trial.setting) for entry in warm if entry} == {str(first[1] and first[1].trial.setting)}


def test_settings_are_drawn_when_there_is_room_for_them_and_not_ahead() -> None:
    plan = World(search_study("settings: 6")).plan()
    dispatcher = dispatcher_of(plan, LiveSearches(plan, lambda _: {}), n_fit=lambda: 2)
    assert isinstance(dispatcher.suggest("source"), dict)
    assert isinstance(dispatcher.suggest("one"), dict)
    assert dispatcher.suggest("ahead") is None
    end(dispatcher, "one", "finished", metrics={"best_val_auroc": 0.5})
    assert isinstance(dispatcher.suggest("two"), dict)


def test_what_is_stopped_or_diverged_is_set_aside_and_not_waited_for() -> None:
    world = World(search_study(PRUNED.replace("KIND", "asha")), trouble="diverges")
    dispatcher = world.run()
    states = {entry.trial_id: entry.state for entry in world.plan().entries}
    set_aside = {trial_id for trial_id, state in states.items() if state in (State.PRUNED, State.FAILED)}
    assert dispatcher.set_aside == set_aside
    assert set_aside
    assert dispatcher.n_announced == 0


def test_a_plan_with_stopped_and_diverged_settings_is_printed() -> None:
    assert STYLES.keys() == set(State)
    world = World(search_study(PRUNED.replace("KIND", "asha")), trouble="diverges")
    world.run()
    console = Console(record=True, width=160, file=StringIO())
    print_plan(world.plan(), console)
    text = console.export_text()
    assert "pruned" in text
    assert "failed" in text
