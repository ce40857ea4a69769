"""The .npz layout of MedMNIST, official or home-made.

Keys `train_images`, `train_labels`, and the same for `val` and `test`; a split that is not there is drawn
from train. Images are uint8, N × H × W grey or N × H × W × 3; labels are integers, N × 1 class numbers or
N × L marks of 0 and 1. Patients are not in the file, so every image is its own group.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from trainables.datasets.medmnist_flags import classes_of, flag_of
from trainables.datasets.packed import ImageArray
from trainables.datasets.table import SPLITS, Table
from trainables.errors import DataError


def read_medmnist(location: Path | None) -> Table:
    """Read a file of that layout.

    Raises:
        DataError: the file is missing or damaged, or its arrays are not as described above.
    """
    assert location is not None, "the catalog says that this reader needs a path"
    name = location.name
    arrays = _load_arrays(location)
    present = _present_splits(name, arrays)
    for split in present:
        _check_pair(name, split, arrays[f"{split}_images"], arrays[f"{split}_labels"])
    for key in ("images", "labels"):
        if len({arrays[f"{split}_{key}"].shape[1:] for split in present}) > 1:
            shapes = ", ".join(f"{split} {arrays[f'{split}_{key}'].shape}" for split in present)
            raise DataError(f"{name}: expected {key} of one shape in all splits, found {shapes}")
    labels = np.concatenate([arrays[f"{split}_labels"] for split in present])
    counts = [len(arrays[f"{split}_images"]) for split in present]
    ids = np.array(
        [f"{split}/{number:06d}" for split, n in zip(present, counts, strict=True) for number in range(n)]
    )
    stat = location.stat()
    images = np.concatenate([arrays[f"{split}_images"] for split in present])
    return Table(
        name=name,
        images=ImageArray(images, f"{name}/{stat.st_size}/{stat.st_mtime_ns}/{stat.st_ctime_ns}"),
        rows=np.arange(len(images)),
        labels=labels[:, 0].astype(np.int64) if labels.shape[1] == 1 else labels.astype(np.uint8),
        classes=_classes(name, labels),
        sample_ids=ids,
        groups=ids,
        splits=np.repeat(present, counts),
    )


def _load_arrays(location: Path) -> dict[str, np.ndarray]:
    if not location.is_file():
        raise DataError(
            f"{location.name}: no file at {location}; set TRANSFUSION_DATA to the folder that holds it, "
            "or mend dataset.path"
        )
    wanted = {f"{split}_{key}" for split in SPLITS for key in ("images", "labels")}
    try:
        with location.open("rb") as stream:
            # numpy takes any other file for a pickle and advises to trust it.
            if not zipfile.is_zipfile(stream):
                raise zipfile.BadZipFile("no zip file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as content:
                return {key: content[key] for key in content.files if key in wanted}
    # RuntimeError: an encrypted zip, or one of an unknown method.
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{location.name}: expected an .npz archive of plain arrays, and it cannot be read ({error}); "
            "download or write it anew"
        ) from error


def _present_splits(name: str, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    present = []
    for split in SPLITS:
        found = [key for key in (f"{split}_images", f"{split}_labels") if key in arrays]
        # A file under an official name has all splits: then no fraction of the spec can matter.
        is_needed = split == "train" or flag_of(name) is not None
        if len(found) == 1 or (is_needed and not found):
            raise DataError(
                f"{name}: expected the arrays {split}_images and {split}_labels, "
                f"found {', '.join(sorted(arrays)) or 'none of the layout'}; download or write it anew"
            )
        if found:
            present.append(split)
    return tuple(present)


def _check_pair(name: str, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    def mismatch(what: str, expected: str, array: np.ndarray, action: str) -> DataError:
        return DataError(
            f"{name}: {split}_{what}: expected {expected}, found {array.dtype} {array.shape}; {action}"
        )

    is_picture = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not is_picture:
        raise mismatch("images", "uint8 (n, height, width) or (n, height, width, 3)", images, "convert them")
    if labels.ndim != 2 or labels.shape[1] == 0 or labels.dtype.kind not in "iub":
        raise mismatch("labels", "integers (n, 1) or (n, n_labels)", labels, "convert them")
    if len(labels) != len(images):
        raise mismatch("labels", f"{len(images)} rows, one per image", labels, "the file is incomplete")
    if len(images) == 0:
        raise mismatch("images", "at least one image", images, "leave out a split that is empty")
    if labels.min() < 0 or (labels.shape[1] > 1 and labels.max() > 1):
        expected = "class numbers from 0" if labels.shape[1] == 1 else "0 or 1"
        raise DataError(
            f"{name}: {split}_labels: expected {expected}, "
            f"found {int(labels.min())} … {int(labels.max())}; mend the labels"
        )


def _classes(name: str, labels: np.ndarray) -> tuple[str, ...]:
    n_found = labels.shape[1] if labels.shape[1] > 1 else int(labels.max()) + 1
    known = classes_of(name)
    if known is None:
        return tuple(str(number) for number in range(n_found))
    if n_found > len(known):
        raise DataError(
            f"{name}: expected the {len(known)} classes of {flag_of(name)}, found {n_found}; "
            "give a file of your own another name"
        )
    return known
