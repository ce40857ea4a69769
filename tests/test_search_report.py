"""What a report tells of a search: cells compared at their own best, and how these were found."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from analysis.figures import searches as figures
from analysis.figures.searches import draw_search_history, draw_slices
from analysis.jobs.similarity import SIMILARITY_COLUMNS
from analysis.load import StudyTrials, load_trials
from analysis.pipeline import analyze
from analysis.results import Options, StudyFacts
from analysis.searches import SearchFacts, settings_tried
from analysis.tables.formats import latex
from analysis.tables.inventory import missing_table
from analysis.tables.performance import performance_table
from analysis.tables.searches import searches_table
from study.cli import main
from study.config import parse_study
from study.plan import Plan, PlanEntry, read_plan
from study.search.records import SettingMark
from study.sections import Study
from study.tracking import open_study_run
from tests.fake_records import FakeReader, record_of, spec_of
from tests.searching import search_study
from trainables.identity import trial_id
from trainables.record import RecordReader, Store, TrialRecord, names
from trainables.spec import RunOptions, TrialSpec
from trainables.trial import run_trial

LR, MOMENTUM, AUGMENT = "training.optimizer.lr", "training.optimizer.momentum", "training.augment"
FIELDS = {
    LR: {"low": 0.001, "high": 1.0, "is_log": True},
    MOMENTUM: {"choices": ("0", "0.9")},
}


def result(init: str, seed: int, *, lr: float, **training: Any) -> TrialSpec:
    return spec_of(init, seed, training={"steps": 300, "optimizer": {"lr": lr}, **training})


def row(number: int, value: float, *, lr: float = 0.1, momentum: str = "0.9", state: str = "done") -> Any:
    is_done = state == "done"
    rung_value = value - 0.1 if is_done else value
    return {"number": number, "state": state, "value": value if is_done else math.nan,
            "rung": 100, "rung_value": rung_value, LR: lr, MOMENTUM: momentum}  # fmt: skip


def search_of(
    init: str, *, results: Sequence[TrialSpec] = (), rows: Sequence[Any] = (), **changes: Any
) -> SearchFacts:
    """Return what the search of one cell found; the best is its greatest value."""
    done = [one for one in rows if one["state"] == "done"]
    best = max(done, key=lambda one: one["value"])["number"] if done else None
    content = {
        "label": f"cbr_tiny · {init} · digits 5–9",
        "base": result(init, 0, lr=0.5),
        "metric": "val_auroc",
        "rises": True,
        "fields": FIELDS,
        "tried": rows,
        "n_left": 0,
        "best": best,
        "importances": {},
        "result_ids": tuple(map(trial_id, results)),
    }
    return SearchFacts.of({**content, **changes})


ROWS = [
    row(0, 0.80, lr=0.01),
    row(1, 0.60, lr=0.3, state="pruned"),
    row(2, 0.95, lr=0.03),
    row(3, math.nan, lr=0.9, momentum="0", state="failed"),
    row(4, 0.90, lr=0.05, momentum="0"),
]


def two_cells(**changes: Any) -> tuple[list[TrialRecord], list[SearchFacts]]:
    """Return two cells, compared at learning rates of their own."""
    cells = {"random": [result("random", s, lr=0.01) for s in (0, 1)],
             "pretrained": [result("pretrained", s, lr=0.03) for s in (0, 1)]}  # fmt: skip
    searches = [search_of(init, results=specs, rows=ROWS, **changes) for init, specs in cells.items()]
    return [record_of(spec) for specs in cells.values() for spec in specs], searches


def loaded(records: Sequence[TrialRecord], searches: Sequence[SearchFacts]) -> StudyTrials:
    return load_trials(FakeReader(records), "fake", searches=searches)


def test_cells_at_settings_of_their_own_are_compared_with_each_other() -> None:
    records, searches = two_cells()
    assert loaded(records, []).table["setting"].nunique() == 2, "without a search they are other trainings"
    trials = loaded(records, searches)
    assert set(trials.table["setting"]) == {"cbr_tiny · digits 5–9"}
    assert list(trials.searches) == [
        ("cbr_tiny · digits 5–9", "random"),
        ("cbr_tiny · digits 5–9", "pretrained"),
    ]
    table = performance_table(
        trials.finished, baseline="random", primary="test_auroc", searches=trials.searches
    )
    assert table.display["AUROC − random [95 % interval]"].iloc[1] not in ("–", "baseline")


def test_what_follows_from_a_searched_field_makes_no_other_setting_either() -> None:
    """Fields below a searched one, and fields that only one choice has."""
    whole = {AUGMENT: {"choices": ("none", "flip")}, "training.batch_size": {"choices": ("8", "32")}}
    specs = [
        result("random", 0, lr=0.5, augment={"horizontal_flip": True}, batch_size=32, micro_batch_size=8),
        result("pretrained", 0, lr=0.5, batch_size=8, micro_batch_size=8),  # resolved to none
    ]
    base = {"batch_size": 16, "micro_batch_size": 8}
    searches = [
        search_of(init, results=[spec], fields=whole, base=result(init, 0, lr=0.5, **base))
        for init, spec in zip(("random", "pretrained"), specs, strict=True)
    ]
    table = loaded([record_of(spec) for spec in specs], searches).table
    assert set(table["setting"]) == {"cbr_tiny · digits 5–9"}


def test_cells_that_differ_in_what_was_not_searched_stay_apart_and_name_no_searched_field() -> None:
    short, long = (result("random", 0, lr=lr) for lr in (0.01, 0.03))
    long = long.model_copy(update={"training": long.training.model_copy(update={"steps": 900})})
    base = result("random", 0, lr=0.5)
    of_long = base.model_copy(update={"training": long.training})
    searches = [
        search_of("random", results=[short]),
        search_of("random", results=[long], base=of_long, label="the long one"),
    ]
    trials = loaded([record_of(short), record_of(long)], searches)
    assert sorted(trials.table["setting"]) == [
        "cbr_tiny · digits 5–9 (steps=300)",
        "cbr_tiny · digits 5–9 (steps=900)",
    ]
    assert {setting for setting, _ in trials.searches} == set(trials.table["setting"])


def test_a_cell_without_results_yet_has_its_place() -> None:
    records, [first, _] = two_cells()
    going_on = search_of("pretrained", rows=[row(0, 0.5, state="open")], n_left=3)
    trials = loaded(records[:2], [first, going_on])
    assert trials.searches["cbr_tiny · digits 5–9", "pretrained"] is going_on
    missing = missing_table(
        trials.table, [], pd.DataFrame(columns=SIMILARITY_COLUMNS), searches=trials.searches
    )
    assert missing.display.to_numpy().tolist() == [
        [going_on.label, "searching", "settings: 1 tried, 1 of them open; 3 to come"]
    ]


def test_how_many_settings_were_tried_stands_beside_the_seeds() -> None:
    trials = loaded(*two_cells())
    table = performance_table(
        trials.finished, baseline="random", primary="test_auroc", searches=trials.searches
    )
    assert list(table.display.columns)[2:4] == ["seeds", "settings tried"]
    assert table.display["settings tried"].tolist() == ["5", "5"]
    assert table.display["best setting"].tolist() == ["lr 0.03, momentum 0.9"] * 2
    assert set(table.data["settings_tried"]) == {5}
    assert "chosen on the validation split" in table.note
    without = performance_table(trials.finished, baseline="random", primary="test_auroc")
    assert "settings tried" not in without.display
    assert "settings_tried" not in without.data


def test_the_table_of_searches_counts_how_settings_ended() -> None:
    searches = loaded(*two_cells(importances={LR: 0.75, MOMENTUM: 0.25})).searches
    table = searches_table(searches, optuna_file="searches.db")
    line = table.display.set_index("initialization").loc["random"]
    assert line[["tried", "finished", "stopped early", "failed"]].tolist() == ["5", "3", "1", "1"]
    assert line["best validation AUROC"] == "0.9500"
    assert line["best setting"] == "lr 0.03, momentum 0.9"
    assert line["most important field"] == "lr (0.75)"
    assert "open" not in table.display
    assert "optuna-dashboard sqlite:///searches.db" in table.note
    data = table.data.iloc[0]
    assert (data["best_number"], data[LR], data[f"importance/{LR}"], data["n_pruned"]) == (2, 0.03, 0.75, 1)
    assert latex(table).isascii()


def test_a_search_that_goes_on_has_no_best_in_the_table() -> None:
    rows = [row(0, 0.8), row(1, 0.7, state="open")]
    table = searches_table({("s", "random"): search_of("random", rows=rows, best=None, n_left=2)})
    line = table.display.iloc[0]
    assert line[["open", "best validation AUROC", "best setting", "most important field"]].tolist() == [
        "1", "–", "–", "–",
    ]  # fmt: skip
    assert "optuna" not in table.note


def test_without_a_search_the_table_is_empty() -> None:
    assert searches_table({}).display.empty


def test_every_setting_is_a_row_that_says_whether_it_was_best() -> None:
    rows = settings_tried(loaded(*two_cells()).searches)
    assert len(rows) == 10
    assert rows[rows["is_best"]]["number"].tolist() == [2, 2]
    assert list(rows)[:2] == ["setting", "init"]
    assert settings_tried({}).empty


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures as they were when they were saved; none stays open."""
    seen: list[Figure] = []
    original = figures.save

    def save(figure: Figure, folder: Path, name: str) -> Path:
        seen.append(figure)
        return original(figure, folder, name)

    monkeypatch.setattr(figures, "save", save)
    yield seen
    assert plt.get_fignums() == []


