"""One contract for every format, the way from a spec to a dataset, and the catalog."""

import math
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.image_trees import image_tree, medmnist_arrays, picture, png, write_archive, write_tree
from tests.miniatures.folders import write_cifar10_batches, write_kermany, write_python2_pickle
from trainables.datasets.catalog import DATASETS, find_dataset, normalize_dataset
from trainables.datasets.image_rows import ImageRows
from trainables.datasets.loading import Dataset, Split, load_dataset
from trainables.datasets.readers import DIGITS, READERS
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import SPLITS
from trainables.errors import DataError, SpecError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def spec_of(**fields: Any) -> DatasetSpec:
    return DatasetSpec.model_validate(fields)


def load(root: Path | None = None, **fields: Any) -> Dataset:
    return load_dataset(spec_of(**fields), data_root=root)


def splits_of(dataset: Dataset) -> dict[str, Split]:
    return {name: getattr(dataset, name) for name in SPLITS}


def class_counts(dataset: Dataset) -> dict[str, list[int]]:
    return {name: np.bincount(split.labels).tolist() for name, split in splits_of(dataset).items()}


def assert_equal(first: Dataset, second: Dataset) -> None:
    for name in SPLITS:
        for column in ("images", "labels", "sample_ids", "groups"):
            np.testing.assert_array_equal(
                getattr(getattr(first, name), column), getattr(getattr(second, name), column)
            )
    facts = ("classes", "task", "digest", "mean", "sd")
    assert [getattr(first, fact) for fact in facts] == [getattr(second, fact) for fact in facts]


@dataclass(frozen=True)
class Format:
    """A tiny dataset on disk.

    Attributes:
        fields: of its DatasetSpec.
        write: writes it below a folder; with `change`, with one pixel or one label changed.
        n: samples, by split.
    """

    fields: Mapping[str, Any]
    write: Callable[[Path, str | None], None]
    n: Mapping[str, int]


def _write_medmnist(root: Path, change: str | None, **layout: Any) -> None:
    arrays = medmnist_arrays(**layout)
    if change == "pixel":
        arrays["train_images"].flat[3] ^= 1
    elif change == "label":
        arrays["train_labels"].flat[3] ^= 1
    np.savez_compressed(root / "mine.npz", **arrays)


def _image_files(change: str | None, splits: Mapping[str, int] | None) -> dict[str, bytes]:
    files = image_tree(splits)
    first = next(iter(files))
    if change == "pixel":
        pixels = picture(0)
        pixels[2, 3] ^= 1
        files[first] = png(pixels)
    elif change == "label":
        files[first.replace("/ill/", "/well/").replace("0.png", "zero.png")] = files.pop(first)
    return files


def _write_folder(root: Path, change: str | None) -> None:
    write_tree(root / "scans", _image_files(change, {"train": 6, "val": 3, "test": 3}))


def _write_archive(root: Path, change: str | None) -> None:
    write_archive(root / "scans.tar.xz", _image_files(change, {"train": 6, "val": 3, "test": 3}))


def _write_without_test(root: Path, change: str | None) -> None:
    write_tree(root / "scans", _image_files(change, {"train": 20, "val": 3}))


def _write_cifar(root: Path, change: str | None) -> None:
    write_cifar10_batches(root)
    if change is not None:
        path = root / "cifar-10-batches-py" / "data_batch_1"
        content = pickle.loads(path.read_bytes(), encoding="bytes")
        if change == "pixel":
            content[b"data"] = content[b"data"] ^ (np.arange(3072) == 5).astype(np.uint8)
        else:
            content[b"labels"][3] ^= 1
        write_python2_pickle(path, content)


