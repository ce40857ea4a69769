import math
import re
from typing import NamedTuple

import pandas as pd
import pytest

from analysis.convergence import Threshold, measure_convergence
from analysis.jobs.similarity import SIMILARITY_COLUMNS
from analysis.load import load_histories, load_trials
from analysis.tables.convergence import convergence_table
from analysis.tables.formats import is_numeric, latex, markdown, write_table
from analysis.tables.inventory import missing_table, sources_table
from analysis.tables.performance import class_table, performance_table
from analysis.tables.similarity import similarity_table
from analysis.tables.table import Table
from tests.fake_records import FakeReader, record_of, small_study, spec_of


class Planned(NamedTuple):
    label: str
    state: str
    reason: str


def trials_with(values: dict[str, dict[int, float]]):
    records = [
        record_of(spec_of(init, seed), metrics={"test_auroc": value, "test_auprc": value / 2})
        for init, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return load_trials(FakeReader(records), "fake")


def performance(values: dict[str, dict[int, float]], baseline: str = "random") -> Table:
    return performance_table(trials_with(values).finished, baseline=baseline, primary="test_auroc")


def similarity_rows(**changes) -> pd.DataFrame:
    row = dict.fromkeys(SIMILARITY_COLUMNS, "") | {
        "kind": "before/after", "setting": "net · data", "init_x": "random", "init_y": "random",
        "seed_x": 0, "seed_y": 0, "stage": "conv1", "measure": "svcca", "value": 0.5, "noise_floor": 0.2,
        "directions_x": 10, "directions_y": 12, "n_samples": 1000,
    }  # fmt: skip
    lengths = {len(value) for value in changes.values() if isinstance(value, list)} or {1}
    return pd.DataFrame(row | changes, index=range(lengths.pop()))


def test_performance_is_mean_and_sd_over_seeds_with_their_number():
    table = performance({"random": {0: 0.80, 1: 0.82, 2: 0.84}})
    line = table.display.iloc[0]
    assert (line["initialization"], line["seeds"], line["AUROC"]) == ("random", "3", "0.8200 ± 0.0200")
    assert line["AUPRC"] == "0.4100 ± 0.0100"


def test_difference_is_paired_by_seed_with_its_interval():
    table = performance({"random": {0: 0.5, 1: 0.7, 2: 0.9}, "pretrained": {2: 0.92, 0: 0.51, 1: 0.73}})
    # Differences .01, .03, .02: mean .02, sd .01, t(0.975, 2) = 4.303.
    display = table.display.set_index("initialization")["AUROC − random [95 % interval]"]
    assert display["random"] == "baseline"
    assert display["pretrained"] == "+0.0200 [−0.0048, +0.0448]"
    row = table.data[(table.data["init"] == "pretrained") & (table.data["metric"] == "test_auroc")].iloc[0]
    assert row["n_pairs"] == 3
    assert row["difference_low"] == pytest.approx(0.02 - 4.303 * 0.01 / math.sqrt(3), abs=1e-5)


def test_one_seed_has_no_spread_and_no_interval():
    table = performance({"random": {0: 0.8}, "pretrained": {0: 0.9}})
    line = table.display.set_index("initialization").loc["pretrained"]
    assert line["AUROC"] == "0.9000"
    assert line["AUROC − random [95 % interval]"] == "+0.1000 [one pair]"
    assert table.data["sd"].isna().all()


@pytest.mark.parametrize(
    "values",
    [{"pretrained": {0: 0.9}}, {"random": {1: 0.8}, "pretrained": {0: 0.9}}],
    ids=["absent", "unpaired"],
)
def test_without_a_paired_baseline_the_difference_is_absent(values):
    line = performance(values).display.set_index("initialization").loc["pretrained"]
    assert line["AUROC − random [95 % interval]"] == "–"


def test_any_initialization_can_be_the_baseline():
    table = performance({"random": {0: 0.8}, "1": {0: 0.9}}, baseline="transfusion 1/4")
    display = table.display.set_index("initialization")["AUROC − transfusion 1/4 [95 % interval]"]
    assert display["transfusion 1/4"] == "baseline"
    assert display["random"] == "−0.1000 [one pair]"


def test_a_metric_that_could_not_be_computed_is_not_counted():
    table = performance({"random": {0: 0.8, 1: math.nan}})
    row = table.data[table.data["metric"] == "test_auroc"].iloc[0]
    assert (row["n_seeds"], row["mean"]) == (1, 0.8)


def converged(threshold: float):
    reader = FakeReader(small_study(seeds=(0, 1, 2), inits=("random", "pretrained")))
    trials = load_trials(reader, "fake")
    histories = load_histories(reader, [trials.records[key] for key in trials.finished["trial_id"]])
    thresholds = {"digits 5–9": Threshold(threshold, "given in the study file")}
    measured = measure_convergence(trials.finished, histories, metric="val_auroc", thresholds=thresholds)
    return convergence_table(trials.finished, measured, thresholds, metric="val_auroc")


def test_convergence_counts_who_arrived_and_says_which_threshold():
    table = converged(0.93)
    display = table.display.set_index("initialization")
    assert display.loc["pretrained", "reached"] == "3 of 3"
    assert display.loc["pretrained", "median steps"] == "100"
    assert display.loc["random", "reached"] == "0 of 3"
    assert display.loc["random", "median steps"] == "> 300"
    assert set(display["threshold"]) == {"≥ 0.9300"}
    assert "digits 5–9: 0.9300, given in the study file" in table.note
    assert math.isnan(table.data.set_index("init").loc["random", "median_steps"])


def test_similarity_is_averaged_over_pairs_beside_its_floor():
    table = similarity_table(similarity_rows(value=[0.4, 0.6], noise_floor=[0.2, 0.3], seed_x=[0, 1]))
    line = table.display.iloc[0]
    assert line["SVCCA"] == "0.50 ± 0.14 (floor 0.25)"
    assert (line["pairs"], line["samples"], line["linear CKA"]) == ("2", "1,000", "–")
    assert table.data[["mean", "noise_floor", "directions_y"]].iloc[0].tolist() == [0.5, 0.25, 12]


def test_similarity_without_value_is_not_averaged():
    rows = similarity_rows(value=[0.4, math.nan], reason=["", "truncated"])
    assert similarity_table(rows).display["pairs"].tolist() == ["1"]


def test_missing_lists_plan_failures_and_comparisons():
    failed = record_of(spec_of("random", 3), status="failed", cause="train_loss became nan at step 412")
    trials = load_trials(FakeReader([*small_study(), failed]), "fake").table
    planned = [
        Planned("resnet18 · random · digits 5–9", "to run", ""),
        Planned("a finished cell", "done", ""),
    ]
    table = missing_table(trials, planned, similarity_rows(value=math.nan, reason="checkpoint is truncated"))
    assert table.display.to_numpy().tolist() == [
        ["resnet18 · random · digits 5–9", "to run", "–"],
        ["cbr_tiny · random · digits 5–9 · seed 3", "failed", "train_loss became nan at step 412"],
        [
            "similarity · net · data · random · seed 0 (before/after)",
            "not computed",
            "checkpoint is truncated",
        ],
    ]


@pytest.mark.parametrize(
    "label",
    ["cbr_tiny · random · digits 5–9", "cbr_tiny · random · digits 5–9 · seed 3"],
    ids=["cell", "trial"],
)
def test_a_failure_the_plan_lists_is_listed_once(label):
    failed = record_of(spec_of("random", 3), status="failed", cause="boom")
    trials = load_trials(FakeReader([failed]), "fake").table
    table = missing_table(trials, [Planned(label, "failed", "boom")], similarity_rows())
    assert table.display["what"].tolist() == [label]


def test_sources_are_listed_apart():
    table = sources_table(load_trials(FakeReader(small_study()), "fake").table)
    assert table.display["training"].tolist() == ["cbr_tiny · random · digits 0–4 · seed 0"]


@pytest.fixture
def awkward() -> Table:
    display = pd.DataFrame({"init_name": ["a|b & 50 %", "–"], "AUROC": ["0.9 ± 0.1", "–"]})
    return Table("awkward", "A_title", "x ≥ 1", pd.DataFrame({"value": [0.1, math.nan]}), display)


def test_all_three_formats_are_written(awkward, tmp_path):
    paths = write_table(awkward, tmp_path / "new")
    assert sorted(path.name for path in paths) == ["awkward.csv", "awkward.md", "awkward.tex"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "awkward.csv"), awkward.data)


