"""Counts of operations are made once, kept whole, and made anew when they are not or no longer true."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from study.cost import counts
from study.cost.counts import OperationCounts, expected_outputs
from tests.conftest import tiny_trial
from trainables.counting import count_operations
from trainables.datasets.spec import DatasetSpec
from trainables.operations import Operations


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path))
    return tmp_path / "operations"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def count(*arguments: object, **more: object) -> Operations:
        calls.append(str(arguments[0]))
        return count_operations(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("trainables.counting.count_operations", count)
    return calls


def test_a_count_is_made_once_for_all_trials_of_a_network(cache: Path, counted: list[str]) -> None:
    first = OperationCounts().of(tiny_trial(seed=1))
    again = OperationCounts().of(tiny_trial(seed=2, training={"steps": 99, "optimizer": {"kind": "adam"}}))
    assert first == again
    assert first is not None
    assert first.n_params > 0
    assert len(counted) == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "cbr_small"},
        {"dataset": {"reader": "digits", "classes": ["5", "6"], "size_px": 32}},
        {"dataset": {"reader": "digits", "classes": ["5", "6"], "size_px": 16, "channels": 3}},
        {"dataset": {"reader": "digits", "classes": ["5", "6", "7"], "size_px": 16}},
        {"training": {"steps": 1, "trainable": "head"}},
    ],
)
def test_whatever_decides_a_count_is_part_of_its_name(counted: list[str], change: dict) -> None:
    first, other = OperationCounts().of(tiny_trial()), OperationCounts().of(tiny_trial(**change))
    assert len(counted) == 2
    assert first != other


def test_another_version_of_a_library_is_counted_anew(
    counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    OperationCounts().of(tiny_trial())
    monkeypatch.setattr(counts, "_versions", lambda: {"torch": "99", "code": "x"})
    OperationCounts().of(tiny_trial())
    assert len(counted) == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b'{"forward_flops": 1}',
        b"\xff\xfe",
        json.dumps({**asdict(Operations(1, 2, 3, 4, 5)), "n_params": "3"}).encode(),
        json.dumps({**asdict(Operations(1, 2, 3, 4, 5)), "n_params": -3}).encode(),
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_counted_anew_and_mended(cache: Path, damage: bytes) -> None:
    first = OperationCounts().of(tiny_trial())
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert OperationCounts().of(tiny_trial()) == first
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_noted_and_not_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "file"))
    made = OperationCounts()
    assert made.of(tiny_trial()) is not None
    (notice,) = made.notices
    assert "cannot write the cache file" in notice
    assert "until then operations are counted each time" in notice


def test_a_network_that_cannot_be_counted_is_unknown_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Operations:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr("trainables.counting.count_operations", refuse)
    made = OperationCounts()
    assert made.of(tiny_trial()) is made.of(tiny_trial(seed=1)) is None
    assert made.notices == ["the operations of cbr_tiny cannot be counted: no meta kernel"]


def test_trees_have_no_operations() -> None:
    assert OperationCounts().of(tiny_trial(architecture="decision_tree", training={"method": "fit"})) is None


def test_outputs_are_the_classes_that_are_known() -> None:
    def outputs(**content: object) -> int:
        return expected_outputs(DatasetSpec.model_validate({"reader": "digits", **content}))

    assert outputs() == 10
    assert outputs(classes=["1", "2", "3"]) == 3
    assert outputs(n_classes=4) == 4
    assert outputs(superclasses={"odd": ["1"], "even": ["2"]}) == 2
    assert expected_outputs(DatasetSpec(reader="image_folder", path="x")) == 2


SCRIPT = """
import sys
from study.cost.counts import OperationCounts
from trainables.spec import TrialSpec
print(OperationCounts().of(TrialSpec.model_validate_json(sys.argv[1])), "torch" in sys.modules)
"""


def test_two_processes_at_once_agree_and_a_third_needs_no_torch(cache: Path) -> None:
    text = tiny_trial().model_dump_json()
    command = [sys.executable, "-c", SCRIPT, text]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert first.startswith("Operations(forward_flops=")
    assert first.split(")")[0] == second.split(")")[0]
    third = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    assert third == first.replace("True", "False")
    assert len(list(cache.iterdir())) == 1
