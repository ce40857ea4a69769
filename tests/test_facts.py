"""Digests and statistics of a dataset are computed once, and are those of its pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.datasets import facts, loading
from trainables.datasets.facts import Facts, facts_key, kept_facts
from trainables.datasets.loading import Dataset, Split, load_dataset
from trainables.datasets.packed import ImageArray
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import Table
from trainables.errors import DataError

SPEC = DatasetSpec(reader="image_folder", path="scans", size_px=8, channels=1)
SOME = Facts("0" * 64, (0.25,), (0.5,))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "facts"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("ill", "well"):
        folder = tmp_path / "scans" / label
        folder.mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the datasets whose pixels were passed over."""
    names: list[str] = []
    compute = facts.compute_facts

    def noted(spec: DatasetSpec, name: str, classes: tuple[str, ...], splits: tuple[Split, ...]) -> Facts:
        names.append(name)
        return compute(spec, name, classes, splits)

    monkeypatch.setattr(loading, "compute_facts", noted)
    return names


def loaded(scans: Path, **changes: object) -> Dataset:
    return load_dataset(SPEC.model_copy(update=changes), data_root=scans)


def found(dataset: Dataset) -> Facts:
    return Facts(dataset.digest, dataset.mean, dataset.sd)


def test_the_second_load_passes_over_no_pixels(scans: Path, computed: list[str]) -> None:
    first, again = loaded(scans), loaded(scans)
    assert len(computed) == 1
    assert found(first) == found(again)
    pixels = np.asarray(first.train.images) / 255
    assert first.mean[0] == pytest.approx(pixels.mean())
    assert first.sd[0] == pytest.approx(pixels.std())


def test_images_that_changed_have_other_facts(scans: Path, computed: list[str]) -> None:
    whole = loaded(scans)
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(scans / "scans" / "ill" / "0.png")
    changed, unscaled = loaded(scans), loaded(scans, normalize="unit")
    assert len(computed) == 3
    assert changed.digest == unscaled.digest != whole.digest
    assert changed.mean != unscaled.mean == (0.5,)


def table() -> Table:
    ids = np.array(["a", "b", "c", "d"])
    images = ImageArray(np.zeros((4, 8, 8), np.uint8))
    splits = np.array(["train", "train", "val", "test"])
    return Table("t", images, np.arange(4), np.array([0, 1, 0, 1]), ("x", "y"), ids, ids, splits)


def test_every_part_of_the_key_counts() -> None:
    def key(
        selected: Table | None = None, digest: str | None = "1", n: int = 4, **changes: object
    ) -> str | None:
        return facts_key(SPEC.model_copy(update=changes), selected or table(), digest, (n, 1, 8, 8))

    plain = table()
    others = [
        key(digest="2"),
        key(n=5),
        key(normalize="unit"),
        key(channels=3),
        key(replace(plain, classes=("x", "z"))),
        key(replace(plain, rows=plain.rows[::-1])),
        key(replace(plain, labels=1 - plain.labels)),
        key(replace(plain, labels=plain.labels.astype(np.uint8))),
        key(replace(plain, sample_ids=np.array(["a", "b", "c", "e"]))),
        key(replace(plain, groups=np.array(["a", "b", "c", "e"]))),
        key(replace(plain, splits=np.array(["train", "val", "val", "test"]))),
    ]
    assert len({key(), *others}) == 1 + len(others)
    assert key() == key()
    assert key(digest=None) is None


def test_facts_come_back_to_the_last_bit(cache: Path) -> None:
    facts_ = Facts("f" * 64, (0.1 + 0.2, 1 / 3, 5e-324), (2 / 3, 0.7, 1.0))
    assert kept_facts("a", lambda: facts_) == kept_facts("a", lambda: SOME) == facts_
    assert kept_facts(None, lambda: SOME) == SOME
    assert [path.name for path in cache.iterdir()] == ["a.json"]


@pytest.mark.parametrize("damage", ["", "{}", "0\n{}", "cut", "altered"])
def test_damaged_facts_are_computed_again(cache: Path, damage: str) -> None:
    kept_facts("a", lambda: SOME)
    file = cache / "a.json"
    whole = file.read_text()
    file.write_text({"cut": whole[:-1], "altered": whole.replace("0.25", "0.35")}.get(damage, damage))
    assert kept_facts("a", lambda: SOME) == SOME
    assert file.read_text() == whole


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert kept_facts("a", lambda: SOME) == SOME


def test_facts_that_cannot_be_are_an_error_each_time(scans: Path) -> None:
    for file in scans.rglob("*.png"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(file)
    for _ in range(2):
        with pytest.raises(DataError, match="all training pixels are equal"):
            loaded(scans)
