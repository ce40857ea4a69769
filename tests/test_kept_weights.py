"""Weights that trials start from come over the network once a machine, and are those that were stored."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_trial
from tests.test_trial import find, finish
from trainables.errors import CheckpointError
from trainables.record import RecordReader, Store, TrialRecord, kept_weights
from trainables.record.store import Artifacts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def record(store: Store) -> TrialRecord:
    finish(store, tiny_trial())
    return find(store, tiny_trial())


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, record: TrialRecord) -> list[str]:
    """What was downloaded, from a store that lies elsewhere."""
    paths: list[str] = []
    downloaded = Artifacts.downloaded

    @contextmanager
    def noted(artifacts: Artifacts, path: str) -> Iterator[Path]:
        paths.append(path)
        with downloaded(artifacts, path) as file:
            yield file

    monkeypatch.setattr(Artifacts, "downloaded", noted)
    monkeypatch.setattr(Artifacts, "are_local", False)
    return paths


def weights(store: Store, record: TrialRecord) -> dict[str, torch.Tensor]:
    return RecordReader(store).weights(record, "final", is_kept=True)


def stored(store: Store, record: TrialRecord) -> Path:
    uri = store.client.get_run(record.run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / record.checkpoints["final"].path


def test_weights_are_fetched_once(store: Store, record: TrialRecord, cache: Path, fetched: list[str]) -> None:
    first, again = weights(store, record), weights(store, record)
    assert fetched == [record.checkpoints["final"].path]
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    RecordReader(store).weights(record, "final")
    assert len(fetched) == 2, "who reads many does not fill the disk with them"


def test_those_who_come_at_once_wait_for_one(
    store: Store, record: TrialRecord, cache: Path, fetched: list[str]
) -> None:
    threads = [threading.Thread(target=weights, args=(store, record)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_a_kept_file_that_was_damaged_is_fetched_again(
    store: Store, record: TrialRecord, cache: Path, fetched: list[str]
) -> None:
    whole = weights(store, record)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    again = weights(store, record)
    assert len(fetched) == 2
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_the_store_holds_damaged_is_neither_used_nor_kept(
    store: Store, record: TrialRecord, cache: Path, fetched: list[str]
) -> None:
    file = stored(store, record)
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        weights(store, record)
    file.write_bytes(whole)
    assert weights(store, record)


def test_without_a_cache_weights_are_fetched_each_time(
    store: Store, record: TrialRecord, cache: Path, fetched: list[str]
) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert weights(store, record).keys() == weights(store, record).keys()
    assert len(fetched) == 2


def test_what_was_not_used_for_longest_makes_room(
    store: Store, record: TrialRecord, cache: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    for age, name in ((300, "old"), (200, "older than some"), (100, "young")):
        file = cache / f"{name}.safetensors"
        file.write_bytes(b"x" * 1000)
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    size = stored(store, record).stat().st_size
    monkeypatch.setattr(kept_weights, "MOST_BYTES", size + 1500)
    weights(store, record)
    assert {path.stem for path in cache.iterdir()} == {"young", record.checkpoints["final"].sha256}
    monkeypatch.setattr(kept_weights, "MOST_BYTES", 10)
    other = tiny_trial(seed=1)
    finish(store, other)
    assert weights(store, find(store, other))
    assert [path.stem for path in cache.iterdir()] == [find(store, other).checkpoints["final"].sha256]


def test_what_lies_on_this_machine_is_not_kept_twice(store: Store, record: TrialRecord, cache: Path) -> None:
    assert weights(store, record)
    assert not cache.exists()
