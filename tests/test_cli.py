"""The command line without Ray: what it prints, and the exit codes it promises."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from analysis.results import PARTS
from study.alone import run_alone
from study.cli import ANALYSIS_PARTS, main
from study.config import parse_study
from study.plan import make_plan
from study.tracking import adopt_finished, find_study_run, open_study_run
from tests.miniatures.tables import write_ham10000
from trainables.datasets import preparation
from trainables.record import RecordReader, Store

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
TRIAL = """
architecture: cbr_tiny
init:
  kind: transfusion
  depth: 2
  source:
    trial:
      architecture: cbr_tiny
      dataset: {from: digits_0_4, size_px: 16}
      training: {steps: 4}
dataset: {from: digits_5_9, size_px: 16}
training: {steps: 6, evaluation: {points: 3}}
"""


def transfusion(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    file = tmp_path / "trial.yaml"
    file.write_text(TRIAL)
    return file


def test_a_plan_shows_cells_sources_and_totals(store: Store) -> None:
    result = transfusion("plan", DEMO)
    assert result.exit_code == 0
    assert "cbr_tiny · transfusion 2/4 · digits 5–9" in result.output
    assert "source: cbr_tiny · random · digits 0–4 · seed 0 (to run) → 15 trials" in result.output
    assert "demo: 19 trials: 4 to run, 15 waiting" in result.output


def test_a_plan_for_scripts_is_one_json_list(store: Store) -> None:
    rows = json.loads(transfusion("plan", DEMO, "--json").stdout)
    assert len(rows) == 19
    assert rows[0].keys() == {"trial_id", "label", "state", "reason", "source_of"}
    waiting = [row for row in rows if row["state"] == "waiting"]
    assert {row["reason"] for row in waiting} == {"for cbr_tiny · random · digits 0–4 · seed 0"}


def test_what_was_excluded_and_merged_is_said(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    text = DEMO.read_text().replace("transfusion_depth: every", "transfusion_depth: [0, 1, all]")
    file.write_text(text + "exclude:\n  - {where: {init: mean_var}, reason: seen elsewhere}\n")
    output = transfusion("plan", file).output
    assert "excluded: init mean_var: seen elsewhere" in output
    assert "6 combinations are the same training as another and are trained once" in output


def test_every_mistake_of_a_study_file_is_listed_and_exits_2(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(DEMO.read_text().replace("lr: 0.02", "lr: 1e-4").replace("mean_var", "mean_vra"))
    for command in ("plan", "run"):
        result = transfusion(command, file)
        assert result.exit_code == 2
        assert "2 mistakes" in result.stderr
        assert "YAML reads 1e-4 as text; write 1.0e-4" in result.stderr
        assert "did you mean 'mean_var'?" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["resume", "status", "analyze"])
def test_an_unknown_study_exits_2_and_names_the_known_ones(store: Store, command: str) -> None:
    result = transfusion(command, "demo")
    assert result.exit_code == 2
    assert "no study 'demo' in sqlite:///" in result.stderr
    assert "it holds: none yet" in result.stderr


def test_a_trial_runs_alone_after_its_pretraining(store: Store, spec_file: Path) -> None:
    result = transfusion("trial", spec_file, "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "step 6/6" in result.output
    assert [record.status for record in RecordReader(store).trials()] == ["finished", "finished"]
    again = transfusion("trial", spec_file)
    assert again.output.count("already finished") == 2


def test_a_failed_trial_exits_3_with_its_cause(store: Store, spec_file: Path) -> None:
    spec_file.write_text(
        TRIAL.replace("{from: digits_0_4, size_px: 16}", "{reader: medmnist, path: absent.npz}")
    )
    result = transfusion("trial", spec_file)
    assert result.exit_code == 3
    assert "TRANSFUSION_DATA" in result.stderr
    assert [record.status for record in RecordReader(store).trials()] == ["failed"]


def test_a_mistaken_trial_exits_2(store: Store, spec_file: Path) -> None:
    spec_file.write_text(TRIAL.replace("depth: 2", "depth: 9"))
    result = transfusion("trial", spec_file)
    assert result.exit_code == 2
    assert "init.depth" in result.stderr


def test_a_bug_keeps_its_traceback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("study.config.load_study", explode)
    result = transfusion("plan", DEMO)
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1


def test_a_store_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = transfusion("plan", DEMO)
    assert result.exit_code == 2
    assert "MLflow at http://127.0.0.1:9 cannot be used" in result.stderr


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def test_data_list_tells_where_each_dataset_is_expected_and_whether_it_is_there(data_root: Path) -> None:
    write_ham10000(data_root)
    lines = {
        line.split()[0]: line for line in transfusion("data", "list").output.splitlines() if line.split()
    }
    assert "yes" in lines["ham10000"]
    assert "10,015" in lines["ham10000"]
    assert "no" in lines["eyepacs"].split()
    assert "embedded" in lines["digits"]
    assert f"TRANSFUSION_DATA: {data_root}" in lines["TRANSFUSION_DATA:"]


def test_data_check_holds_a_copy_against_what_was_published(data_root: Path) -> None:
    write_ham10000(data_root)
    result = transfusion("data", "check", "ham10000", "--size-px", "32")
    assert result.exit_code == 2
    assert "images of mel        1,113     12  ✗" in result.output
    assert "ham10000: not what was published; see partial" in result.output


def test_data_check_names_what_cannot_be_read_and_takes_a_part_for_a_part(
    data_root: Path, tmp_path: Path
) -> None:
    write_ham10000(data_root)
    (data_root / "ham10000" / "HAM10000_images_part_1" / "ISIC_0024306.jpg").write_bytes(b"no image")
    study = tmp_path / "study.yaml"
    part = "{from: ham10000, partial: true, broken_files: skip, size_px: 32}"
    study.write_text(DEMO.read_text() + f"\ndatasets:\n  skin: {part}\n")
    result = transfusion("data", "check", "skin", "--study", study)
    assert "1 images cannot be read: HAM10000_images_part_1/ISIC_0024306.jpg" in result.output
    assert "skin: a part, as the dataset says" in result.output
    assert result.exit_code == 0


def test_data_prepare_decodes_once(data_root: Path) -> None:
    write_ham10000(data_root)
    first = transfusion("data", "prepare", "digits", "--size-px", "16", "--channels", "3")
    assert first.exit_code == 0
    assert "digits: 1,797 images, 1.3 MiB in" in first.output
    result = transfusion("data", "prepare", "ham10000", "--size-px", "32")
    assert result.exit_code == 2
    assert (
        "expected 10015 images in images, found 84; the copy is incomplete: fetch it again, or write partial"
        in (result.output.replace("\n", " "))
    )


def test_a_dataset_that_does_not_exist_is_named(data_root: Path) -> None:
    result = transfusion("data", "check", "ham1000")
    assert result.exit_code == 2
    assert "got 'ham1000'; did you mean 'ham10000'?; one that a study describes needs --study" in (
        " ".join(result.output.split())
    )


def test_a_medmnist_file_that_is_not_there_says_how_to_get_it(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)
    result = transfusion("data", "prepare", "dermamnist")
    assert result.exit_code == 2
    assert "pip install medmnist, or get dermamnist.npz from https://zenodo.org" in result.output


def test_an_interrupted_prepare_says_that_it_can_go_on(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "prepare", interrupted)
    result = transfusion("data", "prepare", "digits")
    assert result.exit_code == 130
    assert "interrupted; what is decoded is kept: the same command goes on from there" in result.output


STUDY = """
name: tiny
trial:
  architecture: cbr_tiny
  dataset: {from: digits_5_9, size_px: 16}
  training: {steps: 6, evaluation: {points: 3}}
