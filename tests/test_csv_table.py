"""Tables of one's own beside images."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.miniatures.tables import write_csv, write_rows
from tests.reader_contract import check_reader_contract
from trainables.datasets.csv_table import read_csv_table
from trainables.datasets.options import CsvOptions
from trainables.datasets.table import UNKNOWN
from trainables.errors import DataError

GIVEN: dict[str, Any] = {"image": "file", "label": "finding", "folder": "images", "suffix": ".png"}


def fields(**options: Any) -> dict[str, Any]:
    return {"reader": "csv", "path": "scans/labels.csv", "channels": 3, "options": {**GIVEN, **options}}


def read(root: Path, **options: Any) -> Any:
    return read_csv_table(root / "scans" / "labels.csv", CsvOptions.model_validate({**GIVEN, **options}))


@pytest.mark.parametrize("options", [{}, {"group": "patient_id"}, {"group": "patient_id", "split": "part"}])
def test_the_contract_of_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    write_csv(tmp_path)
    dataset = check_reader_contract(fields(**options), tmp_path, monkeypatch)
    assert dataset.classes == ("2", "10", "none")
    n_groups = len({*dataset.train.groups, *dataset.val.groups, *dataset.test.groups})
    assert n_groups == (30 if options else 60)


def test_the_columns_say_what_they_are_asked_for(tmp_path: Path) -> None:
    write_csv(tmp_path)
    table = read(tmp_path, group="patient_id", split="part")
    row = list(table.sample_ids).index("p04/1.png")
    assert (table.classes[table.labels[row]], table.groups[row], table.splits[row]) == ("2", "4", "val")
    assert table.on_disk is None


def test_several_labels_are_marks_and_an_empty_cell_is_not_known(tmp_path: Path) -> None:
    write_csv(tmp_path)
    table = read(tmp_path, label=None, labels=["edema", "fracture"])
    assert table.classes == ("edema", "fracture")
    rows = {name: row.tolist() for name, row in zip(table.sample_ids, table.labels, strict=True)}
    assert rows["p00/0.png"] == [1, 0]
    assert rows["p04/0.png"] == [0, UNKNOWN]


def test_a_table_of_tabs_is_read_as_such(tmp_path: Path) -> None:
    write_csv(tmp_path)
    file = tmp_path / "scans" / "labels.csv"
    file.with_suffix(".tsv").write_text(file.read_text().replace(",", "\t"))
    options = CsvOptions.model_validate(GIVEN)
    assert len(read_csv_table(file.with_suffix(".tsv"), options).rows) == 60


def test_the_fingerprint_follows_the_table_and_the_images(tmp_path: Path) -> None:
    write_csv(tmp_path)
    first = read(tmp_path).images.fingerprint
    (tmp_path / "scans" / "images" / "p00" / "0.png").write_bytes(b"changed")
    second = read(tmp_path).images.fingerprint
    file = tmp_path / "scans" / "labels.csv"
    file.write_text(file.read_text() + "\n")
    assert len({first, second, read(tmp_path).images.fingerprint}) == 3


MISTAKES: dict[str, tuple[list[list[object]], dict[str, Any], str]] = {
    "column": (
        [["fle", "finding"], ["p00/0", "2"]],
        {},
        "expected a column 'file', found fle, finding; did you mean",
    ),
    "no rows": ([["file", "finding"]], {}, "expected at least one row, found none"),
    "no class": (
        [["file", "finding"], ["p00/0", "2"], ["p00/1", ""]],
        {},
        "finding: expected a class, found '' in row 3; mend them",
    ),
    "one class": ([["file", "finding"], ["p00/0", "2"]], {}, "expected at least two classes, found only '2'"),
    "twice": (
        [["file", "finding"], ["p00/0", "2"], ["p00/0", "3"]],
        {},
        "1 images stand twice in the table: p00/0.png; remove one of the rows",
    ),
    "semicolons": (
        [["file;finding"], ["p00/0;2"]],
        {},
        "parted by ',', found them parted by ';'",
    ),
    "two ways": (
        [["file", "finding"], ["p00/0", "1"], ["p00/1", "1.0"], ["p01/0", "2"]],
        {},
        "finding: expected one way to write a class, found '1' and '1.0'; write them alike",
    ),
    "windows": (
        [["file", "finding"], ["p00/0", "2"], [r"p01\0", "3"]],
        {},
        r"file: expected a path with /, found 'p01\\0' in row 3",
    ),
    "other folder": (
        [["file", "finding"], ["p00/0", "2"], ["scans/p01/0", "3"]],
        {},
        "but not on disk: scans/p01/0.png; there is p01/0.png: move or rename them",
    ),
    "absent": (
        [["file", "finding"], ["p00/0", "2"], ["p99/nine", "3"]],
        {},
        "1 images are in the table, but not on disk: p99/nine.png; fetch them, or remove their rows",
    ),
    "split": (
        [["file", "finding", "part"], ["p00/0", "2", "dev"], ["p00/1", "3", "tset"]],
        {"split": "part"},
        "part: expected train, val or test, found 'dev' in row 2 and 1 more; mend them",
    ),
    "nobody": (
        [["file", "finding", "person"], ["p00/0", "2", "a"], ["p00/1", "3", ""]],
        {"group": "person"},
        "person: expected a patient, lesion or other group, found '' in row 3; mend them",
    ),
    "line": (
        [["file", "finding"], [""], ["p00/0", "2"], ["p00/1", ""]],
        {},
        "finding: expected a class, found '' in row 4; mend them",
    ),
    "mark": (
        [["file", "edema"], ["p00/0", "2"]],
        {"label": None, "labels": ["edema"]},
        "edema: expected 0, 1 or nothing, found '2' in row 2; mend them",
    ),
}


def test_a_workbook_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path, n_patients=3)
    workbook = (tmp_path / "scans" / "labels.csv").rename(tmp_path / "scans" / "labels.xlsx")
    with pytest.raises(DataError, match=r"^labels.xlsx: expected a table as .csv or .tsv, found '.xlsx'"):
        read_csv_table(workbook, CsvOptions.model_validate(GIVEN))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_table_says_what_is_wrong(tmp_path: Path, mistake: str) -> None:
    write_csv(tmp_path, n_patients=3)
    rows, options, message = MISTAKES[mistake]
    write_rows(tmp_path / "scans" / "labels.csv", rows)
    with pytest.raises(DataError) as caught:
        read(tmp_path, **options)
    assert message in str(caught.value)


def test_a_missing_table_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels.csv: no table at .*; set TRANSFUSION_DATA to the folder"):
        read(tmp_path)
    write_csv(tmp_path, n_patients=3)
    with pytest.raises(
        DataError, match=r"films: expected an unpacked folder at .*films, with the table beside"
    ):
        read(tmp_path, folder="films")
    (tmp_path / "scans" / "labels.csv").write_bytes(b"file,finding\np00/0,\xff\n")
    with pytest.raises(DataError, match=r"labels.csv: expected a table, and it cannot be read"):
        read(tmp_path)
    (tmp_path / "scans" / "labels.csv").write_text("")
    with pytest.raises(DataError, match=r"labels.csv: expected a column 'file', found none"):
        read(tmp_path)


@pytest.mark.parametrize("order", list(itertools.permutations(("nan", "3", "20"))))
def test_the_order_of_the_rows_has_no_say_in_the_classes(tmp_path: Path, order: tuple[str, ...]) -> None:
    write_csv(tmp_path, n_patients=3)
    rows = [[f"p0{number}/0", name] for number, name in enumerate(order)]
    write_rows(tmp_path / "scans" / "labels.csv", [["file", "finding"], *rows])
    assert read(tmp_path).classes == ("3", "20", "nan")
