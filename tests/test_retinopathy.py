"""Grades of diabetic retinopathy: EyePACS, APTOS, Messidor-2, IDRiD."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.miniatures.tables import write_aptos, write_eyepacs, write_idrid, write_messidor2
from trainables.datasets.aptos import read_aptos
from trainables.datasets.eyepacs import read_eyepacs
from trainables.datasets.idrid import read_idrid
from trainables.datasets.messidor2 import read_messidor2
from trainables.datasets.options import AptosOptions, EyepacsOptions
from trainables.errors import DataError


def test_both_eyes_of_a_patient_stay_together(tmp_path: Path) -> None:
    write_eyepacs(tmp_path)
    table = read_eyepacs(tmp_path / "eyepacs", EyepacsOptions())
    eyes = dict(zip(table.sample_ids, table.groups, strict=True))
    assert eyes["train/100_left.jpeg"] == eyes["train/100_right.jpeg"] == "100"
    assert eyes["train/101_left.jpeg"] == "101"


def test_public_and_private_are_validation_and_test(tmp_path: Path) -> None:
    write_eyepacs(tmp_path)
    table = read_eyepacs(tmp_path / "eyepacs", EyepacsOptions())
    split = dict(zip(table.sample_ids, table.splits, strict=True))
    assert (split["test/1_left.jpeg"], split["test/20_left.jpeg"]) == ("val", "test")
    assert table.on_disk is not None
    assert table.on_disk.splits == {"train": 80, "Public": 20, "Private": 20}
    both = read_eyepacs(tmp_path / "eyepacs", EyepacsOptions(public_as_validation=False))
    assert (both.splits == "test").sum() == 40


def test_an_examination_stays_together_and_what_cannot_be_graded_is_left_out(tmp_path: Path) -> None:
    write_messidor2(tmp_path, n_exams=10)
    table = read_messidor2(tmp_path / "messidor2")
    assert len(table.rows) == 19
    assert len(set(table.groups)) == 10
    assert table.on_disk is not None
    assert table.on_disk.splits == {"images": 20}
    assert all(path.startswith("IMAGES/") and path.endswith(".JPG") for path in table.sample_ids)


def test_the_photograph_that_is_in_both_sets_is_tested_only(tmp_path: Path) -> None:
    write_idrid(tmp_path)
    table = read_idrid(tmp_path / "idrid")
    numbers = [(path.split("/")[1], path.rpartition("_")[2]) for path in table.sample_ids]
    assert ("a. Training Set", "118.jpg") not in numbers
    assert ("b. Testing Set", "064.jpg") in numbers
    assert ("a. Training Set", "064.jpg") in numbers
    assert table.on_disk is not None
    assert table.on_disk.splits == {"train": 120, "test": 70}


def test_the_folder_of_part_b_can_be_named_itself(tmp_path: Path) -> None:
    write_idrid(tmp_path, n_train=10, n_test=5)
    inner = read_idrid(tmp_path / "idrid" / "B. Disease Grading")
    assert list(inner.sample_ids) == list(read_idrid(tmp_path / "idrid").sample_ids)


READ: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any], str]] = {
    "eyepacs": (write_eyepacs, lambda root: read_eyepacs(root, EyepacsOptions()), "trainLabels.csv"),
    "aptos2019": (write_aptos, lambda root: read_aptos(root, AptosOptions()), "train.csv"),
    "messidor2": (write_messidor2, read_messidor2, "messidor_data.csv"),
    "idrid": (
        write_idrid,
        read_idrid,
        "B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_grade_that_does_not_exist_is_told(name: str, tmp_path: Path) -> None:
    write, read, table = READ[name]
    write(tmp_path)
    file = tmp_path / name / table
    lines = file.read_text().splitlines()
    first, _, rest = lines[1].partition(",")
    lines[1] = f"{first},7{rest[1:]}"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"expected one of 0, 1, 2, 3, 4, found '7' in row 2; mend it"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", READ)
def test_a_missing_table_and_a_missing_image_are_named(name: str, tmp_path: Path) -> None:
    write, read, table = READ[name]
    write(tmp_path)
    image = next(
        p for p in sorted((tmp_path / name).rglob("*")) if p.suffix.lower() in (".jpeg", ".jpg", ".png")
    )
    image.unlink()
    with pytest.raises(
        DataError, match=r"1 images are in the table, but not on disk: .*; fetch them, or remove"
    ):
        read(tmp_path / name)
    (tmp_path / name / table).unlink()
    with pytest.raises(DataError, match=r"expected the file .* in .*, found neither it nor its like; fetch"):
        read(tmp_path / name)


def test_a_name_that_tells_no_patient_is_told(tmp_path: Path) -> None:
    write_eyepacs(tmp_path)
    file = tmp_path / "eyepacs" / "trainLabels.csv"
    file.write_text(file.read_text().replace("100_left", "ten_left"))
    with pytest.raises(
        DataError, match=r"expected images such as 10_left, found 'ten_left'; fetch the tables"
    ):
        read_eyepacs(tmp_path / "eyepacs", EyepacsOptions())


def test_a_mistake_is_told_by_the_table_and_the_line_it_is_in(tmp_path: Path) -> None:
    write_eyepacs(tmp_path)
    file = tmp_path / "eyepacs" / "retinopathy_solution.csv"
    text = file.read_text()
    file.write_text(text.replace("1_right,0,", "1_right,9,", 1))
    with pytest.raises(
        DataError, match=r"^retinopathy_solution.csv: level: expected .*'9' in row 3; mend it"
    ):
        read_eyepacs(tmp_path / "eyepacs", EyepacsOptions())
    file.write_text(text.replace("1_right,0,Public", "1_right,0,public", 1))
    with pytest.raises(DataError, match=r"Usage: expected one of Public, Private, found 'public' in row 3"):
        read_eyepacs(tmp_path / "eyepacs", EyepacsOptions())


def test_examinations_are_known_also_where_their_names_lack_a_suffix(tmp_path: Path) -> None:
    write_messidor2(tmp_path, n_exams=10)
    file = tmp_path / "messidor2" / "messidor-2.csv"
    file.write_text(file.read_text().replace(".png", ""))
    assert len(set(read_messidor2(tmp_path / "messidor2").groups)) == 10


def test_an_image_without_an_examination_is_named(tmp_path: Path) -> None:
    write_messidor2(tmp_path, n_exams=10)
    file = tmp_path / "messidor2" / "messidor-2.csv"
    head, _, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *rows]))
    with pytest.raises(
        DataError,
        match=r"^messidor-2.csv: expected the examination of every image, found none for 2 of \d+, first",
    ):
        read_messidor2(tmp_path / "messidor2")


def test_the_other_edition_of_aptos_is_named(tmp_path: Path) -> None:
    write_aptos(tmp_path, resplit=True)
    with pytest.raises(DataError, match=r"expected train.csv, found train_1.csv of the .*files: resplit"):
        read_aptos(tmp_path / "aptos2019", AptosOptions())


def test_an_image_with_another_suffix_is_told_where_it_is(tmp_path: Path) -> None:
    write_aptos(tmp_path)
    image = next((tmp_path / "aptos2019").rglob("*.png"))
    image.rename(image.with_suffix(".jpg"))
    with pytest.raises(DataError, match=rf"{image.name}; there is .*{image.stem}.jpg: move or rename them"):
        read_aptos(tmp_path / "aptos2019", AptosOptions())


def test_images_of_other_folders_are_not_taken_for_those_of_messidor(tmp_path: Path) -> None:
    write_messidor2(tmp_path, n_exams=10)
    folder = tmp_path / "messidor2"
    shutil.copytree(folder / "IMAGES", folder / "preprocessed")
    assert {path.split("/")[0] for path in read_messidor2(folder).sample_ids} == {"IMAGES"}


def test_rows_that_are_longer_than_the_header_are_not_shifted(tmp_path: Path) -> None:
    write_idrid(tmp_path, n_train=10, n_test=5)
    expected = read_idrid(tmp_path / "idrid")
    file = tmp_path / "idrid" / READ["idrid"][2]
    _, *rows = file.read_text().splitlines()
    file.write_text("\n".join(["Image name,Retinopathy grade", *rows]))
    found = read_idrid(tmp_path / "idrid")
    assert list(found.sample_ids) == list(expected.sample_ids)
    assert found.labels.tolist() == expected.labels.tolist()