NPZ = {"reader": "medmnist", "path": "mine.npz", "size_px": 10}
FOLDER = {"reader": "image_folder", "path": "scans", "size_px": 10}
FIXED = {"train": 12, "val": 6, "test": 6}
SYNTHETIC = {"size_px": 16, "options": {"n_images": 90, "n_classes": 2, "images_per_patient": 1}}
FORMATS = {
    "digits": Format(
        {"reader": "digits", "size_px": 8},
        lambda _root, _change: None,
        {"train": 1259, "val": 270, "test": 268},
    ),
    "npz": Format(NPZ, _write_medmnist, FIXED),
    "npz of colour images": Format(
        NPZ | {"channels": 3}, lambda root, change: _write_medmnist(root, change, channels=3), FIXED
    ),
    "npz of several labels": Format(
        NPZ, lambda root, change: _write_medmnist(root, change, n_labels=3), FIXED
    ),
    "npz without val and test": Format(
        NPZ,
        lambda root, change: _write_medmnist(root, change, splits={"train": 40}),
        {"train": 28, "val": 6, "test": 6},
    ),
    "folder": Format(FOLDER, _write_folder, FIXED),
    "archive": Format(FOLDER, _write_archive, FIXED),
    "folder without test": Format(FOLDER, _write_without_test, {"train": 34, "val": 6, "test": 6}),
    "cifar": Format(
        {"reader": "cifar", "path": "cifar-10-batches-py", "size_px": 16, "partial": True},
        _write_cifar,
        {"train": 90, "val": 10, "test": 20},
    ),
    "synthetic films": Format(
        {"reader": "synthetic_chest", **SYNTHETIC},
        lambda _root, _change: None,
        {"train": 63, "val": 14, "test": 13},
    ),
}
IN_MEMORY = ("digits", "synthetic films")
ON_DISK = [name for name in FORMATS if name not in IN_MEMORY]


