"""One folder per class: `<split>/<class>/<image>`, or `<class>/<image>` where the splits are drawn.

Splits are `train`, `val` (or `valid`, `validation`) and `test`. The folder can be an archive. Patients are
not known, so every image is its own group.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.datasets.file_tree import FileTree, open_file_tree
from trainables.datasets.image_names import IMAGE_SUFFIXES
from trainables.datasets.packed import ImageFiles
from trainables.datasets.table import Table
from trainables.errors import DataError, suggestion

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Layout:
    """The paths of the images and of all folders."""

    name: str
    files: tuple[str, ...]
    folders: tuple[str, ...]


def read_image_folder(location: Path | None) -> Table:
    """List the images of a folder or archive; nothing is decoded.

    Raises:
        DataError: there is no such folder, the layout is another, or a class has no images in a split.
    """
    assert location is not None, "the catalog says that this reader needs a path"
    tree = open_file_tree(location)
    layout = _without_copy(_Layout(tree.name, tree.files, tree.folders))
    split_of = _check_layout(layout)
    classes = _classes(layout, split_of)
    number = {name: n for n, name in enumerate(classes)}
    names = np.array(layout.files)
    return Table(
        name=tree.name,
        images=ImageFiles(layout.files, _numbered(tree, layout.files), tree.fingerprint),
        rows=np.arange(len(names)),
        labels=np.array([number[path.split("/")[-2]] for path in layout.files], dtype=np.int64),
        classes=classes,
        sample_ids=names,
        groups=names,
        splits=np.array([split_of[path.split("/")[0]] if split_of else "train" for path in layout.files]),
    )


def _numbered(
    tree: FileTree, names: tuple[str, ...]
) -> Callable[[], Iterator[tuple[int, Callable[[], bytes]]]]:
    number = {name: n for n, name in enumerate(names)}
    return lambda: ((number[name], read) for name, read in tree.contents() if name in number)


def _without_copy(layout: _Layout) -> _Layout:
    """Leave out a folder that holds everything a second time (`chest_xray/chest_xray` of Kermany's data)."""
    tops = {_top(path) for path in layout.folders}
    copy = layout.name.split(".")[0]
    if copy not in tops or "train" not in {top.lower() for top in tops}:
        return layout
    files = tuple(path for path in layout.files if _top(path) != copy)
    return _Layout(layout.name, files, tuple(path for path in layout.folders if _top(path) != copy))


def _top(path: str) -> str:
    return path.split("/", 1)[0]


def _check_layout(layout: _Layout) -> dict[str, str]:
    """Return the split of each split folder, by the folder's name; empty where classes lie at the top."""
    if not layout.files:
        raise DataError(
            f"{layout.name}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none; mend dataset.path"
        )
    depth = 3 if any(path.count("/") == 2 for path in layout.files) else 2
    stray = next((path for path in layout.files if path.count("/") != depth - 1), None)
    if stray is not None:
        raise DataError(
            f"{layout.name}: expected every image at {'split/class/image' if depth == 3 else 'class/image'}, "
            f"found {stray}; move or remove it"
        )
    tops = sorted({_top(path) for path in layout.folders})
    known = [top for top in tops if top.lower() in SPLIT_FOLDERS]
    if depth == 2:
        if known:
            raise DataError(
                f"{layout.name}: expected the images of {known[0]} in one folder per class "
                f"({known[0]}/class/image), found {layout.files[0]}"
            )
        return {}
    for top in tops:
        if top not in known:
            raise DataError(
                f"{layout.name}: expected the folders train, val (or valid, validation) and test, "
                f"found {top!r}{suggestion(top, SPLIT_FOLDERS)}; rename or remove it"
            )
    split_of = {top: SPLIT_FOLDERS[top.lower()] for top in known}
    if len(set(split_of.values())) < len(known):
        raise DataError(f"{layout.name}: two folders are the same split: {', '.join(known)}; remove one")
    if "train" not in split_of.values():
        raise DataError(f"{layout.name}: expected a folder train, found only {', '.join(known)}")
    return split_of


def _classes(layout: _Layout, split_of: dict[str, str]) -> tuple[str, ...]:
    """Return the class names, sorted.

    Raises:
        DataError: fewer than two, one without images, or one that a split lacks.
    """
    depth = 2 if split_of else 1
    filled = {path.rpartition("/")[0] for path in layout.files}
    for folder in layout.folders:
        if folder.count("/") == depth - 1 and folder not in filled:
            raise DataError(
                f"{layout.name}: the class folder {folder} holds no images "
                f"({', '.join(IMAGE_SUFFIXES)}); fill or remove it"
            )
    classes = tuple(sorted({folder.rpartition("/")[2] for folder in filled}))
    if len(classes) < 2:
        raise DataError(f"{layout.name}: expected at least two class folders, found only {classes[0]!r}")
    for folder in split_of:
        for name in classes:
            if f"{folder}/{name}" not in filled:
                raise DataError(
                    f"{layout.name}: expected the same classes in every split, "
                    f"found no folder {folder}/{name}; add it, or remove {name!r} from the other splits"
                )
    return classes
