"""Arrays that are broken on purpose: .npz files, CIFAR's pickles, and packed pixels in the cache."""
# ruff: noqa: E501

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostility import Payload, read_or_refused, refused, watched
from tests.image_trees import medmnist_arrays, picture, png
from trainables.datasets.loading import load_dataset
from trainables.datasets.packed import ImageFiles, pack
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError

N_DAMAGES = 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


ARRAYS = medmnist_arrays(splits={"train": 12, "val": 6, "test": 6})


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(text: str, content: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin-1") + content


def described(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def spoiled(**members: bytes | np.ndarray | None) -> bytes:
    """Return a good file with other members in the place of some; None leaves one out."""
    given: dict[str, Any] = {**ARRAYS, **members}
    return npz(
        {
            f"{key}.npy": value if isinstance(value, bytes) else npy(value)
            for key, value in given.items()
            if value is not None
        }
    )


def encrypted(data: bytes) -> bytes:
    """Set the flag of encryption of every member."""
    content = bytearray(data)
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(sign)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(sign, start + 4)
    return bytes(content)


GOOD = spoiled()
IMAGES, LABELS = ARRAYS["train_images"], ARRAYS["train_labels"]
OBJECTS = np.array([[Payload()]] * 12, dtype=object)
NPZ: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "cannot be read"),
    "text": (b"images", "cannot be read"),
    "a pickle": (pickle.dumps(Payload()), "cannot be read"),
    "an array alone": (npy(IMAGES), "cannot be read"),
    "an empty archive": (npz({}), "found none of the layout"),
    "an archive of text": (npz({"readme.txt": b"x"}), "found none of the layout"),
    "cut at the end": (GOOD[:-10], "cannot be read"),
    "cut in the middle": (GOOD[: len(GOOD) // 2], "cannot be read"),
    "cut at the beginning": (GOOD[100:], "cannot be read|incomplete"),
    "encrypted": (encrypted(GOOD), "cannot be read .*encrypted"),
    "images of objects": (spoiled(train_images=OBJECTS), "train_images: expected uint8"),
    "labels of objects": (spoiled(train_labels=OBJECTS), "cannot be read .*[Oo]bject"),
    "a member that is a pickle": (spoiled(train_labels=pickle.dumps(Payload())), "cannot be read"),
    "a member that is text": (spoiled(train_labels=b"0 1 0 1"), "cannot be read"),
    "an empty member": (spoiled(train_images=b""), "cannot be read"),
    "a member cut": (spoiled(train_images=npy(IMAGES)[:-7]), "cannot be read .*train_images is"),
    "a member that goes on": (spoiled(train_images=npy(IMAGES) + b"more"), "cannot be read .*train_images is"),
    "no images": (spoiled(train_images=None), "expected the arrays train_images and train_labels"),
    "no labels": (spoiled(train_labels=None), "expected the arrays train_images and train_labels"),
    "labels of val alone": (spoiled(val_images=None), "expected the arrays val_images and val_labels"),
    "images of floating point": (spoiled(train_images=IMAGES.astype(np.float32)), "train_images: expected uint8"),
    "images of 16 bits": (spoiled(train_images=IMAGES.astype(np.uint16)), "train_images: expected uint8"),
    "images of text": (spoiled(train_images=np.array(["a"] * 12)), "train_images: expected uint8"),
    "images of one axis": (spoiled(train_images=IMAGES.ravel()), "train_images: expected uint8"),
    "images of five axes": (spoiled(train_images=IMAGES[:, :, :, None, None]), "train_images: expected uint8"),
    "images of four colours": (spoiled(train_images=np.zeros((12, 9, 9, 4), np.uint8)), "train_images: expected uint8"),
    "images by column": (spoiled(train_images=np.asfortranarray(IMAGES)), "stored column by column"),
    "images of no width": (spoiled(**{f"{s}_images": np.zeros((n, 9, 0), np.uint8) for s, n in (("train", 12), ("val", 6), ("test", 6))}), "mine.npz"),
    "images of another size": (spoiled(val_images=np.zeros((6, 9, 9), np.uint8)), "of one shape in all splits"),
    "no rows": (spoiled(train_images=IMAGES[:0], train_labels=LABELS[:0]), "at least one image"),
    "labels of floating point": (spoiled(train_labels=LABELS.astype(float)), "train_labels: expected integers"),
    "labels of no number": (spoiled(train_labels=np.full((12, 1), np.nan)), "train_labels: expected integers"),
    "labels of text": (spoiled(train_labels=np.array([["a"]] * 12)), "train_labels: expected integers"),
    "labels of dates": (spoiled(train_labels=np.zeros((12, 1), "M8[s]")), "train_labels: expected integers"),
    "labels of complex numbers": (spoiled(train_labels=LABELS.astype(complex)), "train_labels: expected integers"),
    "labels of fields": (spoiled(train_labels=np.zeros((12, 1), [("a", "u1")])), "train_labels: expected integers"),
    "labels of one axis": (spoiled(train_labels=LABELS[:, 0]), "train_labels: expected integers"),
    "labels of no column": (spoiled(train_labels=LABELS[:, :0]), "train_labels: expected integers"),
    "a label too few": (spoiled(train_labels=LABELS[:-1]), "train_labels: expected 12 rows"),
    "a label too many": (spoiled(train_labels=np.vstack([LABELS, LABELS])), "train_labels: expected 12 rows"),
    "a negative label": (spoiled(train_labels=LABELS.astype(int) - 1), "train_labels: expected class numbers from 0, found -1"),
    "a label of 2 to the 62nd": (spoiled(train_labels=LABELS.astype(np.int64) << 62), "expected class numbers below"),
    "a label of 2 to the 64th": (spoiled(train_labels=np.full((12, 1), 2**64 - 1, np.uint64)), "expected class numbers below"),
    "a class that is nowhere": (spoiled(train_labels=LABELS * 9), "class '1' has no samples"),
    "marks of 2": (spoiled(train_labels=np.full((12, 4), 2, np.uint8)), "train_labels: expected 0 or 1"),
    "marks beside numbers": (spoiled(train_labels=np.hstack([LABELS, LABELS])), "expected labels of one shape"),
    "a header of terabytes": (spoiled(train_images=header(described("(1000000000000, 9, 9)"))), "cannot be read .*train_images is"),
    "labels of terabytes": (spoiled(train_labels=header(described("(1000000000000, 1)"))), "cannot be read .*train_labels is"),
    "a negative shape": (spoiled(train_images=header(described("(-1, 9, 9)"))), "cannot be read"),
    "a shape of text": (spoiled(train_images=header(described("'a'"))), "cannot be read"),
    "a shape beyond any number": (spoiled(train_images=header(described(f"({'9' * 900},)"))), "cannot be read"),
    "a shape of words": (spoiled(train_images=header(described("(True, None)"))), "cannot be read"),
    "a type that is none": (spoiled(train_images=header(described("(1,)", "'what'"))), "cannot be read"),
    "a type of code": (spoiled(train_images=header(described("(1,)", "__import__('os').system('touch canary-was-here')"))), "cannot be read"),
    "a header of code": (spoiled(train_images=header("__import__('os').system('touch canary-was-here')\n")), "cannot be read"),
    "a header of a list": (spoiled(train_images=header("[1, 2]\n")), "cannot be read"),
    "a header without a shape": (spoiled(train_images=header("{'descr': '|u1'}\n")), "cannot be read"),
    "a header that is not closed": (spoiled(train_images=header("{'descr': ('|u1'\n")), "cannot be read"),
    "a header of brackets": (spoiled(train_images=header("(" * 9_000 + "\n")), "cannot be read"),
    "a header of 60 KB": (spoiled(train_images=header(" " * 60_000 + "\n")), "cannot be read"),
    "a header longer than the file": (spoiled(train_images=b"\x93NUMPY\x01\x00\xff\xff{"), "cannot be read"),
    "a header of version 9": (spoiled(train_images=header(described("(1,)"), version=(9, 9))), "cannot be read"),
    "a bomb of labels": (spoiled(train_labels=header(described("(200000000, 1)"), bytes(200_000_000))), "expected at most 100000000 labels"),
}  # fmt: skip


def load(root: Path, **fields: object) -> object:
    spec = {"reader": "medmnist", "path": "mine.npz", "size_px": 8, **fields}
    return load_dataset(DatasetSpec.model_validate(spec), data_root=root)


@pytest.mark.parametrize("name", NPZ)
def test_a_hostile_npz_is_refused(name: str, tmp_path: Path) -> None:
    content, words = NPZ[name]
    (tmp_path / "mine.npz").write_bytes(content)
    with refused(tmp_path, words, kind=DataError):
        load(tmp_path)


@settings(
    max_examples=N_DAMAGES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_damage_anywhere_in_an_npz_is_refused_or_of_no_effect(
    damage: list[tuple[int, int]], tmp_path: Path
) -> None:
    content = bytearray(GOOD)
    for where, byte in damage:
        content[where] = byte
    (tmp_path / "mine.npz").write_bytes(content)
    with read_or_refused(tmp_path, "mine.npz"):
        load(tmp_path)


def batch(**changes: object) -> dict[bytes, object]:
    content = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 0, 1], **changes}
    return {key.encode(): value for key, value in content.items() if value is not None}


GOOD_BATCH = pickle.dumps(batch(), protocol=4)
# Of CIFAR's second batch.
PICKLES: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "damaged or incomplete"),
    "text": (b"labels", "damaged or incomplete"),
    "code": (pickle.dumps(Payload()), "refused, as it asks for posix.system"),
    "code inside": (pickle.dumps({b"data": [Payload()]}), "refused, as it asks for posix.system"),
    "code by a name": (b"cbuiltins\neval\n(V1\ntR.", "refused, as it asks for builtins.eval"),
    "code by the name of an array": (b"cnumpy\nndarray\n(V1\ntR.", "damaged or incomplete"),
    "code by a name of two parts": (pickle.dumps(Payload(), 4).replace(b"posix", b"numpy"), "refused|damaged"),
    "an extension": (b"\x82\x01.", "damaged or incomplete"),
    "a persistent name": (b"Pname\n.", "damaged or incomplete"),
    "an array of objects": (pickle.dumps(np.array([Payload()], object)), "refused"),
    "a memory of 2 to the 31st": (b"\x80\x02]r\xff\xff\xff\x7f.", "damaged|expected a dictionary"),
    "bytes of 2 to the 62nd": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".", "damaged or incomplete"),
    "nested 100,000 deep": (b"(" + b"(" * 100_000 + b"t" * 100_000 + b".", "damaged|expected a dictionary"),
    "a list": (pickle.dumps([1]), "expected a dictionary with the key data"),
    "no images": (pickle.dumps(batch(data=None), 4), "expected a dictionary with the key data"),
    "no labels": (pickle.dumps(batch(labels=None), 4), "expected a dictionary with the key labels"),
    "images of text": (pickle.dumps(batch(data="x"), 4), "expected uint8 pixels"),
    "images of another size": (pickle.dumps(batch(data=np.zeros((4, 9), np.uint8)), 4), "expected uint8 pixels"),
    "labels beyond": (pickle.dumps(batch(labels=[0, 1, 0, 9]), 4), "a list of class numbers below 2"),
    "negative labels": (pickle.dumps(batch(labels=[0, 1, 0, -1]), 4), "a list of class numbers below 2"),
    "labels of text": (pickle.dumps(batch(labels=["a"] * 4), 4), "a list of class numbers below 2"),
    "labels too few": (pickle.dumps(batch(labels=[0]), 4), "expected 4 labels, one per image, found 1"),
    "cut": (GOOD_BATCH[: len(GOOD_BATCH) // 2], "damaged or incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_of_cifar_is_refused(name: str, tmp_path: Path) -> None:
    content, words = PICKLES[name]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"ill", b"well"]}, 4))
    for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / file).write_bytes(GOOD_BATCH)
    (folder / "data_batch_2").write_bytes(content)
    fields = {"reader": "cifar", "path": folder.name, "size_px": 8, "partial": True}
    with refused(tmp_path, words, kind=DataError):
        load_dataset(DatasetSpec.model_validate(fields), data_root=tmp_path)


