"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the Python version, unpacked as torchvision leaves it.

`cifar-10-batches-py/{data_batch_1 … data_batch_5, test_batch, batches.meta}` and
`cifar-100-python/{train, test, meta}` are pickles, which can hold code: here they are read by an unpickler
that knows arrays and plain containers and nothing else. The official test images are the test split;
validation is drawn. Each image is its own group.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.datasets.file_tree import fingerprint_of
from trainables.datasets.options import CifarOptions
from trainables.datasets.packed import ImageArray
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError

SIDE_PX = 32
# numpy 2 moved the module; the official files were written long before.
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


@dataclass(frozen=True)
class _Edition:
    """The files of one of the two sets, and the keys of labels and class names by `options.labels`."""

    meta: str
    train: tuple[str, ...]
    test: str
    label_keys: dict[str, tuple[bytes, bytes]]


_EDITIONS = (
    _Edition(
        "batches.meta",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        {"fine": (b"labels", b"label_names")},
    ),
    _Edition(
        "meta",
        ("train",),
        "test",
        {
            "fine": (b"fine_labels", b"fine_label_names"),
            "coarse": (b"coarse_labels", b"coarse_label_names"),
        },
    ),
)


def read_cifar(location: Path | None, options: CifarOptions) -> Table:
    """Read the batches of one of the two sets.

    Raises:
        DataError: there is no such folder, a file is missing, damaged, or holds more than arrays and lists.
    """
    assert location is not None, "the catalog says that this reader needs a path"
    edition = _edition(location)
    if options.labels not in edition.label_keys:
        raise DataError(
            f"{location.name}: dataset.options.labels: CIFAR-10 has no {options.labels} labels, "
            "only CIFAR-100 has; write labels: fine"
        )
    label_key, names_key = edition.label_keys[options.labels]
    classes = _class_names(location, edition, names_key)
    train = [_batch(location, file, label_key, len(classes)) for file in edition.train]
    test = [_batch(location, edition.test, label_key, len(classes))]
    n_train, n_test = (sum(len(labels) for _pixels, labels in batches) for batches in (train, test))
    pixels = np.concatenate([pixels for pixels, _labels in (*train, *test)])
    ids = np.array([*_ids("train", n_train), *_ids("test", n_test)])
    return Table(
        name=location.name,
        images=ImageArray(
            pixels.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1),
            fingerprint_of(*(location / file for file in (*edition.train, edition.test))),
        ),
        rows=np.arange(len(pixels)),
        labels=np.concatenate([labels for _pixels, labels in (*train, *test)]),
        classes=classes,
        sample_ids=ids,
        groups=ids,
        splits=np.repeat(["train", "test"], [n_train, n_test]),
        on_disk=OnDisk({"train": n_train, "test": n_test}),
    )


def _edition(location: Path) -> _Edition:
    for edition in _EDITIONS:
        if (location / edition.meta).is_file():
            return edition
    metas = " or ".join(edition.meta for edition in _EDITIONS)
    raise DataError(
        f"{location.name}: expected an unpacked folder {location} with the file {metas}, found "
        f"{'another folder' if location.is_dir() else 'no folder'}; unpack cifar-10-python.tar.gz or "
        "cifar-100-python.tar.gz below TRANSFUSION_DATA, or mend dataset.path"
    )


def _class_names(location: Path, edition: _Edition, key: bytes) -> tuple[str, ...]:
    names = _entry(location, edition.meta, _load(location, edition.meta), key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise _unexpected(location, edition.meta, f"a list of names under {key.decode()}", names)
    return tuple(name.decode("ascii", "replace") for name in names)


def _batch(location: Path, file: str, key: bytes, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 3072) uint8 pixels, channels apart, and (n,) int64 labels."""
    content = _load(location, file)
    pixels, listed = (_entry(location, file, content, each) for each in (b"data", key))
    n_values = 3 * SIDE_PX**2
    is_pixels = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
    if not is_pixels or pixels.ndim != 2 or pixels.shape[1] != n_values:
        raise _unexpected(location, file, f"uint8 pixels (n, {n_values}) under data", pixels)
    if not isinstance(listed, list) or not all(isinstance(n, int) and 0 <= n < n_classes for n in listed):
        raise _unexpected(
            location, file, f"a list of class numbers below {n_classes} under {key.decode()}", listed
        )
    if len(listed) != len(pixels):
        raise DataError(
            f"{location.name}: {file}: expected {len(pixels)} labels, one per image, found {len(listed)}; "
            "unpack the archive anew"
        )
    return pixels, np.array(listed, dtype=np.int64)


def _entry(location: Path, file: str, content: object, key: bytes) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise _unexpected(location, file, f"a dictionary with the key {key.decode()}", content)
    return content[key]


def _unexpected(location: Path, file: str, expected: str, found: object) -> DataError:
    what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
    return DataError(
        f"{location.name}: {file}: expected {expected}, found {what}; unpack the official archive anew"
    )


def _load(location: Path, file: str) -> object:
    try:
        with (location / file).open("rb") as stream:
            return _ArraysOnly(stream, encoding="bytes").load()
    except FileNotFoundError:
        raise DataError(f"{location.name}: the file {file} is missing; unpack the archive anew") from None
    except _Refused as error:
        raise DataError(
            f"{location.name}: {file}: refused, as it asks for {error}, and such a pickle can run code; "
            "unpack the official archive anew"
        ) from None
    # An unpickler fed with damaged bytes raises almost anything; what it is belongs in the message.
    except Exception as error:
        raise DataError(
            f"{location.name}: {file}: the pickle is damaged or incomplete ({error}); unpack the archive anew"
        ) from error


class _Refused(pickle.UnpicklingError):
    """A pickle asks for anything but an array."""


class _ArraysOnly(pickle.Unpickler):
    """Gives every name in the official files a harmless stand-in, and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # only handed on to _reconstruct
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _empty_array
        raise _Refused(f"{module}.{name}")


def _empty_array(_kind: object, _shape: object, _code: object) -> np.ndarray:
    """Return the array that the pickle then fills."""
    return np.empty(0, np.uint8)


def _dtype(code: bytes | str, _align: object, _copy: object) -> np.dtype:
    # The type itself is built in, so the state that the pickle gives it next is of no effect.
    if code not in (b"u1", "u1"):
        raise _Refused(f"values of the type {code!r}")
    return np.dtype(np.uint8)


def _ids(split: str, n: int) -> Iterator[str]:
    return (f"{split}/{number:05d}" for number in range(n))
