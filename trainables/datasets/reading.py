"""Where a dataset lies, what its reader finds there, and whether that is all of it."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from trainables.datasets.file_tree import archives_beside
from trainables.datasets.published import check_complete
from trainables.datasets.readers import find_reader
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import Table
from trainables.errors import DataError


def read_table(spec: DatasetSpec, *, data_root: Path | None) -> Table:
    """List what the reader of a normalized spec finds: nothing is selected yet, and nothing decoded.

    Raises:
        SpecError: no such reader.
        DataError: files that are missing, or not of the format.
    """
    reader = find_reader(spec.reader)
    module, function = reader.function.split(":")
    read: Callable[..., Table] = getattr(import_module(module), function)
    location = location_of(spec, data_root)
    if reader.options is None:
        return read(location)
    return read(location, reader.options.model_validate(spec.options.as_dict()))


def check_copy(table: Table, spec: DatasetSpec) -> None:
    """Refuse a copy that is not what was published, unless the spec says that it is a part.

    Raises:
        DataError: the first count that differs.
    """
    published = find_reader(spec.reader).published(spec)
    if published is None or table.on_disk is None or spec.partial:
        return
    # Some readers count by split alone.
    classes = table.on_disk.classes or None
    check_complete(table.name, published, splits=table.on_disk.splits, classes=classes)


def location_of(spec: DatasetSpec, data_root: Path | None) -> Path | None:
    """Return the file or folder of a dataset, whether it is there or not; None if it needs none.

    Raises:
        DataError: it needs one, and there is no data root.
    """
    if spec.path is None:
        return None
    if data_root is None:
        raise DataError(f"{spec.path}: set TRANSFUSION_DATA to the folder that holds it")
    return data_root / spec.path


def is_there(location: Path) -> bool:
    """Say whether a file or folder exists, or an archive of it."""
    return location.exists() or any(archives_beside(location))
