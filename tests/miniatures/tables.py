"""Tiny copies of the datasets that come as tables beside images, in the format in which they are published.

Every function writes below a data root, at the path of the dataset in the catalog; what it writes is a part
of the dataset, so a spec needs `partial: true`. The level of the pixels tells the class.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.miniatures.folders import labelled_picture
from trainables.datasets.published import HAM10000
from trainables.datasets.readers import CHEXPERT_FINDINGS, CHEXPERT_TASKS

SIDE_PX = 48
FUNDUS_GRADES = 5


def save(path: Path, label: int, n_classes: int, *, seed: int, channels: int = 3) -> None:
    """Write a picture whose level tells the class."""
    shape = (SIDE_PX, SIDE_PX, 3) if channels == 3 else (SIDE_PX, SIDE_PX)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labelled_picture(label, n_classes, shape=shape, seed=seed)).save(path)


def write_rows(path: Path, rows: Iterable[Iterable[object]], *, separator: str = ",") -> None:
    """Write a table, the first row the names of its columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(separator.join(map(str, row)) for row in rows) + "\n")


def write_chexpert(root: Path, *, n_patients: int = 40, name: str = "CheXpert-v1.0-small") -> None:
    """Write frontal and lateral views of patients, with marks of every kind."""
    rng = np.random.default_rng(0)
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]
    for split, table, first in (("train", "train.csv", 1), ("valid", "valid.csv", 64541)):
        rows: list[list[object]] = [columns]
        for number in range(n_patients if split == "train" else max(8, n_patients // 4)):
            is_ill = number % 2
            for view in ("frontal", "lateral"):
                path = f"{split}/patient{first + number:05d}/study1/view1_{view}.jpg"
                save(root / name / path, is_ill, 2, seed=number, channels=1)
                marks = [_mark(f, is_ill, split, rng) for f in CHEXPERT_FINDINGS]
                ap = "AP" if view == "frontal" else ""
                rows.append([f"{name}/{path}", "Female", 60, view.capitalize(), ap, *marks])
        write_rows(root / name / table, rows)


def _mark(finding: str, is_ill: int, split: str, rng: np.random.Generator) -> str:
    if finding not in CHEXPERT_TASKS or split == "valid":
        return "1.0" if is_ill and finding in CHEXPERT_TASKS else "0.0"
    if rng.random() < 0.2:
        return str(rng.choice(["-1.0", ""]))
    return "1.0" if is_ill else "0.0"


def write_eyepacs(root: Path, *, n_patients: int = 40) -> None:
    """Write both eyes of patients: of train, and of the Public and Private parts of test."""
    train: list[list[object]] = [["image", "level"]]
    test: list[list[object]] = [["image", "level", "Usage"]]
    for patient in range(n_patients):
        for eye in ("left", "right"):
            grade = patient % FUNDUS_GRADES
            save(
                root / "eyepacs" / "train" / f"{patient + 100}_{eye}.jpeg", grade, FUNDUS_GRADES, seed=patient
            )
            train.append([f"{patient + 100}_{eye}", grade])
    for patient in range(20):
        usage = "Public" if patient < 10 else "Private"
        for eye in ("left", "right"):
            grade = patient % FUNDUS_GRADES
            save(root / "eyepacs" / "test" / f"{patient + 1}_{eye}.jpeg", grade, FUNDUS_GRADES, seed=patient)
            test.append([f"{patient + 1}_{eye}", grade, usage])
    write_rows(root / "eyepacs" / "trainLabels.csv", train)
    write_rows(root / "eyepacs" / "retinopathy_solution.csv", test)


def write_aptos(root: Path, *, per_grade: int = 8, resplit: bool = False) -> None:
    """Write the original files, or those of a re-split copy, in folders within folders of the same name."""
    folder = root / "aptos2019"
    parts = {"train.csv": "train_images"}
    if resplit:
        nested = {"train_1.csv": "train", "valid.csv": "val", "test.csv": "test"}
        parts = {table: f"{name}_images/{name}_images" for table, name in nested.items()}
    for part, (table, images) in enumerate(parts.items()):
        rows: list[list[object]] = [["id_code", "diagnosis"]]
        for number in range(per_grade * FUNDUS_GRADES):
            name, grade = f"{part:02x}{number:010x}", number % FUNDUS_GRADES
            save(folder / images / f"{name}.png", grade, FUNDUS_GRADES, seed=number)
            rows.append([name, grade])
        write_rows(folder / table, rows)


def write_messidor2(root: Path, *, n_exams: int = 40, pairs: bool = True) -> None:
    """Write both eyes of examinations; one image cannot be graded, and suffixes differ from the table's."""
    folder = root / "messidor2"
    rows: list[list[object]] = [
        ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]
    ]
    together: list[list[object]] = [["left", "right"]]
    for exam in range(n_exams):
        names = [f"2005100{exam:02d}_{eye}_0100_PP.png" for eye in ("43808", "43832")]
        for name in names:
            grade = exam % FUNDUS_GRADES
            save(folder / "IMAGES" / name.replace(".png", ".JPG"), grade, FUNDUS_GRADES, seed=exam)
            rows.append([name, grade, 0, 1])
        together.append(names)
    rows[-1][1:] = ["", "", 0]
    write_rows(folder / "messidor_data.csv", rows)
    if pairs:
        write_rows(folder / "messidor-2.csv", together, separator=";")


def write_idrid(root: Path, *, n_train: int = 120, n_test: int = 70) -> None:
    """Write part B, with the spaces, the nameless columns and the empty rows of the real tables."""
    folder = root / "idrid" / "B. Disease Grading"
    for split, letter, n in (("Training", "a", n_train), ("Testing", "b", n_test)):
        rows = [["Image name", "Retinopathy grade", "Risk of macular edema ", "", "", ""]]
        images = folder / "1. Original Images" / f"{letter}. {split} Set"
        for number in range(1, n + 1):
            grade = number % FUNDUS_GRADES
            save(images / f"IDRiD_{number:03d}.jpg", grade, FUNDUS_GRADES, seed=number)
            rows.append([f"IDRiD_{number:03d}", str(grade), "0", "", "", ""])
        rows.append([""] * 6)
        write_rows(folder / "2. Groundtruths" / f"{letter}. IDRiD_Disease Grading_{split} Labels.csv", rows)


def write_ham10000(
    root: Path, *, lesions: int = 8, name: str = "HAM10000_metadata.csv", separator: str = ","
) -> None:
    """Write lesions of every diagnosis, one or two images each; the first folder is there twice."""
    folder = root / "ham10000"
    rows: list[list[object]] = [["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]]
    number = 24306
    for label, dx in enumerate(HAM10000.classes):
        for lesion in range(lesions):
            for _ in range(1 + lesion % 2):
                image, part = f"ISIC_{number:07d}", 1 + number % 2
                copies = [f"HAM10000_images_part_{part}", *(["ham10000_images_part_1"] if part == 1 else [])]
                for copy in copies:
                    save(folder / copy / f"{image}.jpg", label, len(HAM10000.classes), seed=number)
                rows.append([f"HAM_{label}{lesion:06d}", image, dx, "histo", "", "unknown", "back"])
                number += 1
    write_rows(folder / name, rows, separator=separator)


def write_csv(root: Path, *, n_patients: int = 30) -> None:
    """Write a table of one's own, `scans/labels.csv`, with two images of every patient."""
    rows: list[list[object]] = [["file", "finding", "edema", "fracture", "patient_id", "part"]]
    for patient in range(n_patients):
        for number in range(2):
            name, label = f"p{patient:02d}/{number}", patient % 3
            save(root / "scans" / "images" / f"{name}.png", label, 3, seed=patient)
            part = ("train", "Valid", "test")[patient // 3 % 3]
            rows.append(
                [name, ("10", "2", "none")[label], label == 0, "" if patient == 4 else 0, patient, part]
            )
    text = [[int(cell) if isinstance(cell, bool) else cell for cell in row] for row in rows]
    write_rows(root / "scans" / "labels.csv", text)
