"""Datasets of procedural images, of any size and number: for benchmarks, and to try a study before data come.

Image i depends on the seed and on i alone, so a smaller dataset is the beginning of a larger one. Nothing is
kept on disk but what every dataset keeps packed; `write_synthetic` writes the same images as files.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from trainables.datasets.decoding import as_pixmap
from trainables.datasets.options import SyntheticOptions
from trainables.datasets.packed import ImageFiles
from trainables.datasets.synthetic_images import View, chest, fundus
from trainables.datasets.table import Table

Kind = Literal["fundus", "chest"]
RENDERERS: dict[Kind, Callable[[View], np.ndarray]] = {"fundus": fundus, "chest": chest}
# Part of the fingerprint: raise it when the pictures change.
RENDERING = 1


def read_synthetic_fundus(_location: Path | None, options: SyntheticOptions) -> Table:
    """Return colour photographs with grades of a retinopathy, without splits."""
    return _table("fundus", options)


def read_synthetic_chest(_location: Path | None, options: SyntheticOptions) -> Table:
    """Return grey films with grades of an infiltrate, without splits."""
    return _table("chest", options)


def render(kind: Kind, options: SyntheticOptions, number: int) -> np.ndarray:
    """Return one image: uint8, (256, 256, 3) of `fundus` and (256, 256) of `chest`."""
    patient = number // options.images_per_patient
    view = View(
        patient=np.random.default_rng([options.seed, 0, patient]),
        visit=np.random.default_rng([options.seed, 1, number]),
        severity=_grade(patient, options.n_classes) / (options.n_classes - 1),
        contrast=options.contrast,
    )
    return RENDERERS[kind](view)


def write_synthetic(folder: Path, kind: Kind, options: SyntheticOptions) -> None:
    """Write the images as `images/000000.jpg`, …, and `labels.csv` with the columns image, grade, patient.

    The reader `csv` reads them with the options `label: grade` and `group: patient`. The table comes last,
    so a folder without it is not complete.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    patients = _patients(options)
    rows = [
        (f"images/{number:06d}.jpg", _grade(int(patient), options.n_classes), f"{patient:06d}")
        for number, patient in enumerate(patients)
    ]

    def write(number: int) -> None:
        Image.fromarray(render(kind, options, number)).save(folder / rows[number][0], quality=90)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(write, range(len(rows))):  # raises what a thread raised
            pass
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("image", "grade", "patient"))
        table.writerows(rows)


def _table(kind: Kind, options: SyntheticOptions) -> Table:
    patients = _patients(options)
    ids = np.array([f"{number:06d}" for number in range(len(patients))])
    settings = json.dumps([kind, RENDERING, options.model_dump(mode="json")], sort_keys=True)
    return Table(
        name=f"synthetic_{kind}",
        images=ImageFiles(
            names=tuple(ids.tolist()),
            contents=partial(_contents, kind, options),
            fingerprint=hashlib.sha256(settings.encode()).hexdigest(),
        ),
        rows=np.arange(len(ids)),
        labels=np.array([_grade(int(patient), options.n_classes) for patient in patients], dtype=np.int64),
        classes=tuple(str(grade) for grade in range(options.n_classes)),
        sample_ids=ids,
        groups=np.array([f"patient {patient:06d}" for patient in patients]),
        splits=np.full(len(ids), "train"),
    )


def _contents(kind: Kind, options: SyntheticOptions) -> Iterator[tuple[int, Callable[[], bytes]]]:
    return ((number, partial(_file, kind, options, number)) for number in range(options.n_images))


def _file(kind: Kind, options: SyntheticOptions, number: int) -> bytes:
    return as_pixmap(render(kind, options, number))


def _patients(options: SyntheticOptions) -> np.ndarray:
    return np.arange(options.n_images) // options.images_per_patient


def _grade(patient: int, n_classes: int) -> int:
    """Return the grade of a patient: as in screening, somewhat more than half are healthy.

    In turn and not drawn, so that every grade is there as often as the number of patients allows.
    """
    place = patient % (2 * n_classes - 1)  # 0 1 0 2 0 … 0: healthy ones between the grades and around them
    return (place + 1) // 2 if place % 2 else 0