@pytest.mark.parametrize("name", FORMATS)
class TestEveryFormat:
    def load(self, name: str, root: Path, *, change: str | None = None, **fields: Any) -> Dataset:
        root.mkdir(exist_ok=True)
        FORMATS[name].write(root, change)
        return load(root, **{**FORMATS[name].fields, **fields})

    def test_has_its_samples_in_the_promised_shape(self, name: str, tmp_path: Path) -> None:
        dataset = self.load(name, tmp_path / "a")
        spec = spec_of(**FORMATS[name].fields)
        assert {key: len(split.labels) for key, split in splits_of(dataset).items()} == FORMATS[name].n
        for split in splits_of(dataset).values():
            n = len(split.labels)
            assert split.images.shape == (n, spec.channels, spec.size_px, spec.size_px)
            assert split.images[:1].dtype == np.uint8
            assert isinstance(split.images, ImageRows) or not split.images.flags.writeable
            assert split.sample_ids.shape == split.groups.shape == (n,)
            if dataset.task == "multiclass":
                assert (split.labels.dtype, split.labels.shape) == (np.int64, (n,))
                assert set(split.labels) == set(range(dataset.n_outputs))
            else:
                assert (split.labels.dtype, split.labels.shape) == (np.uint8, (n, dataset.n_outputs))
        assert len(dataset.mean) == len(dataset.sd) == spec.channels

    def test_ids_are_unique_and_no_group_crosses_splits(self, name: str, tmp_path: Path) -> None:
        splits = splits_of(self.load(name, tmp_path / "a")).values()
        ids = np.concatenate([split.sample_ids for split in splits])
        assert len(set(ids)) == len(ids)
        groups = [set(split.groups) for split in splits]
        assert sum(map(len, groups)) == len(set.union(*groups))

    def test_loads_twice_the_same(self, name: str, tmp_path: Path) -> None:
        # The second time from the cache, where there is one.
        assert_equal(self.load(name, tmp_path / "a"), load(tmp_path / "a", **FORMATS[name].fields))

    def test_loads_the_same_from_a_copy(self, name: str, tmp_path: Path) -> None:
        assert_equal(self.load(name, tmp_path / "a"), self.load(name, tmp_path / "b"))

    @pytest.mark.parametrize(("size_px", "channels"), [(13, 1), (8, 3), (20, 3)])
    def test_size_and_channels_are_those_of_the_spec(
        self, name: str, size_px: int, channels: int, tmp_path: Path
    ) -> None:
        dataset = self.load(name, tmp_path / "a", size_px=size_px, channels=channels)
        for split in splits_of(dataset).values():
            assert split.images.shape[1:] == (channels, size_px, size_px)

    def test_smaller_fraction_is_part_of_a_larger_and_leaves_val_and_test(
        self, name: str, tmp_path: Path
    ) -> None:
        all_of_it = self.load(name, tmp_path / "a")
        half, third = (load(tmp_path / "a", **FORMATS[name].fields, train_fraction=f) for f in (0.5, 0.3))
        assert set(third.train.sample_ids) < set(half.train.sample_ids) < set(all_of_it.train.sample_ids)
        for dataset in (half, third):
            np.testing.assert_array_equal(dataset.test.sample_ids, all_of_it.test.sample_ids)
            np.testing.assert_array_equal(dataset.val.images, all_of_it.val.images)
        assert len({all_of_it.digest, half.digest, third.digest}) == 3

    def test_two_classes_keep_their_images(self, name: str, tmp_path: Path) -> None:
        all_of_it = self.load(name, tmp_path / "a")
        wanted = all_of_it.classes[1::-1]
        two = load(tmp_path / "a", **FORMATS[name].fields, classes=wanted)
        assert two.classes == wanted
        assert two.n_outputs == 2
        before = {
            i: (x.tobytes(), y)
            for s in splits_of(all_of_it).values()
            for i, x, y in zip(s.sample_ids, s.images, s.labels, strict=True)
        }
        for split in splits_of(two).values():
            for sample, image, label in zip(split.sample_ids, split.images, split.labels, strict=True):
                pixels, old = before[sample]
                assert image.tobytes() == pixels
                np.testing.assert_array_equal(label, 1 - old if np.ndim(old) == 0 else old[1::-1])

    @pytest.mark.parametrize("change", ["pixel", "label"])
    def test_digest_changes_with_the_content(self, name: str, change: str, tmp_path: Path) -> None:
        if name in IN_MEMORY:
            pytest.skip("nothing of it is on the disk")
        changed = self.load(name, tmp_path / "b", change=change)
        assert self.load(name, tmp_path / "a").digest != changed.digest

    def test_misspelt_class_is_refused_with_the_known_ones(self, name: str, tmp_path: Path) -> None:
        known = self.load(name, tmp_path / "a").classes
        listed = ", ".join(repr(each) for each in known)
        with pytest.raises(
            (DataError, SpecError), match=rf"dataset.classes must be one of {listed}, got 'sick'"
        ):
            load(tmp_path / "a", **FORMATS[name].fields, classes=["sick", known[0]])


@pytest.mark.parametrize("name", [name for name in ON_DISK if name != "npz without val and test"])
def test_no_data_root_names_the_variable(name: str) -> None:
    path = FORMATS[name].fields["path"]
    with pytest.raises(DataError, match=f"^{path}: set TRANSFUSION_DATA to the folder that holds it"):
        load(None, **FORMATS[name].fields)


def test_mean_and_sd_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    _write_medmnist(tmp_path, None, channels=3)
    dataset = load(tmp_path, **NPZ, channels=3)
    scaled = dataset.train.images / 255
    np.testing.assert_allclose(dataset.mean, scaled.mean((0, 2, 3)))
    np.testing.assert_allclose(dataset.sd, scaled.std((0, 2, 3)))


