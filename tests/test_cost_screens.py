"""What `plan` and `status` print of the cost, and what scripts get."""

import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from study.alone import run_alone
from study.cli import main
from study.config import parse_study
from study.cost.screens import print_cost, print_probes
from study.cost.speed import Measurements
from study.cost.wall_time import WallTime, keep_wall_time
from study.grid import Resources, expand
from study.sections import PriceSection
from study.tracking import open_study_run
from tests.conftest import tiny_trial
from tests.test_estimate import _on_gpu, make, measured, no_cluster, plan_of, trial
from tests.test_speed import probed
from tests.test_stacks import stacked
from trainables.record import Store

__all__ = ["measured", "no_cluster"]

STUDY = """
name: small
seeds: 2
trial: {architecture: cbr_tiny, dataset: {from: digits_5_9, size_px: 16}, training: {steps: 4}}
grid: {training.batch_size: [16, 32]}
resources: {cpu: 1, slots: 1}
price: {cpu_hour: 36, currency: EUR}
"""


def transfusion(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def printed(*arguments: object) -> str:
    output = StringIO()
    print_cost(*arguments, Console(file=output, width=160, color_system=None))  # type: ignore[arg-type]
    return output.getvalue()


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of a table by the name of each row."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


def test_before_anything_was_measured_everything_but_the_work_is_unknown(
    study_file: Path, store: Store
) -> None:
    result = transfusion("plan", study_file)
    assert result.exit_code == 0, result.output
    table = rows(result.output)
    assert table["in total"][:2] == ["4", "384"]
    assert table["in total"][2:] == ["unknown", "0", "unknown", "unknown"]
    assert table["training.batch_size 32"][:2] == ["2", "256"]
    assert table["one more seed"][:2] == ["2", "192"]
    assert "wall time: unknown" in result.output
    assert "unknown: 4 trials, the size of their data is not known yet: cbr_tiny" in result.output
    assert "measure with: transfusion probe STUDY_FILE" in result.output


def test_after_one_trial_of_each_setting_the_others_are_known(study_file: Path, store: Store) -> None:
    for planned in expand(parse_study(STUDY)).trials:
        if planned.spec.seed == 0:
            run_alone(planned.spec, store=store, threads=1, data_root=None)
    content = json.loads(transfusion("plan", study_file, "--json", "--cost").stdout)
    trials = content["trials"]
    assert [row["state"] for row in trials] == ["done", "to run", "done", "to run"]
    assert trials[0]["seconds"] == trials[0]["flops"] == 0
    left = [row["seconds"] for row in trials if row["state"] == "to run"]
    assert all(seconds > 0 for seconds in left)
    total = content["total"]
    assert total["trials"] == 2
    assert total["unknown"] == {}
    assert total["cpu_hours"] == pytest.approx(sum(left) / 3600)
    assert total["money"] == pytest.approx(36 * sum(left) / 3600)
    assert content["currency"] == "EUR"
    assert content["slots"] == 1
    assert content["wall_seconds"] == pytest.approx(sum(left))
    assert [one["value"] for one in content["axes"]["seed"]["values"]] == [0, 1]
    assert content["axes"]["seed"]["one_more"]["cpu_hours"] == pytest.approx(sum(left) / 3600)
    assert "wall time: " in transfusion("plan", study_file, "--slots", "2").output


def test_cost_without_json_is_refused(study_file: Path, store: Store) -> None:
    result = transfusion("plan", study_file, "--cost")
    assert result.exit_code == 2
    assert "--cost belongs to --json; without it the cost is printed anyhow" in result.output


def test_a_plan_makes_no_store(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    assert transfusion("plan", study_file).exit_code == 0
    assert transfusion("plan", study_file, "--json").exit_code == 0
    assert not (tmp_path / "none.db").exists()


def test_with_the_operations_known_a_plan_does_not_import_torch(study_file: Path, store: Store) -> None:
    script = (
        "import sys; from study.cli import main; main(['plan', sys.argv[1]], standalone_mode=False); "
        "print('torch' in sys.modules, 'ray' in sys.modules)"
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", script, study_file], capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert lines == ["True False", "False False"]


def test_known_and_unknown_parts_of_a_sum_are_told_apart(measured: Measurements) -> None:
    other = tiny_trial(architecture="cbr_small")
    plan = plan_of(trial("a", net="tiny", seed=0), trial("b", spec=other, net="small", seed=0))
    text = printed(make(plan, measured), PriceSection(cpu_hour=36))
    assert rows(text)["in total"] == ["2", "384", "13120", "0", "0.00278 + unknown", "0.10 + unknown"]
    assert rows(text)["net small"][-2:] == ["unknown", "unknown"]
    assert "wall time: unknown\n" in text
    assert "unknown: 1 trials, no such trial was measured on this hardware: b · seed 0;" in text


def test_wall_time_names_the_slots_the_hardware_and_the_chain_that_nothing_shortens(
    measured: Measurements,
) -> None:
    plan = plan_of(trial("source"), trial("a", "source", net="x", seed=0), trial("b", net="x", seed=1))
    text = printed(make(plan, measured), PriceSection())
    assert "wall time: 27 s on 2 slots, measured on " in text
    assert "critical path: 20 s: source · seed 0 → a · seed 0" in text


def test_trials_that_do_not_fit_are_named_once_a_cell(measured: Measurements) -> None:
    entries = [
        replace(trial(f"t{i}", resources=Resources(1, 0.5), seed=i), cell_label="net") for i in range(3)
    ]
    text = printed(make(plan_of(*entries), _on_gpu()), PriceSection())
    assert text.count("does not fit") == 1
    assert (
        "does not fit: net: needs 16.0 GB, 0.5 of a GPU of 20.0 GB; its micro-batches will be halved" in text
    )


def test_a_study_that_is_done_costs_nothing_more(measured: Measurements) -> None:
    assert printed(make(plan_of(), measured), PriceSection()) == ""


def test_long_axes_and_long_values_are_shortened(measured: Measurements) -> None:
    entries = [trial(f"t{i}", option="x" * 100 + str(i), seed=i) for i in range(20)]
    text = printed(make(plan_of(*entries), measured), PriceSection())
    assert "… and 8 more values of option" in text
    assert max(len(line.split("  ")[0]) for line in text.splitlines() if line.startswith("option")) <= 60


def test_status_tells_how_far_off_the_last_run_was(study_file: Path, store: Store) -> None:
    run = open_study_run(store, "small")
    run.log_study_file(STUDY)
    assert "the last run" not in transfusion("status", "small").output
    keep_wall_time(run, WallTime(100.0, 120.0))
    assert (
        "the last run that was complete: predicted 2 min, took 2 min (+20%)"
        in transfusion("status", "small").output
    )


def test_a_probe_prints_images_a_second_and_what_did_not_fit() -> None:
    output = StringIO()
    console = Console(file=output, width=160, color_system=None)
    full = probed(label="huge", train_s=None, score_s=None, overhead_s=None)
    print_probes([probed(), full], [stacked(4, 0.31), stacked(8, None)], console)
    assert rows(output.getvalue())["cbr_tiny"] == ["2", "4", "3.00", "2"]
    assert "does not fit the GPU" in output.getvalue()
    assert "on EPYC; workers were ready after 7 s" in output.getvalue()
    assert "batch 16: 4 together: 0.31 times the images/s of one by one" in output.getvalue()
    assert "batch 16: 8 together: dropout" in output.getvalue()
    print_probes([], [], console)
    assert "nothing to measure: no trial is open that is trained by gradient" in output.getvalue()
