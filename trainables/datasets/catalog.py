"""Every dataset a study can name without describing it, and the normal form of a description.

This table imports neither numpy nor torch, so a plan can be made without them.
"""

from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from trainables.datasets.medmnist_flags import FLAGS
from trainables.datasets.readers import CHEXPERT_TASKS, DIGITS, Reader, find_reader
from trainables.datasets.spec import DatasetSpec, Task
from trainables.errors import SpecError, unknown_choice
from trainables.fields import FrozenMapping, Pairs
from trainables.validation import describe

# MedMNIST sets whose images are grey; the others are RGB.
_GREY = (
    "breastmnist",
    "chestmnist",
    "octmnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
    "pneumoniamnist",
    "tissuemnist",
)


def _medmnist() -> dict[str, dict[str, Any]]:
    """Name every set in every size: `pathmnist` is 28 px, `pathmnist_64`, … the larger ones."""
    named = {}
    for flag in FLAGS:
        for size_px in (28, 64, 128, 224):
            name = flag if size_px == 28 else f"{flag}_{size_px}"
            named[name] = {
                "reader": "medmnist",
                "path": f"{name}.npz",
                "size_px": size_px,
                "channels": 1 if flag in _GREY else 3,
            }
    return named


# Fields of a DatasetSpec, by the name a study file can use.
DATASETS: dict[str, dict[str, Any]] = {
    "aptos2019": {"reader": "aptos", "path": "aptos2019", "size_px": 512, "channels": 3},
    "chest_xray": {"reader": "kermany", "path": "chest_xray", "size_px": 224, "channels": 1},
    "chexpert": {
        "reader": "chexpert",
        "path": "CheXpert-v1.0",
        "size_px": 320,
        "channels": 1,
        "classes": list(CHEXPERT_TASKS),
    },
    "chexpert_small": {
        "reader": "chexpert",
        "path": "CheXpert-v1.0-small",
        "size_px": 224,
        "channels": 1,
        "classes": list(CHEXPERT_TASKS),
    },
    "cifar10": {"reader": "image_folder", "path": "cifar10", "size_px": 32, "channels": 3},
    "cifar10_batches": {"reader": "cifar", "path": "cifar-10-batches-py", "size_px": 32, "channels": 3},
    "cifar100": {"reader": "cifar", "path": "cifar-100-python", "size_px": 32, "channels": 3},
    "cifar100_coarse": {
        "reader": "cifar",
        "path": "cifar-100-python",
        "size_px": 32,
        "channels": 3,
        "options": {"labels": "coarse"},
    },
    "digits": {"reader": "digits", "size_px": 28, "channels": 1},
    "digits_0_4": {"reader": "digits", "size_px": 28, "channels": 1, "classes": list(DIGITS[:5])},
    "digits_5_9": {"reader": "digits", "size_px": 28, "channels": 1, "classes": list(DIGITS[5:])},
    "eyepacs": {"reader": "eyepacs", "path": "eyepacs", "size_px": 587, "channels": 3},
    "ham10000": {"reader": "ham10000", "path": "ham10000", "size_px": 224, "channels": 3},
    "idrid": {"reader": "idrid", "path": "idrid", "size_px": 512, "channels": 3},
    "imagenet": {
        "reader": "imagenet",
        "path": "imagenet",
        "size_px": 224,
        "channels": 3,
        "validation_fraction": 0.02,
    },
    "messidor2": {"reader": "messidor2", "path": "messidor2", "size_px": 512, "channels": 3},
    "synthetic_chest": {
        "reader": "synthetic_chest",
        "size_px": 64,
        "channels": 1,
        "options": {"n_classes": 2},
    },
    "synthetic_fundus": {"reader": "synthetic_fundus", "size_px": 64, "channels": 3},
    **_medmnist(),
}


def find_dataset(name: str) -> dict[str, Any]:
    """Return a copy of the fields of the dataset called `name`.

    Raises:
        SpecError: no such dataset; the message lists the known ones.
    """
    if name not in DATASETS:
        raise SpecError(unknown_choice("dataset", name, DATASETS))
    return dict(DATASETS[name])