@pytest.mark.parametrize(
    ("normalize", "channels", "mean", "sd"),
    [
        ("unit", 1, (0.5,), (0.5,)),
        ("imagenet", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("imagenet", 1, (0.449,), (0.226,)),
    ],
)
def test_named_normalisations(
    normalize: str, channels: int, mean: tuple[float, ...], sd: tuple[float, ...]
) -> None:
    dataset = load(reader="digits", channels=channels, normalize=normalize)
    assert dataset.mean == pytest.approx(mean)
    assert dataset.sd == pytest.approx(sd)


def test_equal_pixels_have_no_sd(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    arrays["train_images"][:] = 7
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=r"mine.npz: all training pixels are equal, so there is no sd; mend"):
        load(tmp_path, **NPZ)
    assert load(tmp_path, **NPZ, normalize="unit").sd == (0.5,)


def test_digits_span_the_grey_levels_and_are_evenly_split() -> None:
    dataset = load(reader="digits", size_px=8)
    pixels = np.asarray(dataset.train.images)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert dataset.classes == DIGITS
    counts = np.array(list(class_counts(dataset).values()))
    np.testing.assert_allclose(counts / counts.sum(0), [[0.7] * 10, [0.15] * 10, [0.15] * 10], atol=0.01)


def test_fractions_are_shares_of_what_is_divided(tmp_path: Path) -> None:
    _write_medmnist(tmp_path, None, splits={"train": 40, "test": 6})
    dataset = load(tmp_path, **NPZ, validation_fraction=0.25, test_fraction=0.5)
    assert class_counts(dataset) == {"train": [15, 15], "val": [5, 5], "test": [3, 3]}


def test_split_seed_draws_other_splits() -> None:
    first, second = (load(reader="digits", split_seed=seed) for seed in (0, 1))
    assert set(first.test.sample_ids) != set(second.test.sample_ids)


@pytest.mark.parametrize("field", ["validation_fraction", "test_fraction"])
def test_split_that_nothing_is_left_for_is_refused(field: str) -> None:
    split = "val" if field == "validation_fraction" else "test"
    message = f"digits: dataset.{field} must be above 0: the data have no {split} split"
    with pytest.raises(DataError, match=message):
        load(reader="digits", **{field: 0.0})


def test_class_with_too_few_images_for_three_splits_is_refused(tmp_path: Path) -> None:
    files = image_tree(None) | {f"rare/{number}.png": png(picture(number)) for number in range(2)}
    write_tree(tmp_path / "scans", files)
    with pytest.raises(DataError) as caught:
        load(tmp_path, **FOLDER)
    assert str(caught.value) == (
        "scans: class 'rare' has no samples in test; its 2 groups (patients, lesions or single images) do "
        "not cover train, val, test; leave the class out (dataset.classes) or add images"
    )
    assert load(tmp_path, **FOLDER, classes=["ill", "well"]).n_outputs == 2


def test_class_number_without_images_is_refused(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    for key in ("train_labels", "val_labels", "test_labels"):
        arrays[key] += 1  # numbered from 1
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match="class '0' has no samples in train; its 0 groups"):
        load(tmp_path, **NPZ)


def test_split_without_any_of_the_chosen_classes_is_refused_and_not_drawn(tmp_path: Path) -> None:
    arrays = medmnist_arrays(splits={"train": 40, "val": 6, "test": 6})
    arrays["train_labels"][:20] += 2
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match="class '2' has no samples in val"):
        load(tmp_path, **NPZ, classes=["2", "3"])


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", {**image_tree(None), "ill/3.png": b"oops"})
    with pytest.raises(DataError, match=r"scans: 1 of 20 images cannot be read: ill/3.png \("):
        load(tmp_path, **FOLDER)


BROKEN = {"ill/3.png": b"oops", "well/5.png": b""}


def test_unreadable_images_are_left_out_and_named_where_the_spec_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", {**image_tree(None), **BROKEN})
    whole = {**FOLDER, "broken_files": "skip"}
    first, from_cache = load(tmp_path, **whole), load(tmp_path, **whole)
    assert_equal(first, from_cache)
    assert first.skipped == from_cache.skipped == ("ill/3.png", "well/5.png")
    ids = {str(i) for split in splits_of(first).values() for i in split.sample_ids}
    assert ids == set(image_tree(None)) - set(BROKEN)


def test_dataset_without_broken_files_is_the_same_whatever_is_said_of_them(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(None))
    refusing, skipping = (load(tmp_path, **FOLDER, broken_files=what) for what in ("refuse", "skip"))
    assert_equal(refusing, skipping)
    assert skipping.skipped == ()


