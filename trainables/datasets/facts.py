"""What is computed from all pixels of a dataset: its digest, and the mean and sd of its training split.

Passing over them takes longer than training does to begin, so what was found is kept in the cache under the
digest of the packed file and of all else it depends on: nothing that is kept can be out of date.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.datasets.cache import cache_folder, new_cache_file
from trainables.datasets.image_rows import ImageRows
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import Table
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.datasets.loading import Split

# Of the images networks are published for; grey has the mean over the colours.
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES_AT_ONCE = 1024
# To be raised when anything below is computed otherwise.
VERSION = 1


@dataclass(frozen=True)
class Facts:
    """Of one dataset.

    Attributes:
        digest: SHA-256, in hex, of the classes, ids, groups, labels and pixels of the splits.
        mean, sd: per channel, of pixels scaled to 0 … 1.
    """

    digest: str
    mean: tuple[float, ...]
    sd: tuple[float, ...]


def compute_facts(
    spec: DatasetSpec, name: str, classes: tuple[str, ...], splits: "tuple[Split, ...]"
) -> Facts:
    """Pass over all pixels.

    Args:
        name: of the dataset, for messages.
        splits: the training split first.

    Raises:
        DataError: all training pixels of a channel are equal, so that there is no sd to divide by.
    """
    mean, sd = _statistics(spec, splits[0].images, name)
    return Facts(_digest(classes, splits), mean, sd)


def kept_facts(key: str | None, compute: Callable[[], Facts]) -> Facts:
    """Return the facts of a key, computed if no process before has.

    Args:
        key: of `facts_key`; None keeps nothing.

    Raises:
        DataError: as `compute`.
    """
    if key is None:
        return compute()
    path = cache_folder() / "facts" / f"{key}.json"
    found = _read(path)
    if found is None:
        found = compute()
        with suppress(DataError):  # the cache cannot be written: the next process computes it again
            _write(path, found)
    return found


def facts_key(
    spec: DatasetSpec, selected: Table, packed_digest: str | None, shape: tuple[int, ...]
) -> str | None:
    """Return a digest of all that facts depend on; None if the pixels are in no packed file.

    Args:
        packed_digest: of the pixels of all images, of which the table selects.
        shape: of these pixels.
    """
    if packed_digest is None:
        return None
    plain = [VERSION, packed_digest, shape, spec.normalize, spec.channels, selected.classes]
    digest = hashlib.sha256(json.dumps(plain).encode())
    columns = (selected.rows, selected.labels, selected.sample_ids, selected.groups, selected.splits)
    for column in columns:
        digest.update(json.dumps([column.dtype.str, column.shape]).encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _write(path: Path, facts: Facts) -> None:
    content = json.dumps(asdict(facts)).encode()
    with new_cache_file(path) as stream:
        stream.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def _read(path: Path) -> Facts | None:
    """Return what was written; None if there is nothing, or something else."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    found = json.loads(content)
    return Facts(found["digest"], tuple(found["mean"]), tuple(found["sd"]))


def _statistics(
    spec: DatasetSpec, images: np.ndarray | ImageRows, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and sd per channel, of pixels scaled to 0 … 1.

    Raises:
        DataError: all training pixels of a channel are equal, so that there is no sd to divide by.
    """
    if spec.normalize == "unit":
        return (0.5,) * spec.channels, (0.5,) * spec.channels
    if spec.normalize == "imagenet":
        if spec.channels == 3:
            return IMAGENET_MEAN, IMAGENET_SD
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_SD) / 3,)
    # Counting the 256 values is exact, whatever the number of images and the order of the sum.
    counts = np.zeros((spec.channels, 256), np.int64)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        some = images[start : start + IMAGES_AT_ONCE]
        for channel in range(spec.channels):
            counts[channel] += np.bincount(some[:, channel].ravel(), minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    means = shares @ levels
    sds = np.sqrt((shares * (levels - means[:, None]) ** 2).sum(1))
    if (counts.max(1) == counts.sum(1)).any():
        raise DataError(
            f"{name}: all training pixels are equal, so there is no sd; "
            "mend the images or give normalize: unit"
        )
    return tuple(means.tolist()), tuple(sds.tolist())


def _digest(classes: tuple[str, ...], splits: "tuple[Split, ...]") -> str:
    digest = hashlib.sha256()
    for split in splits:
        columns = [column.tolist() for column in (split.sample_ids, split.groups, split.labels)]
        digest.update(json.dumps([classes, columns, split.images.shape]).encode())
        for start in range(0, len(split.images), IMAGES_AT_ONCE):
            digest.update(np.ascontiguousarray(split.images[start : start + IMAGES_AT_ONCE]).data)
    return digest.hexdigest()
