"""Arrays inside an .npz file, read row by row: the file can be larger than the memory."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from trainables.errors import DataError

# What reading a damaged archive, or a damaged header inside it, can raise. RuntimeError: an encrypted zip,
# or one of an unknown method; KeyError: a member that is not there.
DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    KeyError,
    IndexError,
    SyntaxError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ArrayHeader:
    """An array that is not read yet.

    Attributes:
        by_column: the last index is the slowest, so the file holds no row in one piece.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool


def read_header(archive: zipfile.ZipFile, key: str) -> ArrayHeader:
    """Return shape and type of an array, without its values.

    Raises:
        ValueError: the member has another size than the header says.
    """
    with archive.open(f"{key}.npy") as stream:
        header = _header(stream)
        n_bytes = math.prod(header.shape) * header.dtype.itemsize
        found = archive.getinfo(f"{key}.npy").file_size - stream.tell()
    if found != n_bytes and not header.dtype.hasobject:
        differs = "longer" if found > n_bytes else "shorter"
        raise ValueError(f"{key} is {differs} than its header says")
    return header


def read_rows(archive: zipfile.ZipFile, key: str) -> Iterator[np.ndarray]:
    """Yield the rows of an array, one after the other, and check that nothing is damaged."""
    with archive.open(f"{key}.npy") as stream:
        header = _header(stream)
        row_shape = header.shape[1:]
        n_bytes = math.prod(row_shape) * header.dtype.itemsize
        for _ in range(header.shape[0]):
            yield np.frombuffer(stream.read(n_bytes), header.dtype).reshape(row_shape)
        if stream.read(1):  # at the end, where the checksum is compared too
            raise ValueError(f"{key} is longer than its header says")


def read_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Return a whole array; pickled objects are refused with a ValueError."""
    with archive.open(f"{key}.npy") as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _header(stream: IO[bytes]) -> ArrayHeader:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    else:  # 2.0; later ones are of arrays with named fields, which the function refuses
        shape, by_column, dtype = np.lib.format.read_array_header_2_0(stream)
    return ArrayHeader(shape, dtype, by_column)


@contextmanager
def open_npz(location: Path) -> Iterator[zipfile.ZipFile]:
    """Open an .npz file; whatever is found damaged while it is open is said in one message.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    try:
        with zipfile.ZipFile(location) as archive:
            yield archive
    except DAMAGE as error:
        raise DataError(
            f"{location.name}: expected an .npz archive of plain arrays, and it cannot be read ({error}); "
            "download or write it anew"
        ) from error
