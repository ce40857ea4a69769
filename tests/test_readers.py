"""Every reader, on a tiny tree in the format of the real data: what all of them owe their callers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.miniatures import folders, tables
from tests.reader_contract import check_reader_contract
from trainables.datasets.catalog import DATASETS, expected_task, normalize_dataset
from trainables.datasets.readers import READERS
from trainables.datasets.spec import DatasetSpec


@dataclass(frozen=True)
class Case:
    """A miniature: how it is described, and what writes it."""

    fields: dict[str, Any]
    write: Callable[[Path], object] = lambda _root: None


CSV = {
    "reader": "csv",
    "path": "scans/labels.csv",
    "channels": 3,
    "options": {
        "image": "file",
        "label": "finding",
        "folder": "images",
        "suffix": ".png",
        "group": "patient_id",
    },
}
GRADED = ("aptos", "eyepacs", "idrid", "messidor2", "synthetic_fundus")
IMAGE_FOLDER = {"reader": "image_folder", "path": "films", "channels": 1}
CASES = {
    "aptos": Case(DATASETS["aptos2019"], tables.write_aptos),
    "aptos, split again": Case(
        {**DATASETS["aptos2019"], "options": {"files": "resplit"}},
        lambda root: tables.write_aptos(root, resplit=True),
    ),
    "chexpert": Case(DATASETS["chexpert_small"], tables.write_chexpert),
    "chexpert, full": Case(
        DATASETS["chexpert"], lambda root: tables.write_chexpert(root, name="CheXpert-v1.0")
    ),
    "cifar": Case(DATASETS["cifar10_batches"], lambda root: folders.write_cifar10_batches(root, per_class=3)),
    "cifar, 100 classes": Case(
        {**DATASETS["cifar100"], "n_classes": 9}, lambda root: folders.write_cifar100(root, per_class=8)
    ),
    "cifar, coarse": Case(DATASETS["cifar100_coarse"], folders.write_cifar100),
    "csv": Case(CSV, tables.write_csv),
    "digits": Case(DATASETS["digits"]),
    "eyepacs": Case(DATASETS["eyepacs"], tables.write_eyepacs),
    "ham10000": Case(DATASETS["ham10000"], tables.write_ham10000),
    "idrid": Case(DATASETS["idrid"], tables.write_idrid),
    "image_folder": Case(IMAGE_FOLDER, lambda root: folders.write_image_folder(root / "films")),
    "imagenet": Case(
        {**DATASETS["imagenet"], "validation_fraction": 0.2},
        lambda root: folders.write_imagenet(root, n_classes=4, per_class=12),
    ),
    "kermany": Case(DATASETS["chest_xray"], lambda root: folders.write_kermany(root, n_persons=30)),
    "kermany, official test": Case(
        {**DATASETS["chest_xray"], "options": {"splits": "official_test"}},
        lambda root: folders.write_kermany(root, n_persons=30),
    ),
    "medmnist": Case(DATASETS["dermamnist"], lambda root: folders.write_medmnist(root, "dermamnist")),
    "messidor2": Case(DATASETS["messidor2"], tables.write_messidor2),
    "synthetic_chest": Case({**DATASETS["synthetic_chest"], "options": {"n_images": 60, "n_classes": 2}}),
    "synthetic_fundus": Case({**DATASETS["synthetic_fundus"], "options": {"n_images": 120}}),
}


def test_every_reader_is_here() -> None:
    assert {case.fields["reader"] for case in CASES.values()} == set(READERS)


@pytest.mark.parametrize("name", CASES)
def test_the_contract_of_readers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    case.write(tmp_path)
    dataset = check_reader_contract(case.fields, tmp_path, monkeypatch)
    spec = normalize_dataset(DatasetSpec.model_validate(case.fields))
    assert (dataset.task, dataset.referable_grade) == (expected_task(spec), spec.referable_grade)
    assert (dataset.task == "ordinal") == (case.fields["reader"] in GRADED)