def normalize_dataset(spec: DatasetSpec) -> DatasetSpec:
    """Return the spec with the reader's options written out, and what cannot change the data at its default.

    Raises:
        SpecError: unknown reader or class, options that the reader does not have, a path that is missing or
            one that has no use; one line per mistake, each starting with its field.
    """
    reader = find_reader(spec.reader)
    if reader.needs_path and spec.path is None:
        raise SpecError(
            f"dataset.path must name a file or folder below the data root (TRANSFUSION_DATA): "
            f"the reader {spec.reader!r} reads from disk"
        )
    if spec.path is not None and not reader.needs_path:
        raise SpecError(
            f"dataset.path must be left out: the reader {spec.reader!r} reads no file, got {spec.path!r}"
        )
    spec = spec.model_copy(update={"options": _options(reader, spec)})
    published, known = reader.published(spec), reader.known_classes(spec)
    defaults: set[str] = set()
    if _names_all_classes(spec, known):
        defaults.add("classes")
    if spec.n_classes is not None and spec.n_classes == len(spec.classes or known or ()):
        defaults.add("n_classes")
    if published is None:
        defaults.add("partial")
    else:
        fixed = {"val": "validation_fraction", "test": "test_fraction"}
        defaults |= {field for split, field in fixed.items() if split not in published.drawn}
    spec = spec.model_copy(update={name: DatasetSpec.model_fields[name].default for name in defaults})
    draws_part = spec.train_fraction < 1 or spec.train_per_class is not None or spec.n_classes is not None
    if published is not None and not published.drawn and not draws_part:
        spec = spec.model_copy(update={"split_seed": 0})
    return spec.model_copy(update={"referable_grade": _referable_grade(spec, reader.referable_grade(spec))})


def expected_task(spec: DatasetSpec) -> Task:
    """Return what a normal spec is about, as far as that is known before the data are there.

    Data of an unknown kind are taken for one class of several.
    """
    if isinstance(spec.referable_grade, int):
        return "ordinal"
    return "multilabel" if find_reader(spec.reader).is_multilabel(spec) else "multiclass"


def _referable_grade(spec: DatasetSpec, usual: int | None) -> int | Literal["none"] | None:
    """Return the grade that counts, by its number among the classes that are kept.

    Raises:
        SpecError: grades are left out, merged or put in another order, and which one counts is not said; or
            their order is not that of the disease.
    """
    if usual is None:
        return None if spec.referable_grade == "none" else spec.referable_grade
    is_whole = spec.classes is None and spec.n_classes is None and spec.superclasses is None
    if spec.referable_grade is None and not is_whole:
        raise SpecError(
            "dataset.referable_grade must be given where classes, n_classes or superclasses change the "
            "grades: the number, from 0, of the first kept one that counts, or none if they are no grades"
        )
    named = list(spec.classes or ())
    if spec.referable_grade != "none" and named != sorted(named):
        raise SpecError(
            f"dataset.classes must be in the order of the grades, got {', '.join(named)}; "
            "or give referable_grade: none"
        )
    return usual if spec.referable_grade is None else spec.referable_grade


def _options(reader: Reader, spec: DatasetSpec) -> Pairs:
    given = spec.options.as_dict()
    if reader.options is None:
        if given:
            raise SpecError(
                f"dataset.options.{next(iter(given))} is not known: the reader {spec.reader!r} has no options"
            )
        return Pairs()
    try:
        written = reader.options.model_validate(given)
    except ValidationError as error:
        problems = describe(error, reader.options, prefix=("dataset", "options"))
        raise SpecError("\n".join(problem.message for problem in problems)) from None
    return _PAIRS.validate_python(reader.normal_options(written, spec).model_dump(mode="json"))


_PAIRS: TypeAdapter[Pairs] = TypeAdapter(FrozenMapping)


def _names_all_classes(spec: DatasetSpec, known: tuple[str, ...] | None) -> bool:
    if spec.classes is None or known is None:
        return False
    for name in spec.classes:
        if name not in known:
            raise SpecError(unknown_choice("dataset.classes", name, known))
    return spec.classes == known
