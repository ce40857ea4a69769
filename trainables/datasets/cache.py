"""Files that can be made again, below `TRANSFUSION_CACHE` (`~/.cache/transfusion` when unset).

A file is written under a temporary name and moved into place, so that a reader never sees half of one and
two processes writing the same are harmless. Deleting the folder is always safe.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trainables.errors import DataError


def cache_folder() -> Path:
    """Return the folder of the cache; it need not exist."""
    return Path(os.environ.get("TRANSFUSION_CACHE") or Path.home() / ".cache" / "transfusion")


@contextmanager
def new_cache_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading and writing that appears as `path` when the block ends without an error.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            # A machine that loses power must not leave a file of the right name without its content.
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write the cache file {path}: {error.strerror or error}; "
            "set TRANSFUSION_CACHE to a folder with enough room that can be written"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
