"""Every on-disk format that can be read.

This table imports neither numpy nor torch, so a plan can be made without them. Packages add formats of
their own through the entry points `transfusion.datasets`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainables.datasets import options, published
from trainables.datasets.medmnist_flags import classes_of, flag_of
from trainables.datasets.options import CHEXPERT_FINDINGS
from trainables.datasets.published import Published
from trainables.datasets.spec import DatasetSpec
from trainables.errors import SpecError, unknown_choice
from trainables.fields import SpecModel
from trainables.plugins import plugins

DIGITS = tuple("0123456789")
# Those that the papers score.
CHEXPERT_TASKS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
DR_GRADES = ("0", "1", "2", "3", "4")
# Grades are coded 0 … 4 in all public sets, so moderate retinopathy is 2. (Raghu et al. 2019 count from 1.)
REFERABLE_GRADE = 2


@dataclass(frozen=True)
class Reader:
    """One on-disk format.

    Attributes:
        function: `module:function`, called with the file or folder (None without `needs_path`) and, if the
            format has `options`, with these; returns a `trainables.datasets.table.Table`.
        needs_path: whether it reads below the data root.
        options: what `dataset.options` may hold.
        known_classes: of a spec, the classes in the order of their numbers; None where only the data tell.
        is_multilabel: of a spec, whether a sample is known to have several labels.
        published: of a spec, what a complete copy holds, and the splits it lacks; None if nothing is known.
        referable_grade: of a spec, the grade of a disease from which on it counts, where the labels are such
            grades, coded by class number.
        normal_options: of `options` and a spec, these in the one form that equal data have.
    """

    function: str
    needs_path: bool = True
    options: type[SpecModel] | None = None
    known_classes: Callable[[DatasetSpec], tuple[str, ...] | None] = lambda _spec: None
    is_multilabel: Callable[[DatasetSpec], bool] = lambda _spec: False
    published: Callable[[DatasetSpec], Published | None] = lambda _spec: None
    referable_grade: Callable[[DatasetSpec], int | None] = lambda _spec: None
    normal_options: Callable[[Any, DatasetSpec], SpecModel] = lambda given, _spec: given


def _option(spec: DatasetSpec, name: str) -> object:
    return spec.options.as_dict().get(name)


def _grades(spec: DatasetSpec) -> tuple[str, ...]:
    n_classes = _option(spec, "n_classes")
    assert isinstance(n_classes, int), "options are written out before anything else is asked"
    return tuple(str(grade) for grade in range(n_classes))


def _eyepacs(spec: DatasetSpec) -> Published:
    is_validation = _option(spec, "public_as_validation") is not False
    return published.EYEPACS if is_validation else published.EYEPACS_ALL_TESTED


READERS: dict[str, Reader] = {
    "aptos": Reader(
        "trainables.datasets.aptos:read_aptos",
        options=options.AptosOptions,
        known_classes=lambda _spec: DR_GRADES,
        published=lambda spec: (
            published.APTOS_RESPLIT if _option(spec, "files") == "resplit" else published.APTOS
        ),
        referable_grade=lambda _spec: REFERABLE_GRADE,
    ),
    "chexpert": Reader(
        "trainables.datasets.chexpert:read_chexpert",
        options=options.ChexpertOptions,
        known_classes=lambda _spec: CHEXPERT_FINDINGS,
        is_multilabel=lambda _spec: True,
        normal_options=lambda given, spec: given.of_findings(spec.classes or CHEXPERT_FINDINGS),
        published=lambda spec: (
            published.CHEXPERT if _option(spec, "views") == "all" else published.CHEXPERT_FRONTAL
        ),
    ),
    "cifar": Reader(
        "trainables.datasets.cifar:read_cifar",
        options=options.CifarOptions,
        published=lambda _spec: published.CIFAR,
    ),
    "csv": Reader(
        "trainables.datasets.csv_table:read_csv_table",
        options=options.CsvOptions,
        is_multilabel=lambda spec: bool(_option(spec, "labels")),
    ),
    "digits": Reader(
        "trainables.datasets.digits:read_digits", needs_path=False, known_classes=lambda _spec: DIGITS
    ),
    "eyepacs": Reader(
        "trainables.datasets.eyepacs:read_eyepacs",
        options=options.EyepacsOptions,
        known_classes=lambda _spec: DR_GRADES,
        published=_eyepacs,
        referable_grade=lambda _spec: REFERABLE_GRADE,
    ),
    "ham10000": Reader(
        "trainables.datasets.ham10000:read_ham10000",
        known_classes=lambda _spec: tuple(published.HAM10000.classes),
        published=lambda _spec: published.HAM10000,
    ),
    "idrid": Reader(
        "trainables.datasets.idrid:read_idrid",
        known_classes=lambda _spec: DR_GRADES,
        published=lambda _spec: published.IDRID,
        referable_grade=lambda _spec: REFERABLE_GRADE,
    ),
    "image_folder": Reader("trainables.datasets.image_folder:read_image_folder"),
    "imagenet": Reader(
        "trainables.datasets.imagenet:read_imagenet", published=lambda _spec: published.IMAGENET
    ),
    "kermany": Reader(
        "trainables.datasets.kermany:read_kermany",
        options=options.KermanyOptions,
        known_classes=lambda _spec: tuple(published.KERMANY.classes),
        published=lambda spec: (
            published.KERMANY_OFFICIAL_TEST
            if _option(spec, "splits") == "official_test"
            else published.KERMANY
        ),
    ),
    "medmnist": Reader(
        "trainables.datasets.medmnist:read_medmnist",
        known_classes=lambda spec: classes_of(spec.path),
        is_multilabel=lambda spec: flag_of(spec.path) == "chestmnist",
        published=lambda spec: published.MEDMNIST.get(flag_of(spec.path) or ""),
        referable_grade=lambda spec: REFERABLE_GRADE if flag_of(spec.path) == "retinamnist" else None,
    ),
    "messidor2": Reader(
        "trainables.datasets.messidor2:read_messidor2",
        known_classes=lambda _spec: DR_GRADES,
        published=lambda _spec: published.MESSIDOR2,
        referable_grade=lambda _spec: REFERABLE_GRADE,
    ),
    "synthetic_chest": Reader(
        "trainables.datasets.synthetic:read_synthetic_chest",
        needs_path=False,
        options=options.SyntheticOptions,
        known_classes=_grades,
    ),
    "synthetic_fundus": Reader(
        "trainables.datasets.synthetic:read_synthetic_fundus",
        needs_path=False,
        options=options.SyntheticOptions,
        known_classes=_grades,
        referable_grade=lambda spec: min(REFERABLE_GRADE, len(_grades(spec)) - 1),
    ),
}


def find_reader(name: str) -> Reader:
    """Return the reader called `name`: one of this package, or one that another package provides.

    Raises:
        SpecError: no such reader; the message lists the known ones.
    """
    readers = {**READERS, **plugins("transfusion.datasets", Reader, taken=frozenset(READERS))}
    if name not in readers:
        raise SpecError(unknown_choice("dataset.reader", name, readers))
    return readers[name]
