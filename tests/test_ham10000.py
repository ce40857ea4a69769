"""HAM10000: lesions are split, not their photographs."""

import shutil
from pathlib import Path

import pytest

from tests.miniatures.tables import write_ham10000
from tests.reader_contract import check_reader_contract
from trainables.datasets.catalog import DATASETS
from trainables.datasets.ham10000 import read_ham10000
from trainables.errors import DataError


def test_the_contract_of_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ham10000(tmp_path)
    dataset = check_reader_contract(DATASETS["ham10000"], tmp_path, monkeypatch)
    assert dataset.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert dataset.task == "multiclass"


def test_photographs_of_a_lesion_share_a_group(tmp_path: Path) -> None:
    write_ham10000(tmp_path, lesions=4)
    table = read_ham10000(tmp_path / "ham10000")
    assert len(table.rows) == 7 * 6
    assert len(set(table.groups)) == 7 * 4
    assert table.on_disk is not None
    assert table.on_disk.classes == dict.fromkeys(table.classes, 6)


def test_of_a_folder_that_is_there_twice_every_image_is_taken_once(tmp_path: Path) -> None:
    write_ham10000(tmp_path)
    table = read_ham10000(tmp_path / "ham10000")
    images = [path.rpartition("/")[2] for path in table.sample_ids]
    assert len(set(images)) == len(images)
    assert {path.rpartition("/")[0] for path in table.sample_ids} == {
        "HAM10000_images_part_1",
        "HAM10000_images_part_2",
    }


def test_images_of_other_folders_are_not_taken(tmp_path: Path) -> None:
    write_ham10000(tmp_path)
    folder = tmp_path / "ham10000"
    shutil.copytree(folder / "HAM10000_images_part_1", folder / "Cropped")
    assert not any(path.startswith("Cropped") for path in read_ham10000(folder).sample_ids)


@pytest.mark.parametrize("separator", [",", "\t"])
def test_the_table_of_the_dataverse_has_no_suffix(tmp_path: Path, separator: str) -> None:
    write_ham10000(tmp_path, name="HAM10000_metadata", separator=separator)
    assert len(read_ham10000(tmp_path / "ham10000").rows) == 7 * 12


def test_damage_is_told(tmp_path: Path) -> None:
    write_ham10000(tmp_path)
    file = tmp_path / "ham10000" / "HAM10000_metadata.csv"
    text = file.read_text()
    file.write_text(text.replace(",mel,", ",melanoma,"))
    with pytest.raises(
        DataError, match=r"dx: expected one of akiec, .*, vasc, found 'melanoma' in row \d+; mend"
    ):
        read_ham10000(tmp_path / "ham10000")
    file.write_text(text.replace("ISIC_0024306", "ISIC_0099999"))
    with pytest.raises(DataError, match=r"not on disk: ISIC_0099999.jpg; fetch them, or remove their rows"):
        read_ham10000(tmp_path / "ham10000")
    file.unlink()
    with pytest.raises(DataError, match=r"expected the file HAM10000_metadata.csv or HAM10000_metadata or"):
        read_ham10000(tmp_path / "ham10000")
