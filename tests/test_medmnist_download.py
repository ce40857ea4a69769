"""Files of MedMNIST come whole or not at all, and who cannot fetch them learns what to do by hand."""

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainables.datasets.medmnist_download import download_medmnist
from trainables.errors import DataError

CONTENT = b"an archive of arrays" * 100_000


@dataclass
class Package:
    """Stands in for `medmnist`: what it says of its files."""

    INFO: dict[str, dict[str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "served").write_bytes(CONTENT)
    return folder


@pytest.fixture
def package(server: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    url, md5 = (server / "served").as_uri(), hashlib.md5(CONTENT).hexdigest()
    facts = {"url": url, "MD5": md5, "url_64": url, "MD5_64": md5}
    package = Package({"pneumoniamnist": facts})
    monkeypatch.setitem(sys.modules, "medmnist", package)  # type: ignore[misc]
    return package


def assert_refused(name: str, root: Path, expected: str) -> None:
    with pytest.raises(DataError, match=re.escape(expected)):
        download_medmnist(name, root)
    assert not root.exists() or not list(root.iterdir())


def by_hand(name: str, root: Path) -> str:
    return f"or get {name} from https://zenodo.org/records/10519652 by hand and put it at {root / name}"


@pytest.mark.parametrize("name", ["pneumoniamnist", "pneumoniamnist_64"])
@pytest.mark.usefixtures("package")
def test_file_arrives_below_the_data_root_and_alone(name: str, tmp_path: Path) -> None:
    file = download_medmnist(name, tmp_path / "data")
    assert file == tmp_path / "data" / f"{name}.npz"
    assert file.read_bytes() == CONTENT
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.usefixtures("package")
def test_file_that_is_there_is_not_fetched_again(server: Path, tmp_path: Path) -> None:
    first = download_medmnist("pneumoniamnist", tmp_path / "data")
    (server / "served").unlink()
    assert download_medmnist("pneumoniamnist", tmp_path / "data") == first


@pytest.mark.usefixtures("package")
def test_file_with_another_checksum_is_not_kept(server: Path, tmp_path: Path) -> None:
    (server / "served").write_bytes(CONTENT[:-1])
    root = tmp_path / "data"
    right, wrong = (hashlib.md5(content).hexdigest() for content in (CONTENT, CONTENT[:-1]))
    url = (server / "served").as_uri()
    assert_refused(
        "pneumoniamnist",
        root,
        f"pneumoniamnist.npz: expected the MD5 {right}, got {wrong} from {url}; try again, "
        + by_hand("pneumoniamnist.npz", root),
    )


@pytest.mark.usefixtures("package")
def test_server_that_cannot_be_reached_is_named(server: Path, tmp_path: Path) -> None:
    (server / "served").unlink()
    root = tmp_path / "data"
    with pytest.raises(
        DataError, match=r"^pneumoniamnist\.npz: cannot be fetched from file://.* \(.*\); "
    ) as e:
        download_medmnist("pneumoniamnist", root)
    assert str(e.value).endswith(by_hand("pneumoniamnist.npz", root))
    assert not list(root.iterdir())


def test_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)  # type: ignore[misc]
    root = tmp_path / "data"
    assert_refused(
        "dermamnist_224",
        root,
        "dermamnist_224.npz: the package that knows its address is not installed; pip install medmnist, "
        + by_hand("dermamnist_224.npz", root),
    )


@pytest.mark.usefixtures("package")
def test_size_that_an_older_package_does_not_know_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert_refused(
        "pneumoniamnist_128",
        root,
        "pneumoniamnist_128.npz: the installed medmnist package does not know this size; "
        "pip install --upgrade medmnist, " + by_hand("pneumoniamnist_128.npz", root),
    )


def test_unknown_name_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^medmnist must be one of .* did you mean 'pathmnist_64'"):
        download_medmnist("pathmnst_64", tmp_path)
