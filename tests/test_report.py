"""The whole analysis, from records to one HTML file."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from bokeh.resources import Resources

from analysis.jobs.cache import OutcomeCache
from analysis.pipeline import analyze
from analysis.results import Options, StudyFacts
from tests.fake_records import TARGET_DATASET, FakeReader, record_of, small_study, spec_of
from trainables.resolution import resolve
from trainables.spec import parse_trial

# Equal jobs of all these reports are done once.
CACHE = OutcomeCache(Path(tempfile.mkdtemp()))
STUDY_FACTS = ("question", "file", "planned", "trial_ids", "run_address")


class Planned(NamedTuple):
    label: str
    state: str
    reason: str


class Page(HTMLParser):
    """Text, links, ids and open tags of a page."""

    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.anchors, self.ids, self.sources = "", set(), set(), []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a":
            self.anchors.add(values["href"].removeprefix("#"))
        self.sources += [values[key] for key in ("src", "href") if key in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def report_of(records, tmp_path: Path, **options) -> str:
    reader = records if isinstance(records, FakeReader) else FakeReader(records)
    facts = {name: options.pop(name) for name in STUDY_FACTS if name in options}
    rest = {name: options.pop(name) for name in ("parts", "cache", "perform", "progress") if name in options}
    path = analyze(
        reader,
        StudyFacts("a study", **facts),
        output=tmp_path / "out",
        options=Options(**{"probe_images": 64, "positions_per_image": 2, "explained_images": 0} | options),
        **{"cache": CACHE} | rest,
    )
    assert path == tmp_path / "out" / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with everything in it."""
    torch.set_num_threads(1)  # made before the fixture that does so for every test
    folder = tmp_path_factory.mktemp("report")
    failed = record_of(spec_of("random", 3), status="failed", cause="train_loss became nan at step 412")
    records = [*small_study(seeds=(0, 1), inits=("random", "2", "pretrained")), failed]
    report_of(
        FakeReader(records, damaged=[(records[1].trial_id, "initial")]),
        folder,
        question="Does <pretraining> help?",
        file="name: a study\nseeds: [0, 1, 2]  # <three>\n",
        explained_images=1,
        planned=[Planned("resnet18 · random · digits 5–9", "to run", "not started")],
    )
    return folder / "out"