def points(axis: Any, marker: str, *, is_hollow: bool) -> list[tuple[float, float]]:
    lines = [line for line in axis.get_lines() if line.get_marker() == marker and len(line.get_xdata())]
    chosen = [line for line in lines if (line.get_markerfacecolor() == "none") == is_hollow]
    return [
        (float(x), float(y))
        for line in chosen
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def slices(searches: dict[str, SearchFacts], folder: Path) -> Any:
    return draw_slices(searches, setting="a setting", inits=("random",), folder=folder, name="slices_0")


def test_slices_show_each_setting_over_each_field(tmp_path: Path, drawn: list[Figure]) -> None:
    figure = slices({"random": search_of("random", rows=ROWS)}, tmp_path)
    by_lr, by_momentum = drawn[0].axes
    assert points(by_lr, "o", is_hollow=False) == [(0.01, 0.8), (0.03, 0.95), (0.05, 0.9)]
    assert points(by_lr, "o", is_hollow=True) == [(0.3, 0.6)], "stopped: at its last rung"
    assert points(by_lr, "*", is_hollow=False) == [(0.03, 0.95)]
    assert (by_lr.get_xscale(), by_momentum.get_xscale()) == ("log", "linear")
    low, high = by_lr.get_xlim()
    assert low < 0.001 < 1.0 < high < 2
    assert [label.get_text() for label in by_momentum.get_xticklabels()] == ["0", "0.9"]
    assert points(by_momentum, "o", is_hollow=False) == [(1, 0.8), (1, 0.95), (0, 0.9)]
    assert by_lr.get_ylabel() == "validation AUROC"
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["random", "stopped early", "best of its cell"]
    assert figure.svg.exists()


def test_initializations_of_one_setting_stand_beside_each_other(tmp_path: Path, drawn: list[Figure]) -> None:
    slices({init: search_of(init, rows=ROWS) for init in ("random", "pretrained")}, tmp_path)
    _, by_momentum = drawn[0].axes
    [(left, _), *_] = points(by_momentum, "o", is_hollow=False)
    [(right, _), *_] = points(by_momentum, "s", is_hollow=False)
    assert 0.5 < left < 1 < right < 1.5


def test_whole_numbers_have_whole_ticks(tmp_path: Path, drawn: list[Figure]) -> None:
    fields = {"training.batch_size": {"low": 1, "high": 4, "is_whole": True}}
    rows = [{**row(0, 0.8), "training.batch_size": 2}]
    slices({"random": search_of("random", rows=rows, fields=fields)}, tmp_path)
    ticks = drawn[0].axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)