def test_csv_keeps_every_digit(awkward, tmp_path):
    awkward.data.loc[0, "value"] = 1 / 3
    write_table(awkward, tmp_path)
    assert pd.read_csv(tmp_path / "awkward.csv")["value"].iloc[0] == 1 / 3


def test_markdown_rows_have_as_many_cells_as_the_heading(awkward):
    lines = [line for line in markdown(awkward).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "a\\|b" in lines[2]


def test_latex_is_booktabs_with_everything_escaped(awkward):
    text = latex(awkward)
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lr}", r"\label{tab:awkward}"):
        assert command in text
    assert r"a|b \& 50 \% & 0.9 $\pm$ 0.1 \\" in text
    assert r"init\_name & AUROC \\" in text
    assert r"\caption{A\_title. x $\geq$ 1}" in text


def test_latex_of_every_table_is_ascii():
    """pdflatex stops at characters its encoding lacks."""
    finished = trials_with({"random": {0: 0.8, 1: 0.9}, "1": {0: 0.8, 1: 0.7}}).finished
    tables = (
        performance_table(finished, baseline="random", primary="test_auroc"),
        converged(0.9),
        similarity_table(similarity_rows()),
        missing_table(finished, [], similarity_rows(reason="x")),
        sources_table(load_trials(FakeReader(small_study()), "fake").table),
    )
    for table in tables:
        assert latex(table).isascii(), table.name


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0.9 ± 0.1", "–"], True),
        (["+0.1 [−0.1, +0.2]", "baseline"], True),
        (["> 300", "1,000"], True),
        (["conv1", "0.5"], False),
        (["–"], False),
    ],
)
def test_columns_of_numbers_are_recognised(texts, expected):
    assert is_numeric(pd.Series(texts)) is expected