def scans() -> ImageFiles:
    data = [png(picture(number)) for number in range(4)]
    return ImageFiles(
        tuple(f"{n}.png" for n in range(4)),
        lambda: ((n, lambda n=n: data[n]) for n in range(4)),  # type: ignore[misc]
        "scans",
    )


def packed() -> np.ndarray:
    return np.array(pack(scans(), name="scans", size_px=8, channels=1))


# What is done to a file of packed pixels.
CACHES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("text"),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"more"),
    "another array": lambda file: np.save(file, np.zeros(9)),
    "a pickle": lambda file: file.write_bytes(pickle.dumps(Payload())),
    "an array of pickles": lambda file: np.save(file, np.array([Payload()], object), allow_pickle=True),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "one bit": lambda file: file.write_bytes(file.read_bytes().replace(b"\x00", b"\x01", 1)),
    "a header of terabytes": lambda file: file.write_bytes(
        header(described("(1000000000000, 1, 8, 8)")) + bytes(400)
    ),
}
# Lines in the journal of a file that is not finished.
JOURNALS: dict[str, bytes] = {
    "a number": b"5\n",
    "a list": b"[]\n",
    "nothing": b"null\n",
    "no numbers": b"{}\n",
    "numbers that are none": b'{"numbers": ["a"], "sha256": "", "broken": {}}\n',
    "numbers of no image": b'{"numbers": [99], "sha256": "", "broken": {}}\n',
    "negative numbers": b'{"numbers": [-1], "sha256": "", "broken": {}}\n',
    "broken ones that are none": b'{"numbers": [0], "sha256": "", "broken": {"x": 1}}\n',
    "broken ones in a list": b'{"numbers": [0], "sha256": "", "broken": []}\n',
    "a wrong digest": b'{"numbers": [0], "sha256": "00", "broken": {}}\n',
    "no text": b"\xff\xfe\n",
    "no JSON": b"{\n",
    "nested": b"[" * 50_000 + b"\n",
}