def test_a_search_without_any_value_is_not_drawn(tmp_path: Path) -> None:
    failed = search_of("random", rows=[row(0, math.nan, state="failed")])
    assert slices({"random": failed}, tmp_path) is None
    assert draw_search_history({("s", "random"): failed}, inits=(), folder=tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rises", "expected"), [(True, [0.8, 0.8, 0.95, 0.95, 0.95]), (False, [0.8] * 5)])
def test_the_history_is_the_best_so_far(
    rises: bool, expected: list[float], tmp_path: Path, drawn: list[Figure]
) -> None:
    facts = search_of("random", rows=list(reversed(ROWS)), rises=rises)
    draw_search_history({("s", "random"): facts}, inits=("random",), folder=tmp_path)
    line = drawn[0].axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert line.get_ydata().tolist() == pytest.approx(expected)


def page_of(folder: Path, records: Sequence[TrialRecord], searches: Sequence[SearchFacts]) -> str:
    report = analyze(
        FakeReader(records),
        StudyFacts("a study", searches=searches, optuna_file="searches.db" if searches else ""),
        output=folder,
        options=Options(probe_images=64, explained_images=0),
        parts=("report",),
    )
    return report.read_text(encoding="utf-8")


def test_the_report_has_a_page_on_the_search_and_warns_of_edges(tmp_path: Path) -> None:
    records, [first, _] = two_cells()
    at_edge = search_of("pretrained", rows=[row(0, 0.9, lr=0.98)], results=[r.spec for r in records[2:]])
    page = page_of(tmp_path, records, [first, at_edge])
    assert 'id="search"' in page
    assert "Was each cell compared at its own best settings?" in page
    assert (
        "The best training.optimizer.lr lies at the edge of its range in cbr_tiny · pretrained · digits 5–9: "
        "a better one may lie beyond. Widen the range in search.space."
    ) in page
    assert "optuna-dashboard sqlite:///searches.db" in page
    drawings = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"slices_0.svg", "search_history.png"} <= drawings
    tables = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"searches.csv", "searches.md", "settings_tried.csv"} <= tables