def test_split_that_is_left_without_a_class_by_broken_files_is_refused(tmp_path: Path) -> None:
    files = image_tree({"train": 3, "val": 2, "test": 1})
    write_tree(tmp_path / "scans", {**files, "test/ill/0.png": b"oops"})
    with pytest.raises(DataError, match="class 'ill' has no samples in test"):
        load(tmp_path, **FOLDER, broken_files="skip")


def test_incomplete_copy_is_refused_unless_a_part_is_meant(tmp_path: Path) -> None:
    write_kermany(tmp_path, n_persons=8)
    fields = {"reader": "kermany", "path": "chest_xray", "size_px": 16}
    message = r"^chest_xray: expected 5216 images in train, found \d+; the copy is incomplete: fetch it again"
    with pytest.raises(DataError, match=message):
        load(tmp_path, **fields)
    assert load(tmp_path, **fields, partial=True).classes == ("NORMAL", "PNEUMONIA")


def test_labels_are_grades_where_one_of_them_counts() -> None:
    grades = load(reader="digits", size_px=8, referable_grade=4)
    assert (grades.task, grades.referable_grade) == ("ordinal", 4)
    assert grades.train.labels.dtype == np.int64
    plain = load(reader="digits", size_px=8)
    assert (plain.task, plain.referable_grade) == ("multiclass", None)


def test_grade_that_the_labels_do_not_have_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        load(reader="digits", size_px=8, classes=["3", "5"], referable_grade=2)
    assert str(caught.value) == (
        "dataset.referable_grade must be below the number of classes of digits (2), got 2; "
        "count from 0 in the classes that are kept"
    )


def test_grade_of_several_labels_is_refused(tmp_path: Path) -> None:
    _write_medmnist(tmp_path, None, n_labels=3)
    with pytest.raises(SpecError) as caught:
        load(tmp_path, **NPZ, referable_grade=1)
    assert str(caught.value) == (
        "dataset.referable_grade must be left out: mine.npz has several labels an image and no grades, got 1"
    )


def test_mistake_in_the_selection_comes_out_before_anything_is_decoded(tmp_path: Path, cache: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(None))
    with pytest.raises(DataError, match=r"dataset.classes must be one of 'ill', 'well', got 'sick'"):
        load(tmp_path, **FOLDER, classes=["sick", "ill"])
    assert not cache.exists()


def test_file_changed_in_place_is_seen(tmp_path: Path) -> None:
    files = image_tree(None)
    write_tree(tmp_path / "scans", files)
    before = load(tmp_path, **FOLDER)
    write_tree(tmp_path / "scans", {"ill/3.png": png(picture(77))})
    assert load(tmp_path, **FOLDER).digest != before.digest


@pytest.mark.parametrize("name", DATASETS)
def test_every_named_dataset_is_a_valid_spec(name: str) -> None:
    spec = spec_of(**find_dataset(name))
    normal = normalize_dataset(spec)
    assert normalize_dataset(normal) == normal
    left_out = {"options", "referable_grade"}  # which the reader fills in
    assert normal.model_dump(exclude=left_out) == spec.model_dump(exclude=left_out)


@pytest.mark.parametrize(("name", "classes"), [("digits_0_4", DIGITS[:5]), ("digits_5_9", DIGITS[5:])])
def test_halves_of_the_digits_have_their_classes(name: str, classes: tuple[str, ...]) -> None:
    assert load(**find_dataset(name)).classes == classes


def test_found_dataset_can_be_changed_without_changing_the_table() -> None:
    find_dataset("digits")["size_px"] = 99
    assert find_dataset("digits")["size_px"] != 99


def test_unknown_dataset_is_named_with_a_suggestion() -> None:
    with pytest.raises(
        SpecError, match=r"dataset must be one of 'aptos2019', .*, got 'cifer10'; did you mean 'cifar10'\?"
    ):
        find_dataset("cifer10")


