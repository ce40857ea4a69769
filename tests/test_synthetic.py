"""Procedural images show their grade and nothing else shows it, and do not depend on how many there are."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.datasets.decoding import decode, fit
from trainables.datasets.options import SyntheticOptions
from trainables.datasets.packed import pack
from trainables.datasets.splits import draw_splits
from trainables.datasets.synthetic import (
    RENDERERS,
    Kind,
    read_synthetic_chest,
    read_synthetic_fundus,
    render,
    write_synthetic,
)
from trainables.datasets.synthetic_images import SIDE_PX, View
from trainables.datasets.table import Table

READ = {"fundus": read_synthetic_fundus, "chest": read_synthetic_chest}
both_kinds = pytest.mark.parametrize("kind", RENDERERS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))


def table_of(kind: Kind, **options: object) -> Table:
    return READ[kind](None, SyntheticOptions.model_validate(options))


def view(*, severity: float, contrast: float, patient: int = 3) -> View:
    return View(np.random.default_rng(patient), np.random.default_rng(7), severity, contrast)


def small(kind: Kind, options: SyntheticOptions, number: int) -> np.ndarray:
    """Return a grey image of 32 px: of a fundus its green channel."""
    pixels = render(kind, options, number)
    image = Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 1]))
    return fit(image, size_px=32, channels=1)[0].astype(float)


def unevenness(kind: Kind, image: np.ndarray) -> float:
    """Return how much an image differs from itself nearby, where signs of disease can be."""
    if kind == "fundus":
        # Vessels and disc are rare and strong: the median leaves them out.
        around = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
        rough = np.abs(4 * image[1:-1, 1:-1] - around)
        return float(np.quantile(rough[5:-5, 5:-5] / image[6:-6, 6:-6], 0.8))
    lungs = np.concatenate([image[8:24, 7:11], image[8:24, 21:25]], axis=1)
    return float(np.quantile(lungs, 0.9) / np.median(image))


def separation(kind: Kind, *, contrast: float) -> float:
    """Return the probability that the worst grade is more uneven than health (the area under the ROC)."""
    options = SyntheticOptions(n_classes=2, images_per_patient=1, contrast=contrast)
    values = {0: [], 1: []}
    labels = READ[kind](None, options).labels
    for number in range(75):
        values[int(labels[number])].append(unevenness(kind, small(kind, options, number)))
    healthy, ill = np.array(values[0]), np.array(values[1])
    return float((ill[:, None] > healthy).mean())


@both_kinds
def test_simple_statistic_tells_ill_from_healthy_at_full_contrast(kind: Kind) -> None:
    assert separation(kind, contrast=1.0) > 0.85


@both_kinds
def test_nothing_tells_ill_from_healthy_without_contrast(kind: Kind) -> None:
    assert 0.3 < separation(kind, contrast=0.0) < 0.7


@both_kinds
def test_grade_leaves_no_trace_without_contrast(kind: Kind) -> None:
    draw = RENDERERS[kind]
    healthy, ill = (draw(view(severity=s, contrast=0.0)) for s in (0.0, 1.0))
    np.testing.assert_array_equal(healthy, ill)


@both_kinds
def test_signs_grow_with_the_grade(kind: Kind) -> None:
    draw = RENDERERS[kind]
    changed = []
    for severity in (0.0, 0.25, 1.0):
        differences = [
            np.abs(
                draw(view(severity=severity, contrast=1.0, patient=patient)).astype(int)
                - draw(view(severity=0.0, contrast=1.0, patient=patient))
            ).mean()
            for patient in range(5)
        ]
        changed.append(np.mean(differences))
    assert changed[0] == 0
    assert changed[2] > 2 * changed[1] > 0


@both_kinds
def test_images_of_one_patient_look_alike(kind: Kind) -> None:
    options = SyntheticOptions(images_per_patient=2)
    images = [small(kind, options, number) for number in range(40)]
    images = [image / image.mean() for image in images]  # the exposure is that of the visit
    same = [np.abs(images[n] - images[n + 1]).mean() for n in range(0, 38, 2)]
    other = [np.abs(images[n + 1] - images[n + 2]).mean() for n in range(0, 38, 2)]
    assert 0 < np.mean(same) < 0.8 * np.mean(other)


@both_kinds
def test_smaller_dataset_is_the_beginning_of_a_larger_one(kind: Kind) -> None:
    few, many = table_of(kind, n_images=12), table_of(kind, n_images=30)
    for column in ("sample_ids", "groups", "labels"):
        np.testing.assert_array_equal(getattr(few, column), getattr(many, column)[:12])
    for number in (0, 11):
        options = [SyntheticOptions(n_images=n) for n in (12, 30)]
        np.testing.assert_array_equal(*(render(kind, each, number) for each in options))


@both_kinds
def test_packed_images_are_the_rendered_ones(kind: Kind) -> None:
    table = table_of(kind, n_images=10)
    channels = 3 if kind == "fundus" else 1
    packed = pack(table.images, name=table.name, size_px=SIDE_PX, channels=channels)
    expected = render(kind, SyntheticOptions(n_images=10), 4)
    np.testing.assert_array_equal(packed[4], expected.transpose(2, 0, 1) if channels == 3 else expected[None])


@pytest.mark.parametrize(
    "change",
    [{"n_images": 12}, {"images_per_patient": 3}, {"seed": 1}, {"contrast": 0.5}, {"n_classes": 2}],
    ids=str,
)
def test_every_option_has_a_cache_of_its_own(change: dict[str, object]) -> None:
    assert table_of("fundus", **change).images.fingerprint != table_of("fundus").images.fingerprint


def test_both_kinds_have_caches_of_their_own() -> None:
    assert table_of("fundus").images.fingerprint != table_of("chest").images.fingerprint


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("n_images", [64, 500])
def test_every_grade_is_in_every_split_and_most_are_healthy(n_classes: int, n_images: int) -> None:
    table = table_of("chest", n_images=n_images, n_classes=n_classes)
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    splits = draw_splits(table.membership(), table.groups, shares=shares, seed=0)
    for split in shares:
        assert set(table.labels[splits == split]) == set(range(n_classes))
    counts = np.bincount(table.labels)
    assert 0.5 < counts[0] / n_images < 0.75
    assert counts[1:].max() - counts[1:].min() <= 2 * 2  # one more patient, of two images


@pytest.mark.parametrize("images_per_patient", [1, 2, 3])
def test_patients_have_one_grade_and_so_many_images(images_per_patient: int) -> None:
    table = table_of("fundus", n_images=30, images_per_patient=images_per_patient)
    for group in np.unique(table.groups):
        of_patient = table.take(table.groups == group)
        assert len(of_patient.labels) == images_per_patient
        assert len(set(of_patient.labels)) == 1


@both_kinds
def test_written_files_are_the_images_and_their_table(kind: Kind, tmp_path: Path) -> None:
    options = SyntheticOptions(n_images=12, n_classes=3)
    write_synthetic(tmp_path / "eyes", kind, options)
    table = READ[kind](None, options)
    with (tmp_path / "eyes" / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["grade"]) for row in rows] == table.labels.tolist()
    assert [f"patient {row['patient']}" for row in rows] == table.groups.tolist()
    image = decode((tmp_path / "eyes" / rows[7]["image"]).read_bytes())
    difference = np.abs(np.asarray(image).astype(int) - render(kind, options, 7))
    assert difference.mean() < 4  # JPEG
    assert len(list((tmp_path / "eyes" / "images").iterdir())) == 12