def test_a_study_without_a_search_has_no_such_page_and_no_such_warning(tmp_path: Path) -> None:
    page = page_of(tmp_path, two_cells()[0], [])
    assert 'id="search"' not in page
    assert "search.space" not in page
    assert not (tmp_path / "tables" / "settings_tried.csv").exists()


def train(store: Store, study: Study, entry: PlanEntry, marks: dict[str, str]) -> None:
    spec = entry.trial.spec
    options = RunOptions(threads=1)
    with closing(
        run_trial(spec, store=store, options=options, data_root=None, study=study.name, marks=marks)
    ) as steps:
        *_, last = steps
    assert last.status == "finished"


def run(store: Store, study: Study) -> Plan:
    """Train what a study with a search needs, one after another, without Ray."""
    for entry in read_plan(study, RecordReader(store)).entries:
        train(store, study, entry, {})
    plan = read_plan(study, RecordReader(store))
    for search in plan.searches:
        while (one := search.draw()) is not None:
            mark = SettingMark(search.cell.key, one.number, one.setting)
            entry = PlanEntry(one.trial, search.label, "to run", None, "")  # type: ignore[arg-type]
            train(store, study, entry, {names.SETTING_PREFIX + study.name: mark.text()})
    plan = read_plan(study, RecordReader(store))
    for entry in plan.entries:
        if entry.record is None:
            train(store, study, entry, {})
    return plan


def test_analyze_reports_a_search_from_the_records_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    text = search_study("settings: 2\n  sampler: random", more="checkpoints: {keep: [best]}").text
    study = parse_study(text.replace("seeds: 2", "seeds: 1"))
    open_study_run(store, study.name).log_study_file(study.text)
    plan = run(store, study)
    outcome = CliRunner().invoke(main, ["analyze", study.name, "--only", "report"])
    assert outcome.exit_code == 0, outcome.output
    folder = tmp_path / "reports" / study.name
    trials = pd.read_csv(folder / "tables" / "trials.csv")
    assert len(trials) == 1 + 2, "the source, and a result of each cell"
    results = {trial.trial_id for search in plan.searches for trial in search.results()}
    assert set(trials[~trials["is_source"]]["trial_id"]) == results
    performance = pd.read_csv(folder / "tables" / "performance.csv")
    assert performance["setting"].unique().tolist() == ["cbr_tiny · digits 5–9"]
    assert set(performance["settings_tried"]) == {2}
    assert pd.read_csv(folder / "tables" / "missing.csv").empty
    tried = pd.read_csv(folder / "tables" / "settings_tried.csv")
    assert (len(tried), set(tried["state"])) == (4, {"done"})
    storage = f"sqlite:///{folder / 'searches.db'}"
    for search in plan.searches:
        found = optuna.load_study(study_name=search.label, storage=storage)
        assert found.best_value == search.ranked()[0].value