@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_is_made_again(name: str, cache: Path, tmp_path: Path) -> None:
    expected = packed()
    (file,) = (cache / "packed").glob("*.npy")
    CACHES[name](file)
    with watched(tmp_path):
        np.testing.assert_array_equal(packed(), expected)


@pytest.mark.parametrize("name", JOURNALS)
def test_a_damaged_journal_costs_only_the_work_it_stood_for(name: str, cache: Path, tmp_path: Path) -> None:
    expected = packed()
    (file,) = (cache / "packed").glob("*.npy")
    file.unlink()
    file.with_name(f".{file.name}.journal").write_bytes(JOURNALS[name])
    with watched(tmp_path):
        np.testing.assert_array_equal(packed(), expected)


@pytest.mark.parametrize(
    "index",
    ["", "5", "[]", "{}", '{"files": 5, "folders": 3}', '{"files": {"a": 1}, "folders": []}', "[" * 50_000],
)
def test_a_damaged_list_of_an_archive_is_made_again(index: str, cache: Path, tmp_path: Path) -> None:
    from tests.image_trees import image_tree, write_archive

    write_archive(tmp_path / "scans.zip", image_tree(None))
    fields = {"reader": "image_folder", "path": "scans", "size_px": 8}
    first = load_dataset(DatasetSpec.model_validate(fields), data_root=tmp_path)
    (file,) = (cache / "archives").glob("*.json")
    assert json.loads(file.read_text())["files"]
    file.write_text(index)
    with watched(tmp_path):
        again = load_dataset(DatasetSpec.model_validate(fields), data_root=tmp_path)
    assert again.digest == first.digest
