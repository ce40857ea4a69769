"""Archives of images that are broken on purpose: nothing leaves its folder, and nothing fills the memory."""
# ruff: noqa: E501

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostility import read_or_refused, refused
from tests.image_trees import image_tree
from trainables.datasets.loading import load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError

N_DAMAGES = 40

FILES = image_tree(None)


def tarred(*members: tarfile.TarInfo, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of good images and of other members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=format) as tar:  # type: ignore[call-overload]
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return stream.getvalue()


def member(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


def zipped(more: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in {**FILES, **more}.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def patched(data: bytes, changes: dict[int, bytes], sign: bytes = b"PK\x01\x02") -> bytes:
    """Change the entry of the first file in the list of a zip."""
    content, start = bytearray(data), data.index(sign)
    for offset, value in changes.items():
        content[start + offset : start + offset + len(value)] = value
    return bytes(content)


TAR, TAR_XZ, TAR_GZ, ZIP = tarred(), tarred(mode="w:xz"), tarred(mode="w:gz"), zipped({})
OUT = "points out of the archive"
ARCHIVES: dict[str, tuple[str, bytes, str]] = {
    "no bytes, tar": (".tar", b"", "damaged or incomplete"),
    "no bytes, xz": (".tar.xz", b"", "damaged or incomplete"),
    "no bytes, zip": (".zip", b"", "damaged or incomplete"),
    "text, tar": (".tar", b"x" * 2_000, "damaged or incomplete"),
    "text, gz": (".tar.gz", b"x" * 2_000, "damaged or incomplete"),
    "text, zip": (".zip", b"x" * 2_000, "damaged or incomplete"),
    "a zip that is called tar": (".tar", ZIP, "damaged or incomplete"),
    "a tar that is called zip": (".zip", TAR, "damaged or incomplete"),
    "cut, tar": (".tar", TAR[: len(TAR) // 2], "damaged or incomplete"),
    "cut after a member, tar": (".tar", TAR[:2048], "damaged or incomplete"),
    "cut, xz": (".tar.xz", TAR_XZ[: len(TAR_XZ) // 2], "damaged or incomplete"),
    "cut, gz": (".tar.gz", TAR_GZ[: len(TAR_GZ) // 2], "damaged or incomplete"),
    "cut, zip": (".zip", ZIP[:-30], "damaged or incomplete"),
    "without its beginning, zip": (".zip", ZIP[200:], "damaged or incomplete"),
    "empty, tar": (".tar", bytes(10_240), "expected images"),
    "empty, zip": (".zip", b"PK\x05\x06" + bytes(18), "expected images"),
    "a member above, tar": (".tar", tarred(member("../evil.png")), OUT),
    "a member above, zip": (".zip", zipped({"../evil.png": b""}), OUT),
    "a member far above, zip": (".zip", zipped({"a/../../../etc/evil.png": b""}), OUT),
    "an absolute member, tar": (".tar", tarred(member("/etc/evil.png")), OUT),
    "an absolute member, zip": (".zip", zipped({"/etc/evil.png": b""}), OUT),
    "an absolute folder, tar": (".tar", tarred(member("/etc", kind=tarfile.DIRTYPE)), OUT),
    "a folder above, zip": (".zip", zipped({"../": b""}), OUT),
    "a link to a file of passwords": (".tar", tarred(member("ill/x.png", kind=tarfile.SYMTYPE, target="/etc/passwd")), "ill/x.png is a link"),
    "a link above": (".tar.xz", tarred(member("ill/up", kind=tarfile.SYMTYPE, target="../.."), mode="w:xz"), "ill/up is a link"),
    "a hard link": (".tar.gz", tarred(member("ill/x.png", kind=tarfile.LNKTYPE, target="ill/0.png"), mode="w:gz"), "ill/x.png is a link"),
    "a name that is no UTF-8": (".tar", tarred(member("ill/\udcff.png"), format=tarfile.GNU_FORMAT), "no name in UTF-8"),
    "an image of 4 TB, tar": (".tar", tarred(member("ill/x.png", size=2**42))[:-1024] + bytes(4096), "damaged|at most"),
    "an image of 4 TB by a sparse map": (".tar", tarred(member("ill/x.png", kind=tarfile.GNUTYPE_SPARSE), format=tarfile.GNU_FORMAT), "damaged|cannot be read|ill/x.png"),
    "an image of 4 GB, zip": (".zip", patched(ZIP, {24: b"\xf0\xff\xff\xff"}), "expected images of at most"),
    "an unknown method, zip": (".zip", patched(ZIP, {10: b"\x63\x00"}), "damaged or incomplete"),
    "a wrong checksum, zip": (".zip", patched(ZIP, {16: b"abcd"}), "damaged or incomplete"),
    "encrypted, zip": (".zip", patched(ZIP, {8: b"\x01\x00"}), "damaged or incomplete .*encrypted"),
    "an offset beyond, zip": (".zip", patched(ZIP, {42: b"\xf0\xff\xff\x7f"}), "damaged or incomplete"),
    "another name inside, zip": (".zip", patched(ZIP, {30: b"j"}, b"PK\x03\x04"), "damaged or incomplete"),
    "a bomb that is no image, zip": (".zip", zipped({"ill/x.png": bytes(100_000_000)}), "ill/x.png .is no image"),
    "a number that is none, tar": (".tar", TAR[:124] + b"zzzzzzzzzzzz" + TAR[136:], "damaged or incomplete"),
    "a wrong checksum, tar": (".tar", TAR[:148] + b"0000000\0" + TAR[156:], "damaged or incomplete"),
    "a header of sizes that are none": (".tar", tarred(member("x"), format=tarfile.PAX_FORMAT)[:512] * 3, "damaged or incomplete"),
    "only what macOS adds": (".zip", zipped({}).replace(b"ill/", b".ll/").replace(b"well/", b".ell/"), "expected images"),
}  # fmt: skip


def load(root: Path) -> object:
    fields = {"reader": "image_folder", "path": "scans", "size_px": 8}
    return load_dataset(DatasetSpec.model_validate(fields), data_root=root)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    suffix, content, words = ARCHIVES[name]
    root = tmp_path / "root"
    root.mkdir()
    (root / f"scans{suffix}").write_bytes(content)
    with refused(tmp_path, words, kind=DataError):
        load(root)
    assert [path.name for path in root.iterdir()] == [f"scans{suffix}"]
    assert not list(tmp_path.rglob("*evil*"))


@settings(
    max_examples=N_DAMAGES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    archive=st.sampled_from([(".tar", TAR), (".zip", ZIP), (".tar.gz", TAR_GZ)]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_damage_anywhere_in_an_archive_is_refused_or_of_no_effect(
    archive: tuple[str, bytes], damage: list[tuple[float, int]], tmp_path: Path
) -> None:
    suffix, data = archive
    content = bytearray(data)
    for where, byte in damage:
        content[int(where * (len(data) - 1))] = byte
    for old in tmp_path.glob("scans*"):
        old.unlink()
    (tmp_path / f"scans{suffix}").write_bytes(content)
    with read_or_refused(tmp_path, "scans"):
        load(tmp_path)
