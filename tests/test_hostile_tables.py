"""Tables beside images that are broken on purpose: each is refused with the file, the column or the row."""
# ruff: noqa: E501

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostility import read_or_refused, refused
from tests.image_trees import picture, png, write_tree
from tests.miniatures import tables as miniatures
from trainables.datasets.csv_table import read_csv_table
from trainables.datasets.loading import load_dataset
from trainables.datasets.options import CsvOptions
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError

N_TABLES = 60

ROWS = [(f"{kind}{n}.png", kind, f"p{n}") for kind in ("ill", "well") for n in range(10)]
GOOD = "image,label,patient\n" + "".join(f"{','.join(row)}\n" for row in ROWS)
OPTIONS = {"label": "label", "folder": "images"}


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


# By a name: what the table holds, words of the message, and options other than OPTIONS.
TABLES: dict[str, tuple[bytes | str, str, dict[str, Any]]] = {
    "empty": (b"", "expected a column 'image', found none", {}),
    "blank": ("\n\n \n", "expected a column 'image', found none", {}),
    "a mark of UTF-8 alone": (b"\xef\xbb\xbf", "expected a column 'image', found none", {}),
    "a header alone": ("image,label\n", "expected at least one row, found none", {}),
    "a header and commas": ("image,label\n,\n,,,\n", "expected at least one row, found none", {}),
    "no header": ("".join(GOOD.splitlines(True)[1:]), "expected a column 'image', found ill0.png", {}),
    "one column": ("image\nill0.png\n", "expected a column 'label'", {}),
    "a column misspelt": (changed("label", "lable"), "expected a column 'label', .* did you mean 'lable'", {}),
    "semicolons": (GOOD.replace(",", ";"), "found them parted by ';'", {}),
    "tabs": (GOOD.replace(",", "\t"), "found them parted by '.t'", {}),
    "a column twice": (changed("patient", "label"), "expected one column 'label', found 2", {}),
    "the images twice": (changed("patient", "image"), "expected one column 'image', found 2", {}),
    "a NUL byte": (changed("ill3.png", "ill\x003.png"), "cannot be read .*NUL", {}),
    "NUL bytes alone": (b"\0" * 1000, "cannot be read", {}),
    "UTF-16": (GOOD.encode("utf-16"), "cannot be read", {}),
    "Latin 1": (changed("well,", "gesünd,").encode("latin-1"), "cannot be read .*utf-8", {}),
    "a picture": (png(picture(0)), "cannot be read", {}),
    "a quote that never ends": (changed("ill0.png", '"ill0.png'), "labels.csv|on disk", {}),
    "a quote that never ends, of 1 MB": (changed("ill0.png", '"' + "x" * 1_000_000), "cannot be read .*field larger", {}),
    "a row cut": (changed("ill3.png,ill,p3", "ill3.png"), "label: expected a class, found '' in row 5", {}),
    "an image left out": (changed("ill3.png", ""), "are in the table, but not on disk: \\.", {}),
    "a label left out": (changed("ill3.png,ill", "ill3.png,"), "label: expected a class, found '' in row 5", {}),
    "a label of spaces": (changed("ill3.png,ill", "ill3.png,   "), "label: expected a class, found ''", {}),
    "one class": (GOOD.replace(",well,", ",ill,"), "expected at least two classes, found only 'ill'", {}),
    "a class of one image": (changed("ill3.png,ill", "ill3.png,other"), "class 'other' has no samples in", {}),
    "a label of no number": (changed("ill3.png,ill", "ill3.png,nan"), "class 'nan' has no samples in", {}),
    "a number in two ways": (GOOD.replace(",ill,", ",1,").replace(",well,", ",2,").replace(",1,", ",1.0,", 1), "one way to write a class, found", {}),
    "a class of markup": (changed("ill3.png,ill", "ill3.png,<script>alert(1)</script>"), "class '<script>", {}),
    "an image twice": (GOOD + "ill0.png,ill,p0\n", "stand twice in the table: ill0.png", {}),
    "an image that is not there": (changed("ill3.png", "gone.png"), "not on disk: gone.png", {}),
    "a path out of the folder": (changed("ill3.png", "../../etc/passwd"), "not on disk: ../../etc/passwd", {}),
    "a path out and back": (changed("ill3.png", "../images/ill3.png"), "not on disk: ../images/ill3.png", {}),
    "an absolute path": (changed("ill3.png", "/etc/passwd"), "not on disk: /etc/passwd", {}),
    "a path of Windows": (changed("ill3.png", "images\\ill3.png"), "image: expected a path with /", {}),
    "a path of 5,000 letters": (changed("ill3.png", "x" * 5_000), "not on disk: xxx", {}),
    "an address": (changed("ill3.png", "http://127.0.0.1/x.png"), "not on disk: http:/", {}),
    "a folder for an image": (changed("ill3.png", "."), "not on disk: \\.", {}),
    "a formula": (changed("ill3.png", "=cmd|'/c calc'!A1"), "not on disk: =cmd", {}),
    "a patient left out": (changed("ill3.png,ill,p3", "ill3.png,ill,"), "patient: expected a patient, lesion or other group", {"group": "patient"}),
    "one patient": (GOOD.replace(",p", ",p1 ").replace("p1 1", "p1").replace("p1 ", "p"), "labels.csv|images", {"group": "label"}),
    "a group that is no column": (GOOD, "expected a column 'lesion'", {"group": "lesion"}),
    "a split that is none": (GOOD, "patient: expected train, val or test, found 'p0' in row 2 and 19 more", {"split": "patient"}),
    "marks that are none": (GOOD, "label: expected 0, 1 or nothing, found 'ill' in row 2", {"label": None, "labels": ["label"]}),
    "marks of no number": (GOOD.replace(",ill,", ",nan,").replace(",well,", ",1,"), "expected 0, 1 or nothing, found 'nan'", {"label": None, "labels": ["label"]}),
    "marks of 2": (GOOD.replace(",ill,", ",2,").replace(",well,", ",1,"), "expected 0, 1 or nothing, found '2'", {"label": None, "labels": ["label"]}),
    "marks that are all unknown": (GOOD.replace(",ill,", ",,").replace(",well,", ",,"), "has no samples in", {"label": None, "labels": ["label"]}),
    "no folder of images": (GOOD, "expected an unpacked folder", {"folder": "elsewhere"}),
    "a file for a folder": (GOOD, "expected an unpacked folder", {"folder": "labels.csv"}),
}  # fmt: skip