def test_unknown_reader_is_named_with_a_suggestion() -> None:
    with pytest.raises(
        SpecError,
        match=r"dataset.reader must be one of 'aptos', .*, 'synthetic_fundus', got 'medmist'; "
        r"did you mean 'medmnist'\?",
    ):
        normalize_dataset(spec_of(reader="medmist"))


@pytest.mark.parametrize("reader", [name for name, reader in READERS.items() if reader.needs_path])
def test_missing_path_is_refused(reader: str) -> None:
    message = (
        "dataset.path must name a file or folder below the data root (TRANSFUSION_DATA): "
        f"the reader '{reader}' reads from disk"
    )
    with pytest.raises(SpecError, match=re.escape(message)):
        normalize_dataset(spec_of(reader=reader))


@pytest.mark.parametrize("call", [normalize_dataset, lambda spec: load_dataset(spec, data_root=None)])
def test_path_of_a_reader_that_reads_no_file_is_refused(call: Callable[[DatasetSpec], object]) -> None:
    message = "dataset.path must be left out: the reader 'digits' reads no file, got 'digits.npz'"
    with pytest.raises(SpecError, match=message):
        call(spec_of(reader="digits", path="digits.npz"))


PNEUMONIA = {"reader": "medmnist", "path": "pneumoniamnist.npz"}


@pytest.mark.parametrize(
    "idle",
    [
        {"validation_fraction": 0.3},
        {"test_fraction": 0.0},
        {"split_seed": 4},
        {"classes": ["normal", "pneumonia"]},
    ],
)
def test_what_cannot_change_the_data_is_no_part_of_the_spec(idle: dict[str, Any]) -> None:
    assert normalize_dataset(spec_of(**PNEUMONIA, **idle)) == spec_of(**PNEUMONIA)


@pytest.mark.parametrize(
    "fields",
    [
        {**PNEUMONIA, "train_fraction": 0.5, "split_seed": 4},
        {**PNEUMONIA, "classes": ["pneumonia", "normal"]},
        {"reader": "medmnist", "path": "mine.npz", "validation_fraction": 0.3, "split_seed": 1},
        {"reader": "digits", "test_fraction": 0.3, "split_seed": 1},
        {"reader": "image_folder", "path": "scans", "split_seed": 1},
    ],
)
def test_what_changes_the_data_stays_in_the_spec(fields: dict[str, Any]) -> None:
    assert normalize_dataset(spec_of(**fields)) == spec_of(**fields)


def test_unknown_class_of_a_known_dataset_is_refused_before_anything_is_read() -> None:
    with pytest.raises(
        SpecError, match=r"dataset.classes must be one of 'normal', 'pneumonia', got 'healthy'"
    ):
        normalize_dataset(spec_of(**PNEUMONIA, classes=["healthy", "pneumonia"]))


def test_catalog_imports_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, trainables.datasets.catalog; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def real(path: str) -> Path:
    root = Path(os.environ.get("TRANSFUSION_DATA", "/nowhere"))
    if not (root / path).is_file():
        pytest.skip(f"needs {path} below TRANSFUSION_DATA")
    return root


def test_real_chest_x_rays_load() -> None:
    dataset = load(real("pneumoniamnist.npz"), **find_dataset("pneumoniamnist"), partial=True)
    assert dataset.classes == ("normal", "pneumonia")
    assert len(dataset.test.labels) == 624
    assert class_counts(dataset)["test"] == [234, 390]
    assert 0.4 < dataset.mean[0] < 0.7
    assert all(math.isfinite(sd) and sd > 0 for sd in dataset.sd)


def test_real_photographs_load_in_seconds_and_again_at_once() -> None:
    root = real("cifar10.tar.xz")
    seconds = []
    loaded = []
    for _ in range(2):
        began = time.perf_counter()
        loaded.append(load(root, **find_dataset("cifar10")))
        seconds.append(time.perf_counter() - began)
    assert_equal(*loaded)
    assert class_counts(loaded[0]) == {"train": [1275] * 10, "val": [225] * 10, "test": [300] * 10}
    assert seconds[0] < 15
    assert seconds[1] < 1
