"""Fetching files of MedMNIST; the address and the checksum are those the `medmnist` package states."""

import hashlib
import os
import urllib.request
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import IO

from trainables.datasets.medmnist_flags import FLAGS, flag_of
from trainables.errors import DataError, unknown_choice

RECORD = "https://zenodo.org/records/10519652"
SIZES_PX = (28, 64, 128, 224)
TIMEOUT_S = 60
BLOCK_BYTES = 1 << 20


def download_medmnist(name: str, data_root: Path) -> Path:
    """Fetch a set below the data root, unless its file is there; return the file.

    Args:
        name: `pneumoniamnist`, or with a size `pneumoniamnist_64`, `_128`, `_224`.

    Raises:
        DataError: no such set; the package is not installed, or does not know the size; the server cannot
            be reached, or sends another file. Each says where to get the file and where to put it.
    """
    flag = flag_of(f"{name}.npz")
    if flag is None:
        names = [f if size == 28 else f"{f}_{size}" for f in FLAGS for size in SIZES_PX]
        raise DataError(unknown_choice("medmnist", name, names))
    target = data_root / f"{name}.npz"
    if not target.exists():
        url, md5 = _source(flag, name.removeprefix(flag), target)
        _fetch(url, md5, target)
    return target


def _by_hand(target: Path) -> str:
    return f"get {target.name} from {RECORD} by hand and put it at {target}"


def _source(flag: str, size: str, target: Path) -> tuple[str, str]:
    """Return address and MD5; `size` is empty or `_64`, `_128`, `_224`."""
    try:
        # Here and nowhere else: importing the package creates a folder in the user's home.
        facts = import_module("medmnist").INFO[flag]
    except ImportError:
        raise DataError(
            f"{target.name}: the package that knows its address is not installed; pip install medmnist, "
            f"or {_by_hand(target)}"
        ) from None
    if f"url{size}" not in facts or f"MD5{size}" not in facts:
        raise DataError(
            f"{target.name}: the installed medmnist package does not know this size; "
            f"pip install --upgrade medmnist, or {_by_hand(target)}"
        )
    return facts[f"url{size}"], facts[f"MD5{size}"]


def _fetch(url: str, md5: str, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not through tempfile, whose files nobody else may read: data roots are shared.
        with temporary.open("wb") as stream:
            found = _copy(url, stream)
        if found != md5:
            raise DataError(
                f"{target.name}: expected the MD5 {md5}, got {found} from {url}; try again, "
                f"or {_by_hand(target)}"
            )
        os.replace(temporary, target)
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
        raise DataError(
            f"{target.name}: cannot be fetched from {url} ({error}); try again, or {_by_hand(target)}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy(url: str, stream: IO[bytes]) -> str:
    """Write what the address holds, and return its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        while block := response.read(BLOCK_BYTES):
            digest.update(block)
            stream.write(block)
    return digest.hexdigest()