def by_class(metrics: dict[str, float]) -> pd.DataFrame:
    records = [record_of(spec_of("random", seed), metrics=metrics) for seed in (0, 1)]
    return load_trials(FakeReader(records), "fake").finished


def test_every_class_has_its_column_averaged_over_seeds():
    metrics = {"test_f1/mel": 0.5, "test_f1/nv": 0.9, "test_auroc/mel": 0.8}
    table = class_table(by_class(metrics), "f1")
    assert list(table.display.columns) == ["setting", "initialization", "seeds", "mel", "nv"]
    assert table.display["nv"].tolist() == ["0.900 ± 0.000"]
    assert table.data[["class", "mean", "n_seeds"]].values.tolist() == [["mel", 0.5, 2], ["nv", 0.9, 2]]


def test_the_areas_of_two_classes_are_not_told_twice():
    two = {"test_auroc/a": 0.8, "test_auroc/b": 0.8}
    assert class_table(by_class(two), "auroc").display.empty
    assert not class_table(by_class({**two, "test_auroc/c": 0.7}), "auroc").display.empty
    of_labels = {"test_auroc/Edema": 0.8, "test_auroc/Atelectasis": 0.6}
    assert class_table(by_class(of_labels), "auroc").display["Edema"].tolist() == ["0.800 ± 0.000"]


def test_a_study_without_scores_by_class_has_an_empty_table():
    assert class_table(by_class({"test_auroc": 0.8}), "f1").display.empty
