"""Every on-disk format that can be read, and every dataset a study can name without describing it.

This table imports neither numpy nor torch, so a plan can be made without them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainables.datasets.medmnist_flags import classes_of, flag_of
from trainables.datasets.spec import DatasetSpec
from trainables.errors import SpecError, unknown_choice

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Reader:
    """One on-disk format.

    Attributes:
        function: `module:function`, called with the file or folder (None without `needs_path`), returns a
            `trainables.datasets.table.Table`.
        needs_path: whether it reads below the data root.
        known_classes: of a path, the classes in the order of their numbers; None where only the data tell.
        has_fixed_splits: of a path, whether it surely comes with all of train, val and test.
    """

    function: str
    needs_path: bool
    known_classes: Callable[[str | None], tuple[str, ...] | None] = lambda _path: None
    has_fixed_splits: Callable[[str | None], bool] = lambda _path: False


READERS: dict[str, Reader] = {
    "digits": Reader(
        "trainables.datasets.digits:read_digits", needs_path=False, known_classes=lambda _path: DIGITS
    ),
    "image_folder": Reader("trainables.datasets.image_folder:read_image_folder", needs_path=True),
    "medmnist": Reader(
        "trainables.datasets.medmnist:read_medmnist",
        needs_path=True,
        known_classes=classes_of,
        has_fixed_splits=lambda path: flag_of(path) is not None,
    ),
}

# Fields of a DatasetSpec, by the name a study file can use.
DATASETS: dict[str, dict[str, Any]] = {
    "cifar10": {"reader": "image_folder", "path": "cifar10", "size_px": 32, "channels": 3},
    "digits": {"reader": "digits", "size_px": 28, "channels": 1},
    "digits_0_4": {"reader": "digits", "size_px": 28, "channels": 1, "classes": list(DIGITS[:5])},
    "digits_5_9": {"reader": "digits", "size_px": 28, "channels": 1, "classes": list(DIGITS[5:])},
    "pneumoniamnist": {"reader": "medmnist", "path": "pneumoniamnist.npz", "size_px": 28, "channels": 1},
}


def find_dataset(name: str) -> dict[str, Any]:
    """Return a copy of the fields of the dataset called `name`.

    Raises:
        SpecError: no such dataset; the message lists the known ones.
    """
    if name not in DATASETS:
        raise SpecError(unknown_choice("dataset", name, DATASETS))
    return dict(DATASETS[name])


def find_reader(name: str) -> Reader:
    """Return the reader called `name`.

    Raises:
        SpecError: no such reader; the message lists the known ones.
    """
    if name not in READERS:
        raise SpecError(unknown_choice("dataset.reader", name, READERS))
    return READERS[name]


def normalize_dataset(spec: DatasetSpec) -> DatasetSpec:
    """Return the spec with every field that cannot change the data at its default.

    Raises:
        SpecError: unknown reader or class, a path that is missing or one that has no use.
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
    defaults: set[str] = set()
    if _names_all_classes(spec, reader.known_classes(spec.path)):
        defaults.add("classes")
    if reader.has_fixed_splits(spec.path):
        defaults |= {"validation_fraction", "test_fraction"}
        if spec.train_fraction == 1:
            defaults.add("split_seed")
    return spec.model_copy(update={name: DatasetSpec.model_fields[name].default for name in defaults})


def _names_all_classes(spec: DatasetSpec, known: tuple[str, ...] | None) -> bool:
    if spec.classes is None or known is None:
        return False
    for name in spec.classes:
        if name not in known:
            raise SpecError(unknown_choice("dataset.classes", name, known))
    return spec.classes == known