grid:
  init: [random]
analysis: {probe_images: 64, positions_per_image: 2, explained_images: 0, bootstrap_replicates: 100}
"""


@pytest.fixture
def tiny_study(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A study of one finished trial; the working folder is empty."""
    study = parse_study(STUDY)
    open_study_run(store, study.name).log_study_file(STUDY)
    [entry] = make_plan(study, []).entries
    assert run_alone(entry.trial.spec, store=store, threads=1, data_root=None) == 0
    adopt_finished(store, make_plan(study, RecordReader(store).trials()))
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_analyze_makes_the_report_and_stores_it_with_the_study(store: Store, tiny_study: Path) -> None:
    result = transfusion("analyze", "tiny")
    assert result.exit_code == 0, result.output
    assert f"report: {tiny_study / 'reports' / 'tiny' / 'report.html'}" in result.output
    run = find_study_run(store, "tiny")
    stored = {file.path for file in store.client.list_artifacts(run.run_id, "analysis")}
    assert stored == {"analysis/report.html", "analysis/tables", "analysis/figures"}


def test_a_second_analysis_computes_nothing(
    store: Store, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transfusion("analyze", "tiny").exit_code == 0

    def refuse(*_: object) -> None:
        raise AssertionError("a job was done again")

    monkeypatch.setattr("analysis.pipeline.do", refuse)
    result = transfusion("analyze", "tiny")
    assert result.exit_code == 0, result.output


def test_a_part_of_an_analysis_says_what_it_left_out_and_is_not_stored(
    store: Store, tiny_study: Path
) -> None:
    result = transfusion("analyze", "tiny", "--only", "report")
    assert result.exit_code == 0, result.output
    assert "a part of an analysis is not stored with the study" in result.stderr
    page = (tiny_study / "reports" / "tiny" / "report.html").read_text()
    assert "Not computed: analyze without --only, or with --only similarity." in page
    assert "pieces of the part “weights” were not asked for" in page
    run = find_study_run(store, "tiny")
    assert store.client.list_artifacts(run.run_id, "analysis") == []


def test_what_an_older_analysis_wrote_is_gone(tiny_study: Path) -> None:
    assert transfusion("analyze", "tiny").exit_code == 0
    stale = tiny_study / "reports" / "tiny" / "figures" / "stale.svg"
    stale.write_text("of another study")
    assert transfusion("analyze", "tiny", "--only", "report").exit_code == 0
    assert not stale.exists()
    assert (stale.parent / "scores_test_auroc.svg").exists()


def test_the_parts_of_the_command_line_are_those_of_the_analysis() -> None:
    assert ANALYSIS_PARTS == PARTS


def test_two_runs_are_compared(store: Store, tiny_study: Path) -> None:
    [record] = RecordReader(store).trials()
    arguments = ("--checkpoint", "initial", "--checkpoint", "final", "--images", "64")
    result = transfusion("compare", record.run_id, record.spec.label, *arguments)
    assert result.exit_code == 0, result.output
    assert "x: cbr_tiny · random · digits 5–9 · seed 0 (initial)" in result.output
    assert "stage × stage" in result.output
    [folder] = (tiny_study / "reports").iterdir()
    assert {"similarity.csv", "stage_maps.csv", "stage_maps_svcca.svg"} <= {f.name for f in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody", "nobody"), "no trial 'nobody' in sqlite:///"),
        (("{id}", "{id}", "--checkpoint", "middle"), "the two cannot be compared: .*no checkpoint 'middle'"),
    ],
)
def test_what_cannot_be_compared_is_named(
    store: Store, tiny_study: Path, arguments: tuple[str, ...], words: str
) -> None:
    [record] = RecordReader(store).trials()
    result = transfusion("compare", *(argument.format(id=record.trial_id) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert re.search(words, result.stderr)