def root_with(folder: Path, content: bytes | str) -> Path:
    images = {f"scans/images/{name}": png(picture(n)) for n, (name, *_) in enumerate(ROWS)}
    table = content if isinstance(content, bytes) else content.encode()
    write_tree(folder, {**images, "scans/labels.csv": table})
    return folder


def load(root: Path, **options: Any) -> object:
    given_options = {key: value for key, value in {**OPTIONS, **options}.items() if value is not None}
    fields = {"reader": "csv", "path": "scans/labels.csv", "size_px": 8, "options": given_options}
    return load_dataset(DatasetSpec.model_validate(fields), data_root=root)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))


def test_the_table_that_is_spoiled_is_good(tmp_path: Path) -> None:
    load(root_with(tmp_path, GOOD))


@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table_is_refused(name: str, tmp_path: Path) -> None:
    content, words, options = TABLES[name]
    root = root_with(tmp_path, content)
    with refused(tmp_path, words, kind=DataError):
        load(root, **options)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_link(target: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.unlink()
        file.symlink_to(target)

    return change


@pytest.mark.parametrize(
    "change",
    [Path.unlink, as_folder, as_link("nowhere"), as_link("labels.csv"), as_link("/dev/zero")],
    ids=["missing", "a folder", "a link to nothing", "a link to itself", "a device"],
)
def test_what_is_no_table_is_refused(change: Callable[[Path], object], tmp_path: Path) -> None:
    root = root_with(tmp_path, GOOD)
    change(root / "scans" / "labels.csv")
    with refused(tmp_path, "labels.csv: no table at", kind=DataError):
        load(root)


# Of datasets that are published as tables beside images: what writes one, its table, and its reader.
PUBLISHED: dict[str, tuple[Callable[[Path], object], str]] = {
    "aptos": (miniatures.write_aptos, "train.csv"),
    "chexpert": (miniatures.write_chexpert, "train.csv"),
    "eyepacs": (miniatures.write_eyepacs, "trainLabels.csv"),
    "ham10000": (miniatures.write_ham10000, "HAM10000_metadata.csv"),
    "idrid": (miniatures.write_idrid, "a. IDRiD_Disease Grading_Training Labels.csv"),
    "messidor2": (miniatures.write_messidor2, "messidor_data.csv"),
}
SPOILED: dict[str, Callable[[str], bytes]] = {
    "empty": lambda _text: b"",
    "a header alone": lambda text: text.splitlines()[0].encode(),
    "Latin 1": lambda text: ("ü" + text).encode("latin-1"),
    "NUL bytes": lambda text: text.encode().replace(b",", b",\0"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "cells of no number": lambda text: "\n".join(
        [text.splitlines()[0], *(",".join(["nan"] * len(line.split(","))) for line in text.splitlines()[1:])]
    ).encode(),
    "cells of paths": lambda text: "\n".join(
        [text.splitlines()[0], *(",".join(["../x"] * len(line.split(","))) for line in text.splitlines()[1:])]
    ).encode(),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, str]]:
    """By the reader: a data root with a tiny copy, the table in it, and its text."""
    copies = {}
    for reader, (write, name) in PUBLISHED.items():
        root = tmp_path_factory.mktemp(reader)
        write(root)
        table = next(root.rglob(name))
        copies[reader] = (root, table, table.read_text())
    return copies


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("reader", PUBLISHED)
def test_a_hostile_table_of_a_published_dataset_is_refused(
    reader: str, spoiled: str, published: dict[str, tuple[Path, Path, str]], tmp_path: Path
) -> None:
    root, table, text = published[reader]
    folder = next(path for path in root.iterdir() if path.is_dir())
    fields = {"reader": reader, "path": folder.name, "size_px": 16, "partial": True}
    table.write_bytes(SPOILED[spoiled](text))
    with refused(tmp_path, "expected|fetch|found", kind=DataError):
        load_dataset(DatasetSpec.model_validate(fields), data_root=root)


cells = st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=12) | st.sampled_from(
    ["ill0.png", "well1.png", "nan", "1", "-1", "1e999", "../x", "", "train"]
)


@settings(
    max_examples=N_TABLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(st.lists(cells, max_size=4), max_size=8),
    options=st.sampled_from(
        [OPTIONS, {**OPTIONS, "group": "patient"}, {"labels": ["label"], "folder": "images"}]
    ),
)
def test_any_table_is_read_or_refused(
    rows: list[list[str]], options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-table"
    if not root.exists():
        root_with(root, "")
    text = io.StringIO()
    csv.writer(text).writerows([["image", "label", "patient"], *rows])
    table = root / "scans" / "labels.csv"
    table.write_bytes(text.getvalue().encode())
    with read_or_refused(root, "images|labels.csv"):
        read_csv_table(table, CsvOptions.model_validate(options))
