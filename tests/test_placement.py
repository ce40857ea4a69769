"""Where images lie changes nothing about them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import tiny_trial
from trainables import placement
from trainables.batches import Batches
from trainables.datasets.image_rows import ImageRows
from trainables.datasets.loading import Dataset, Split, load_dataset
from trainables.placement import OnDevice, OnHost, is_anything_placed, place, set_gpu_share

CPU = torch.device("cpu")


def split_of(images: np.ndarray | ImageRows) -> Split:
    n = len(images)
    return Split(images, np.arange(n) % 3, np.arange(n).astype(str), np.arange(n).astype(str))


def pixels(n: int = 3000, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, 2, 2), dtype=np.uint8)


def kinds() -> dict[str, np.ndarray | ImageRows]:
    grey = np.broadcast_to(pixels(channels=1), (3000, 3, 2, 2))
    rows = np.random.default_rng(1).permutation(3000)[:2100]
    return {
        "whole": pixels(),
        "grey as colours": grey,
        "scattered": ImageRows(pixels(), rows),
        "scattered grey": ImageRows(grey, rows),
    }


@pytest.mark.parametrize("kind", ["whole", "grey as colours", "scattered", "scattered grey"])
def test_on_the_device_and_on_the_host_images_and_labels_are_the_same(kind: str) -> None:
    split = split_of(kinds()[kind])
    there, here = OnDevice(split, CPU), OnHost(split, CPU)
    chosen = np.random.default_rng(2).permutation(len(split.labels))[:50]
    for some in (chosen, slice(10, 40), slice(len(split.labels) - 3, len(split.labels) + 5)):
        for found, expected in zip(there.take(some), here.take(some), strict=True):
            assert torch.equal(found, expected)
            assert found.dtype == expected.dtype
    assert there.take(chosen)[0].numpy().tolist() == np.asarray(split.images)[chosen].tolist()


def test_grey_images_that_stand_for_colours_take_the_room_of_one_plane() -> None:
    assert OnDevice(split_of(kinds()["scattered grey"]), CPU)._images.shape == (2100, 1, 2, 2)
    assert OnDevice(split_of(kinds()["whole"]), CPU)._images.shape == (3000, 3, 2, 2)


@given(st.data())
def test_rows_of_an_array_read_like_a_copy(data: st.DataObject) -> None:
    array = pixels(12)
    rows = np.array(data.draw(st.lists(st.integers(0, 11), min_size=1, unique=True)))
    images, copied = ImageRows(array, rows), array[rows]
    assert (len(images), images.shape) == (len(copied), copied.shape)
    assert np.array_equal(np.asarray(images), copied)
    place_ = data.draw(st.integers(-len(rows), len(rows) - 1))
    assert np.array_equal(images[place_], copied[place_])
    cut = slice(data.draw(st.integers(0, 12)), data.draw(st.integers(0, 14)))
    assert np.array_equal(images[cut], copied[cut])


def test_what_rows_give_is_a_copy_that_may_be_changed() -> None:
    array = pixels(4)
    images = ImageRows(array, np.array([2, 0]))
    images[np.array([0])][:] = 0
    assert np.array_equal(array, pixels(4))
    with pytest.raises(ValueError, match="can only be copied"):
        images.__array__(copy=False)


def test_a_split_that_is_scattered_is_not_copied_together() -> None:
    dataset = load_dataset(tiny_trial().dataset, data_root=None)
    assert all(isinstance(s.images, ImageRows) for s in (dataset.train, dataset.val, dataset.test))


def test_a_gpu_that_has_room_keeps_the_images_for_the_next_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, free = torch.device("cuda"), [10**6]
    made: list[Split] = []

    class Noted(OnDevice):
        def __init__(self, split: Split, device: torch.device) -> None:
            super().__init__(split, CPU)
            made.append(split)

    monkeypatch.setattr(placement, "_ON_DEVICE", {})
    monkeypatch.setattr(placement, "OnDevice", Noted)
    memory(monkeypatch, free)
    split = split_of(pixels())  # 36,000 bytes
    assert place(split, gpu) is place(split, gpu)
    assert made == [split]
    assert is_anything_placed(gpu)
    assert not is_anything_placed(CPU), "another device has its own memory"
    free[0] = 80_000
    assert isinstance(place(split_of(pixels()), gpu), OnHost), "more than its share of what is free"
    free[0] = 10**6
    monkeypatch.setattr(placement, "LARGEST_SHARE", 0.05)
    assert isinstance(place(split_of(pixels()), gpu), OnHost), "what is there already counts"
    assert isinstance(place(split, gpu), Noted), "what is there already needs no room"
    assert isinstance(place(split, gpu, may_fill=False), OnHost)
    assert not is_anything_placed(gpu)
    free[0] = 10**6
    place(split, gpu)
    assert len(made) == 2, "who needs the memory gets it back"


def memory(monkeypatch: pytest.MonkeyPatch, free: list[int], *, kept: int = 0) -> None:
    """Let GPUs have 10^6 bytes of memory, of which torch keeps some that it does not need now."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 10**6))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500 + kept)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)


@pytest.fixture
def whole_gpu() -> Iterator[None]:
    yield
    set_gpu_share(1.0)


@pytest.mark.usefixtures("whole_gpu")
def test_who_shares_a_gpu_places_as_much_less(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, free = torch.device("cuda"), [10**6]
    monkeypatch.setattr(placement, "_ON_DEVICE", {})
    monkeypatch.setattr(placement, "OnDevice", lambda split, device: OnDevice(split, CPU))
    memory(monkeypatch, free)
    set_gpu_share(0.05)
    assert isinstance(place(split_of(pixels()), gpu), OnHost), "36,000 of 0.4 · 50,000 bytes"
    set_gpu_share(0.1)
    assert isinstance(place(split_of(pixels()), gpu), OnDevice)


def test_memory_that_torch_keeps_to_use_it_again_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, free = torch.device("cuda"), [50_000]
    monkeypatch.setattr(placement, "_ON_DEVICE", {})
    monkeypatch.setattr(placement, "OnDevice", lambda split, device: OnDevice(split, CPU))
    memory(monkeypatch, free)
    assert isinstance(place(split_of(pixels()), gpu), OnHost)
    memory(monkeypatch, free, kept=50_000)
    assert isinstance(place(split_of(pixels()), gpu), OnDevice)


def test_batches_do_not_depend_on_where_the_images_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset: Dataset = load_dataset(tiny_trial().dataset, data_root=None)
    spec = tiny_trial(
        training={"steps": 3, "augment": {"horizontal_flip": True, "shift_px": 2, "brightness": 0.1}}
    ).training
    here = Batches(dataset, spec, seed=4, device=CPU)
    monkeypatch.setattr("trainables.batches.place", lambda split, device, may_fill: OnDevice(split, device))
    there = Batches(replace(dataset), spec, seed=4, device=CPU)
    assert there.are_on_device
    assert not here.are_on_device
    for step in (0, 7, 90):
        for found, expected in zip(there.at(step), here.at(step), strict=True):
            assert torch.equal(found, expected)