@pytest.fixture(scope="module")
def html(full: Path) -> str:
    return (full / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(html):
    page = Page(html)
    assert page.open == []
    assert page.anchors <= page.ids
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    # The library that draws the plots names addresses of its own home, and loads none of them.
    own = html.replace(Resources(mode="inline", components=["bokeh"]).render_js(), "")
    assert len(own) < len(html) - 1_000_000
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", own)


def test_the_page_says_what_was_asked_and_what_was_found(html):
    text = Page(html).text
    assert "Does <pretraining> help?" in text
    assert "<pretraining>" not in html
    for part in ("Key findings", "Performance", "Convergence", "Transfusion depth", "Learning curves",
                 "Similarity of representations", "Source trainings", "What is missing",
                 "Settings and method", "Study file", "# <three>"):  # fmt: skip
        assert part in text
    assert "Best mean test AUROC: pretrained" in text
    assert "95 % interval" in text
    assert re.search(r"1\s*trial to run", text)


def test_without_a_plan_trials_are_counted_by_their_status(tmp_path):
    failed = record_of(spec_of("random", 0), status="failed", cause="boom")
    text = Page(
        report_of([failed, record_of(spec_of("random", 1)), record_of(spec_of("1", 1))], tmp_path)
    ).text
    assert re.search(r"2\s*trials finished", text)
    assert re.search(r"1\s*trial failed", text)


def test_what_is_missing_is_listed_with_its_reason(html):
    text = Page(html).text
    for part in ("resnet18 · random · digits 5–9", "not started", "train_loss became nan at step 412",
                 "checkpoint 'initial' cannot be used: truncated"):  # fmt: skip
        assert part in text


def test_the_method_is_stated(html):
    text = Page(html).text
    assert "99%, as squares of singular values" in text
    assert "64 of the test split" in text
    assert "Noise floor." in text
    assert "0.99 × the mean best val_auroc of random" in text


def test_every_table_and_figure_is_written(full):
    tables = {path.name for path in (full / "tables").iterdir()}
    for name in ("performance", "convergence", "similarity", "missing", "sources"):
        assert {f"{name}.csv", f"{name}.md", f"{name}.tex"} <= tables
    assert {"trials.csv", "histories.csv", "similarity_pairs.csv"} <= tables
    drawn = {path.name for path in (full / "figures").iterdir()}
    for name in ("learning_curves_val_auroc", "transfusion_depth", "similarity_before_after_svcca",
                 "similarity_pairs_svcca", "similarity_pairs_linear_cka"):  # fmt: skip
        assert {f"{name}.png", f"{name}.svg"} <= drawn


def test_written_rows_are_the_trials(full):
    trials = pd.read_csv(full / "tables" / "trials.csv")
    assert len(trials) == 8
    assert {"steps", "reached", "curve_area", "test_auroc"} <= set(trials)
    assert trials["steps"].notna().sum() == 6


def test_analysing_twice_changes_nothing_but_the_clock(tmp_path):
    pages = [report_of(small_study(seeds=(0, 1), inits=("random", "1")), tmp_path) for _ in range(2)]
    first, second = (re.sub(r"Study report · [^<]*", "", page) for page in pages)
    assert first == second


def test_one_seed_is_reported_with_a_warning(tmp_path):
    text = Page(report_of(small_study(seeds=(0,), inits=("random", "pretrained")), tmp_path)).text
    assert "Some cells have only one seed." in text
    assert "one seed tells nothing about the spread" in text
    assert "Do pretrained networks end elsewhere?" not in text


def test_a_study_without_baseline_is_reported(tmp_path):
    text = Page(report_of(small_study(seeds=(0, 1), inits=("pretrained", "2")), tmp_path)).text
    assert "No cell of the baseline random has finished, so no differences are given." in text
    assert "0.99 × the mean best val_auroc of all cells" in text


@pytest.mark.parametrize("records", [[], [record_of(spec_of("random", 0), status="failed", cause="boom")]])
def test_a_study_without_finished_trial_says_so(records, tmp_path):
    text = Page(report_of(records, tmp_path)).text
    assert "No trial of this study has finished, so there is nothing to conclude yet." in text
    assert ("boom" in text) == bool(records)
    assert ("The study has no trial yet." in text) == (not records)


def test_a_dataset_that_is_not_here_costs_only_the_similarity(tmp_path):
    dataset = {"reader": "medmnist", "path": "pneumoniamnist.npz", "size_px": 28}
    records = [record_of(spec_of(init, seed, dataset=dataset)) for init in ("random", "1") for seed in (0, 1)]
    text = Page(report_of(records, tmp_path)).text
    assert "Best mean test AUROC" in text
    assert "No two networks could be compared" in text
    assert "set TRANSFUSION_DATA to the folder that holds it" in text


def test_the_threshold_metric_ranks_and_is_drawn(tmp_path):
    page = report_of(
        small_study(seeds=(0, 1), inits=("random", "1")),
        tmp_path,
        threshold_metric="val_loss",
        thresholds={"digits 5–9": 0.3},
    )
    text = Page(page).text
    assert "val_loss ≤ 0.3000" in text
    assert (tmp_path / "out" / "figures" / "learning_curves_val_loss.svg").exists()
    # These trials hold no test loss, so AUROC ranks them.
    assert "Best mean test AUROC" in text


def test_the_test_metric_that_belongs_to_the_threshold_metric_ranks(tmp_path):
    records = small_study(seeds=(0, 1), inits=("random", "1"))
    text = Page(report_of(records, tmp_path, threshold_metric="val_auprc")).text
    assert "Best mean test AUPRC" in text
    assert "AUPRC − random [95 % interval]" in text


def test_progress_is_told(tmp_path):
    told = []
    report_of(small_study(seeds=(0,), inits=("random",)), tmp_path, progress=lambda *step: told.append(step))
    assert told[0] == ("reading records", 0, 1)
    assert ("comparing networks", 1, 1) in told
    assert told[-1] == ("drawing figures", 0, 1)
    assert all(done <= of for _, done, of in told)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_is_valid(html, tmp_path):
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    file = tmp_path / "page.js"
    file.write_text(scripts[-1])
    assert subprocess.run(["node", "--check", str(file)], check=False).returncode == 0


def test_two_architectures_with_nothing_in_common_are_reported(tmp_path):
    digits = {"reader": "digits", "size_px": 32}
    records = [
        record_of(spec_of("random", 0)),
        record_of(spec_of("random", 0, architecture="resnet18", dataset={**digits, "classes": ["0", "1"]})),
    ]
    text = Page(report_of(records, tmp_path)).text
    assert "cbr_tiny · digits 5–9" in text
    assert "resnet18 · digits 0–1" in text
    assert "across architectures" not in (tmp_path / "out" / "tables" / "stage_maps.csv").read_text()


def test_a_network_that_diverged_costs_only_what_needs_it(tmp_path):
    class Diverged(FakeReader):
        def weights(self, record, checkpoint):
            state = super().weights(record, checkpoint)
            is_bad = record.spec.seed == 1 and checkpoint != "initial"
            return {key: value * float("nan") if is_bad else value for key, value in state.items()}

    records = small_study(seeds=(0, 1), inits=("random", "1"))
    text = Page(report_of(Diverged(records), tmp_path, cache=None)).text
    assert "Best mean test AUROC" in text
    assert "pictures need finite weights" in text
    assert "the network has diverged" in text


def test_trees_alone_are_reported(tmp_path):
    fitted = {"architecture": "decision_tree", "training": {"method": "fit"}, "dataset": TARGET_DATASET}
    records = [record_of(resolve(parse_trial({**fitted, "seed": seed})), checkpoints=()) for seed in (0, 1)]
    text = Page(report_of(records, tmp_path)).text
    assert "Fitted on the pixels: test AUROC" in text
    assert "needs a decision tree, and a network from random weights" in text


def test_images_that_are_not_those_of_the_trials_are_not_looked_at(tmp_path):
    records = [
        replace(record, dataset_digest="e" * 64) for record in small_study(seeds=(0,), inits=("random",))
    ]
    text = Page(report_of(records, tmp_path)).text
    assert "are not those of cbr_tiny · random · digits 5–9 · seed 0" in text
