"""Tiny copies of the datasets that come as folders and arrays, in the format in which they are published.

Every function writes below a data root, at the path of the dataset in the catalog; what it writes is a part
of the dataset, so a spec needs `partial: true`. The level of the pixels tells the class.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.datasets.medmnist_flags import FLAGS

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
GREY_MEDMNIST = ("breast", "chest", "oct", "organa", "organc", "organs", "pneumonia", "tissue")


def labelled_picture(label: int, n_classes: int, *, shape: Sequence[int], seed: int) -> np.ndarray:
    """Return uint8 noise around a level that grows with the label."""
    level = 40 + 170 * label / max(n_classes - 1, 1)
    noise = np.random.default_rng(seed).integers(-20, 21, tuple(shape))
    return (level + noise).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95} if path.suffix.lower() in (".jpeg", ".jpg") else {}
    Image.fromarray(pixels).save(path, **options)


def write_image_folder(
    folder: Path,
    *,
    splits: Mapping[str, int] | None = None,
    classes: Sequence[str] = ("ill", "well"),
    shape: Sequence[int] = (32, 32, 3),
    suffix: str = ".png",
) -> None:
    """Write `<split>/<class>/<n>.png` below `folder`, so many a class; None: 12 a class without splits."""
    seed = 0
    for split, n in ({"": 12} if splits is None else splits).items():
        for label, name in enumerate(classes):
            for number in range(n):
                seed += 1
                picture = labelled_picture(label, len(classes), shape=shape, seed=seed)
                _save(folder / split / name / f"{number:04d}{suffix}", picture)


def write_kermany(root: Path, *, n_persons: int, seed: int = 0) -> None:
    """Write `chest_xray`: `n_persons` a class in train, half of them in test, eight images a class in val.

    Numbers of persons begin at 1 in train and in test, as in the published folders.
    """
    for folder, n in {"train": n_persons, "test": max(n_persons // 2, 1), "val": 4}.items():
        first = {"train": 1, "test": 1, "val": 1946}[folder]
        for person in range(first, first + n):
            for label, (name, files) in enumerate(_kermany_files(folder, person).items()):
                for number, file in enumerate(files):
                    seed += 1
                    shape = (40, 52) if number == 0 else (36, 44, 3)  # grey and RGB are mixed
                    picture = labelled_picture(label, 2, shape=shape, seed=seed)
                    _save(root / "chest_xray" / folder / name / file, picture)


def _kermany_files(folder: str, person: int) -> dict[str, list[str]]:
    series = person + {"train": 114, "test": 0, "val": 0}[folder]
    return {
        "NORMAL": [f"IM-{series:04d}-0001.jpeg", f"NORMAL2-IM-{series:04d}-0001-0002.jpeg"],
        "PNEUMONIA": [f"person{person}_bacteria_{2 * person}.jpeg", f"person{person}_virus_{person}.jpeg"],
    }


def write_imagenet(root: Path, *, n_classes: int, per_class: int) -> None:
    """Write `imagenet/{train,val}/<wnid>/*.JPEG`; val has half as many a class."""
    for split, n in {"train": per_class, "val": max(per_class // 2, 1)}.items():
        for label in range(n_classes):
            wnid = f"n{1_440_764 + 1000 * label:08d}"
            for number in range(n):
                file = f"{wnid}_{number}" if split == "train" else f"ILSVRC2012_val_{label * n + number:08d}"
                picture = labelled_picture(label, n_classes, shape=(44, 60, 3), seed=1000 * label + number)
                _save(root / "imagenet" / split / wnid / f"{file}.JPEG", picture)


def write_cifar10_batches(root: Path, *, per_class: int = 2) -> None:
    """Write `cifar-10-batches-py`: five batches and a test batch, each with so many images a class."""
    folder = root / "cifar-10-batches-py"
    names = [name.encode() for name in CIFAR10_CLASSES]
    write_python2_pickle(folder / "batches.meta", {b"label_names": names, b"num_vis": 3072})
    for seed, file in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [label for _ in range(per_class) for label in range(10)]
        content = {b"batch_label": file.encode(), b"labels": labels, b"data": _cifar_pixels(labels, 10, seed)}
        write_python2_pickle(folder / file, content)


def write_cifar100(root: Path, *, per_class: int = 3) -> None:
    """Write `cifar-100-python`: train, and test with a third as many; five fine classes a coarse one."""
    folder = root / "cifar-100-python"
    names = {
        b"fine_label_names": [f"fine_{number:02d}".encode() for number in range(100)],
        b"coarse_label_names": [f"coarse_{number:02d}".encode() for number in range(20)],
    }
    write_python2_pickle(folder / "meta", names)
    for seed, (file, n) in enumerate({"train": per_class, "test": max(per_class // 3, 1)}.items()):
        fine = [label for _ in range(n) for label in range(100)]
        content = {
            b"fine_labels": fine,
            b"coarse_labels": [label // 5 for label in fine],
            b"data": _cifar_pixels(fine, 100, seed),
        }
        write_python2_pickle(folder / file, content)


def _cifar_pixels(labels: Sequence[int], n_classes: int, seed: int) -> np.ndarray:
    rows = [
        labelled_picture(label, n_classes, shape=(3072,), seed=100_000 * seed + number)
        for number, label in enumerate(labels)
    ]
    return np.stack(rows)


def write_python2_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        _Python2Pickler(stream, protocol=2).dump(content)


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and the numpy of 2009 wrote: byte strings, and 0 and 1 for booleans."""

    dispatch: Mapping[type, Any] = {**pickle._Pickler.dispatch}

    def _save_bytes(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)

    def _save_array(self, array: np.ndarray) -> None:
        self.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n")
        self.save((0,))
        self.save(b"b")
        self.write(pickle.TUPLE + pickle.REDUCE + pickle.MARK)
        self.save(1)
        self.save(array.shape)
        self.write(b"cnumpy\ndtype\n")
        self.save((b"u1", 0, 1))
        self.write(pickle.REDUCE)
        self.save((3, b"|", None, None, None, -1, -1, 0))
        self.write(pickle.BUILD)
        self.save(False)
        self.save(array.tobytes())
        self.write(pickle.TUPLE + pickle.BUILD)

    dispatch[bytes] = _save_bytes
    dispatch[np.ndarray] = _save_array


