"""Which paths a file system can have."""

from pathlib import PurePosixPath

LONGEST_PATH_BYTES, LONGEST_NAME_BYTES = 4096, 255


def is_text(name: str) -> bool:
    """Say whether a name from a disk or an archive is UTF-8 (Python keeps other bytes as surrogates)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_name(path: str) -> None:
    """Refuse a path that the operating system refuses, in words of its own.

    Raises:
        ValueError: it holds NUL, is no UTF-8, or is too long.
    """
    if not is_text(path):
        raise ValueError(f"must be a path in UTF-8, got {path!r}")
    encoded = path.encode()
    if b"\0" in encoded:
        raise ValueError(f"must be a path without NUL, got {path!r}")
    if len(encoded) >= LONGEST_PATH_BYTES or any(
        len(part.encode()) > LONGEST_NAME_BYTES for part in PurePosixPath(path).parts
    ):
        raise ValueError(
            f"must be a path of fewer than {LONGEST_PATH_BYTES} bytes, with names of at most "
            f"{LONGEST_NAME_BYTES}, got {len(encoded)} bytes that begin with {path[:40]!r}"
        )
