"""CIFAR-10 and CIFAR-100 are read as published, and their pickles cannot run code."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.miniatures.folders import (
    CIFAR10_CLASSES,
    write_cifar10_batches,
    write_cifar100,
    write_python2_pickle,
)
from trainables.datasets.cifar import read_cifar
from trainables.datasets.options import CifarOptions
from trainables.datasets.packed import pack
from trainables.datasets.published import CIFAR
from trainables.errors import DataError

FINE, COARSE = CifarOptions(), CifarOptions(labels="coarse")
CIFAR10, CIFAR100 = "cifar-10-batches-py", "cifar-100-python"


def assert_refused(location: Path, expected: str, options: CifarOptions = FINE) -> None:
    with pytest.raises(DataError, match=re.escape(expected)):
        read_cifar(location, options)


def officially(path: Path) -> dict[bytes, object]:
    """Read a file as the page of the dataset says."""
    with path.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of numpy warn of files this old
        return pickle.load(stream, encoding="bytes")  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_cifar10_batches(tmp_path)
    write_cifar100(tmp_path)
    return tmp_path


def test_images_and_labels_are_those_of_the_batches_in_order(root: Path) -> None:
    table = read_cifar(root / CIFAR10, FINE)
    files = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    batches = [officially(root / CIFAR10 / file) for file in files]
    expected = np.concatenate([batch[b"data"] for batch in batches])
    packed = pack(table.images, name="cifar", size_px=32, channels=3)
    np.testing.assert_array_equal(packed, expected.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(table.labels, np.concatenate([batch[b"labels"] for batch in batches]))
    assert table.classes == CIFAR10_CLASSES


def test_test_images_are_the_test_split_and_validation_is_missing(root: Path) -> None:
    table = read_cifar(root / CIFAR10, FINE)
    assert table.missing_splits == ("val",)
    assert list(table.splits) == ["train"] * 100 + ["test"] * 20
    assert [i.split("/")[0] for i in table.sample_ids] == list(table.splits)
    assert len(set(table.sample_ids)) == 120


@pytest.mark.parametrize(("options", "n_classes"), [(FINE, 100), (COARSE, 20)])
def test_cifar100_has_fine_and_coarse_classes(options: CifarOptions, n_classes: int, root: Path) -> None:
    table = read_cifar(root / CIFAR100, options)
    kind = options.labels
    assert table.classes == tuple(f"{kind}_{number:02d}" for number in range(n_classes))
    content = officially(root / CIFAR100 / "train")
    np.testing.assert_array_equal(table.labels[table.splits == "train"], content[f"{kind}_labels".encode()])


def test_counts_are_in_the_terms_of_the_publisher(root: Path) -> None:
    found = read_cifar(root / CIFAR10, FINE).on_disk
    assert found is not None
    assert found.splits == {"train": 100, "test": 20}
    assert set(found.splits) == set(CIFAR.splits)


def test_fingerprint_changes_with_a_batch(root: Path) -> None:
    before = read_cifar(root / CIFAR100, FINE).images.fingerprint
    write_cifar100(root, per_class=4)
    assert read_cifar(root / CIFAR100, FINE).images.fingerprint != before


class Harmful:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, left_behind: Path) -> None:
        self.left_behind = left_behind

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.left_behind),)


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_3", "test_batch"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_with_code_is_refused_and_not_run(file: str, protocol: int, root: Path) -> None:
    left_behind = root / "ran"
    (root / CIFAR10 / file).write_bytes(pickle.dumps({b"data": Harmful(left_behind)}, protocol))
    assert_refused(root / CIFAR10, f"{CIFAR10}: {file}: refused, as it asks for ")
    assert not left_behind.exists()


@pytest.mark.parametrize(
    "names",
    ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core.multiarray\nscalar", "numpy\nndarray.tofile"],
)
def test_only_what_the_official_files_name_is_known(names: str, root: Path) -> None:
    (root / CIFAR100 / "meta").write_bytes(f"c{names}\n.".encode())
    module, name = names.split("\n")
    assert_refused(
        root / CIFAR100,
        f"{CIFAR100}: meta: refused, as it asks for {module}.{name}, and such a pickle can run code; "
        "unpack the official archive anew",
    )


def test_arrays_of_objects_are_refused(root: Path) -> None:
    (root / CIFAR100 / "train").write_bytes(b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.")
    assert_refused(root / CIFAR100, f"{CIFAR100}: train: refused, as it asks for values of the type b'O8'")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_batch_is_refused(share: float, root: Path) -> None:
    batch = root / CIFAR10 / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[: int(batch.stat().st_size * share)])
    assert_refused(root / CIFAR10, f"{CIFAR10}: data_batch_2: the pickle is damaged or incomplete (")


def test_missing_batch_is_named(root: Path) -> None:
    (root / CIFAR10 / "data_batch_5").unlink()
    assert_refused(root / CIFAR10, f"{CIFAR10}: the file data_batch_5 is missing; unpack the archive anew")


def test_coarse_labels_of_cifar10_are_refused(root: Path) -> None:
    assert_refused(
        root / CIFAR10,
        f"{CIFAR10}: dataset.options.labels: CIFAR-10 has no coarse labels, only CIFAR-100 has; "
        "write labels: fine",
        COARSE,
    )


@pytest.mark.parametrize(("kind", "found"), [("tar.gz", "no folder"), ("folder", "another folder")])
def test_what_is_not_an_unpacked_folder_is_refused(kind: str, found: str, tmp_path: Path) -> None:
    location = tmp_path / f"cifar.{kind}"
    if kind == "folder":
        location.mkdir()
    else:
        location.write_bytes(b"x")
    assert_refused(
        location,
        f"cifar.{kind}: expected an unpacked folder {location} with the file batches.meta or meta, "
        f"found {found}; unpack cifar-10-python.tar.gz or cifar-100-python.tar.gz below TRANSFUSION_DATA",
    )


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "expected a dictionary with the key data, found list; unpack the official archive anew"),
        ({b"data": PIXELS}, "expected a dictionary with the key fine_labels, found dict"),
        ({b"data": 3, b"fine_labels": [0, 1]}, "expected uint8 pixels (n, 3072) under data, found int"),
        (
            {b"data": PIXELS[:, :99].copy(), b"fine_labels": [0, 1]},
            "expected uint8 pixels (n, 3072) under data, found uint8 (2, 99)",
        ),
        (
            {b"data": PIXELS, b"fine_labels": [0, 100]},
            "expected a list of class numbers below 100 under fine_labels, found list",
        ),
        ({b"data": PIXELS, b"fine_labels": [0]}, "expected 2 labels, one per image, found 1; unpack"),
    ],
)
def test_batch_of_another_content_is_named(content: object, expected: str, root: Path) -> None:
    write_python2_pickle(root / CIFAR100 / "train", content)
    assert_refused(root / CIFAR100, f"{CIFAR100}: train: {expected}")


def test_class_names_of_another_kind_are_refused(root: Path) -> None:
    write_python2_pickle(root / CIFAR100 / "meta", {b"fine_label_names": [1, 2]})
    assert_refused(root / CIFAR100, f"{CIFAR100}: meta: expected a list of names under fine_label_names")
