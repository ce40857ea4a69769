"""Tiny datasets in the real on-disk formats, written by the tests that read them."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 10


def picture(number: int, *, channels: int = 1) -> np.ndarray:
    """Return random pixels that differ from number to number."""
    shape = (SIDE, SIDE) if channels == 1 else (SIDE, SIDE, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def image_tree(
    splits: Mapping[str, int] | None, *, classes: tuple[str, ...] = ("ill", "well")
) -> dict[str, bytes]:
    """Return the files of an image folder: `n` images a class in every split; None: 10 a class, no splits."""
    folders = {"": 10} if splits is None else {f"{split}/": n for split, n in splits.items()}
    names = [
        f"{split}{name}/{n}.png" for split, count in folders.items() for name in classes for n in range(count)
    ]
    return {name: png(picture(number)) for number, name in enumerate(names)}


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_archive(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a .zip, .tar, .tar.gz or .tar.xz; a name that ends in / is a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
        return
    with tarfile.open(path, {".xz": "w:xz", ".gz": "w:gz", ".tgz": "w:gz"}.get(path.suffix, "w")) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.size = len(content)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(member, io.BytesIO(content))


def medmnist_arrays(
    *, splits: Mapping[str, int] | None = None, channels: int = 1, n_labels: int = 1
) -> dict[str, np.ndarray]:
    """Return the arrays of a MedMNIST file, with class numbers 0 and 1 in turn, or marks of `n_labels`."""
    arrays = {}
    for number, (split, n) in enumerate((splits or {"train": 12, "val": 6, "test": 6}).items()):
        arrays[f"{split}_images"] = np.stack([picture(100 * number + i, channels=channels) for i in range(n)])
        marks = (np.arange(n)[:, None] + np.arange(n_labels)) % 2
        arrays[f"{split}_labels"] = marks.astype(np.uint8)
    return arrays
