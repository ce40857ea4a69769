"""CheXpert: what its marks are taken for, and which films are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.miniatures.tables import write_chexpert
from tests.reader_contract import check_reader_contract
from trainables.datasets.catalog import DATASETS
from trainables.datasets.chexpert import read_chexpert
from trainables.datasets.options import ChexpertOptions
from trainables.datasets.readers import CHEXPERT_FINDINGS, CHEXPERT_TASKS
from trainables.datasets.table import UNKNOWN, Table
from trainables.errors import DataError

EDEMA = CHEXPERT_FINDINGS.index("Edema")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_chexpert(tmp_path)
    return tmp_path / "CheXpert-v1.0-small"


def read(root: Path, **options: Any) -> Table:
    return read_chexpert(root, ChexpertOptions.model_validate(options))


def cells(root: Path, finding: str = "Edema") -> dict[str, str]:
    """Read the raw cells of a finding by path, without the reader."""
    found = {}
    for table in ("train.csv", "valid.csv"):
        header, *rows = (line.split(",") for line in (root / table).read_text().splitlines())
        column = header.index(finding)
        found |= {row[0].partition("/")[2]: row[column] for row in rows}
    return found


def test_the_contract_of_readers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = check_reader_contract(DATASETS["chexpert_small"], root.parent, monkeypatch)
    assert dataset.task == "multilabel"
    assert dataset.classes == CHEXPERT_TASKS
    assert all(str(group).startswith("patient") for group in dataset.train.groups)


@pytest.mark.parametrize("name", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_both_editions_are_read_wherever_they_lie(tmp_path: Path, name: str) -> None:
    write_chexpert(tmp_path, name=name, n_patients=4)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    table = read(tmp_path / "elsewhere")
    assert table.sample_ids[0] == "train/patient00001/study1/view1_frontal.jpg"
    assert table.on_disk is not None
    assert table.on_disk.splits == {"train": 8, "valid": 16}


@pytest.mark.parametrize(
    ("options", "uncertain", "blank"),
    [
        ({}, 0, 0),
        ({"uncertain": "ones"}, 1, 0),
        ({"uncertain": "ignore", "blank": "ignore"}, UNKNOWN, UNKNOWN),
        ({"uncertain": {"Edema": "ones", "default": "ignore"}}, 1, 0),
        ({"uncertain": {"Fracture": "ones"}, "blank": {"default": "ones"}}, 0, 1),
    ],
)
def test_uncertain_and_blank_have_policies_of_their_own(
    root: Path, options: dict[str, Any], uncertain: int, blank: int
) -> None:
    table, raw = read(root, **options), cells(root)
    meant = {"1.0": 1, "0.0": 0, "-1.0": uncertain, "": blank}
    expected = [meant[raw[path]] for path in table.sample_ids]
    assert set(raw.values()) == set(meant)
    np.testing.assert_array_equal(table.labels[:, EDEMA], expected)


def test_lateral_views_are_left_out_unless_they_are_asked_for(root: Path) -> None:
    frontal, every = read(root), read(root, views="all")
    assert len(every.rows) == 2 * len(frontal.rows) == 100
    assert not any("lateral" in path for path in frontal.sample_ids)
    assert frontal.on_disk == every.on_disk


def test_the_radiologists_patients_are_the_test_split(root: Path) -> None:
    table = read(root)
    assert {path.split("/")[0] for path in table.sample_ids[table.splits == "test"]} == {"valid"}
    assert set(table.splits) == {"train", "test"}


def spoil(root: Path, before: str, after: str) -> None:
    file = root / "train.csv"
    file.write_text(file.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "Edema",
            "Oedema",
            "train.csv: expected a column 'Edema', found Path, Sex, .*; did you mean 'Oedema'",
        ),
        (
            ",-1.0",
            ",2.0",
            r"expected 1.0, 0.0, -1.0 or nothing, found '2.0' \(CheXpert-v1.0-small/train/patient",
        ),
        (
            "/train/patient00001/",
            "/tr/p1/",
            "expected paths such as CheXpert-v1.0/train/patient00001/study1/",
        ),
        (
            "patient00001",
            "patient09999",
            "images are in the table, but not on disk: train/patient09999/study1/",
        ),
        (
            ",Frontal,",
            ",Front,",
            r"Frontal/Lateral: expected Frontal or Lateral, found 'Front' \(CheXpert-v1.0-small/train/pat",
        ),
        (",Frontal,", ",Lateral,", None),
    ],
)
def test_damaged_tables_are_told(root: Path, before: str, after: str, message: str | None) -> None:
    spoil(root, before, after)
    if message is None:
        file = root / "valid.csv"
        file.write_text(file.read_text().replace(before, after))
        message = "expected frontal views, found none; give views: all"
    with pytest.raises(DataError, match=message):
        read(root)


def test_marks_are_read_alike_with_equal_policies(root: Path) -> None:
    policies = ({"Edema": "ones"}, {"default": "zeros", "Edema": "ones"})
    one, other = (read(root, uncertain=policy) for policy in policies)
    assert np.array_equal(one.labels, other.labels)
    written = ChexpertOptions.model_validate({"uncertain": policies[0]}).of_findings(CHEXPERT_FINDINGS)
    assert np.array_equal(read_chexpert(root, written).labels, one.labels)


def test_a_missing_table_or_folder_is_named(root: Path) -> None:
    (root / "valid.csv").unlink()
    with pytest.raises(
        DataError, match=r"expected the file valid.csv in .*CheXpert-v1.0-small, found neither"
    ):
        read(root)
    with pytest.raises(DataError, match=r"nowhere: expected an unpacked folder at"):
        read(root.parent / "nowhere")