def write_medmnist(root: Path, flag: str, *, size_px: int = 28, n: int | None = None) -> None:
    """Write an official file of a flag: `n` training images (5 a class), and half of them in val and test.

    Of chestmnist, image i has finding i mod 14, and every third image the next one too.
    """
    n_classes = len(FLAGS[flag])
    n_train = n or 5 * n_classes
    is_grey = flag.removesuffix("mnist") in GREY_MEDMNIST
    shape = (size_px, size_px) if is_grey else (size_px, size_px, 3)
    arrays = {}
    for seed, (split, n_split) in enumerate(
        {"train": n_train, "val": max(n_train // 2, n_classes), "test": max(n_train // 2, n_classes)}.items()
    ):
        labels = np.arange(n_split) % n_classes
        pictures = [
            labelled_picture(label, n_classes, shape=shape, seed=10_000 * seed + number)
            for number, label in enumerate(labels)
        ]
        arrays[f"{split}_images"] = np.stack(pictures)
        arrays[f"{split}_labels"] = (
            _findings(labels, n_classes) if flag == "chestmnist" else labels[:, None]
        ).astype(np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    name = flag if size_px == 28 else f"{flag}_{size_px}"
    np.savez_compressed(root / f"{name}.npz", **arrays)


def _findings(first: np.ndarray, n_classes: int) -> np.ndarray:
    marks = np.eye(n_classes, dtype=np.uint8)[first]
    marks[::3] |= np.eye(n_classes, dtype=np.uint8)[(first[::3] + 1) % n_classes]
    return marks
