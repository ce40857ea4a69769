"""Classes, their number, superclasses and parts of the training samples are kept as a spec says."""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.datasets.packed import ImageArray
from trainables.datasets.selection import draw_classes, select
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import UNKNOWN, Table
from trainables.errors import DataError, SpecError

ANIMALS = ("bat", "cat", "dog", "eel", "fox", "gnu")
COARSE = {"wild": ["bat", "eel", "fox", "gnu"], "tame": ["cat", "dog"]}


def table_of(*, n: int = 10, splits: tuple[str, ...] = ("train",), multilabel: bool = False) -> Table:
    """Return `n` single images a class, in turn in these splits; with several labels also the next class."""
    labels = np.tile(np.arange(len(ANIMALS)), n)
    ids = np.array([f"image {number:03d}" for number in range(len(labels))])
    marks = np.eye(len(ANIMALS), dtype=np.uint8)
    marks += np.roll(marks, 1, axis=1)
    return Table(
        name="zoo",
        images=ImageArray(np.zeros((len(labels), 8, 8), np.uint8)),
        rows=np.arange(len(labels)),
        labels=marks[labels] if multilabel else labels,
        classes=ANIMALS,
        sample_ids=ids,
        groups=ids,
        splits=np.array(splits)[np.arange(len(labels)) // len(ANIMALS) % len(splits)],
    )


def selected(table: Table, *, data_root: Path | None = None, **fields: Any) -> Table:
    return select(table, DatasetSpec.model_validate({"reader": "any", **fields}), data_root=data_root)


def names_by_id(table: Table) -> dict[str, str]:
    return {
        str(i): table.classes[label] for i, label in zip(table.sample_ids, table.labels.tolist(), strict=True)
    }


@pytest.mark.parametrize("seed", range(5))
def test_fewer_drawn_classes_are_part_of_more(seed: int) -> None:
    drawn = [draw_classes(table_of(), n, seed=seed) for n in range(2, 7)]
    for fewer, more in pairwise(drawn):
        assert set(fewer) < set(more)
        assert list(fewer) == sorted(fewer), "in the order they have"


def test_drawn_classes_depend_on_their_names_and_the_seed_alone() -> None:
    first = set(draw_classes(table_of(), 3, seed=0))
    renumbered = selected(table_of(splits=("train", "val", "test")), classes=list(reversed(ANIMALS)))
    assert set(draw_classes(renumbered, 3, seed=0)) == first
    assert {frozenset(draw_classes(table_of(), 3, seed=seed)) for seed in range(10)} > {frozenset(first)}


def test_samples_of_the_drawn_classes_keep_their_class() -> None:
    before = names_by_id(table_of())
    table = selected(table_of(), n_classes=3)
    assert len(table.classes) == 3
    assert names_by_id(table) == {i: name for i, name in before.items() if name in table.classes}


def test_drawn_classes_are_among_those_named() -> None:
    table = selected(table_of(), classes=["fox", "bat", "eel"], n_classes=2)
    assert set(table.classes) < {"fox", "bat", "eel"}


def test_drawn_classes_of_several_labels_are_columns() -> None:
    before = table_of(multilabel=True)
    table = selected(before, n_classes=3)
    assert len(table.rows) == len(before.rows)
    order = np.argsort(table.sample_ids)
    columns = [ANIMALS.index(name) for name in table.classes]
    np.testing.assert_array_equal(table.labels[order], before.labels[:, columns])


def test_more_classes_than_there_are_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        selected(table_of(), n_classes=7)
    assert str(caught.value) == "zoo: dataset.n_classes must be at most the 6 classes there are, got 7"


def test_superclasses_are_numbered_alphabetically_and_hold_their_classes() -> None:
    table = selected(table_of(), superclasses=COARSE)
    assert table.classes == ("tame", "wild")
    expected = {name: coarse for coarse, names in COARSE.items() for name in names}
    assert names_by_id(table) == {i: expected[name] for i, name in names_by_id(table_of()).items()}


def test_superclasses_of_grades_keep_their_order() -> None:
    sizes = {"small": ["bat", "cat"], "medium": ["dog"], "large": ["eel", "fox", "gnu"]}
    table = selected(table_of(), superclasses=sizes, referable_grade=1)
    assert table.classes == ("small", "medium", "large")
    assert selected(table_of(), superclasses=sizes, referable_grade="none").classes == (
        "large",
        "medium",
        "small",
    )


def test_superclasses_of_grades_that_are_no_neighbours_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"^zoo: expected superclasses of neighbouring grades, found 'eel' in"
    ):
        selected(table_of(), superclasses=COARSE, referable_grade=1)


def test_a_label_without_negatives_is_refused() -> None:
    table = table_of(splits=("train", "val", "test"), multilabel=True)
    table.labels[table.splits == "val", 2] = np.where(table.labels[table.splits == "val", 2] == 1, 1, UNKNOWN)
    with pytest.raises(
        DataError, match=r"^zoo: label 'dog' is 0 for no sample of val, so it cannot be scored"
    ):
        selected(table)


def test_superclasses_of_drawn_classes_may_name_the_others() -> None:
    pairs = {"one": ["bat", "cat"], "two": ["dog", "eel"], "three": ["fox", "gnu"]}
    table = selected(table_of(), classes=["bat", "dog", "eel"], superclasses=pairs)
    assert table.classes == ("one", "two"), "a superclass without samples is left out"


def test_superclass_of_several_labels_is_known_where_one_is_or_all_are() -> None:
    marks = np.array(
        [[0, 0, 1], [0, 1, 0], [UNKNOWN, 1, 0], [UNKNOWN, 0, 0], [UNKNOWN, UNKNOWN, 1]] * 6, np.uint8
    )
    table = table_of(n=5, multilabel=True)
    table = Table(**{**vars(table), "labels": marks, "classes": ("a", "b", "c")})
    merged = selected(table, superclasses={"ab": ["a", "b"], "c": ["c"]})
    by_id = dict(zip(merged.sample_ids, merged.labels.tolist(), strict=True))
    assert [by_id[i] for i in table.sample_ids[:5]] == [[0, 1], [1, 0], [1, 0], [UNKNOWN, 0], [UNKNOWN, 1]]


@pytest.mark.parametrize(
    ("superclasses", "message"),
    [
        (
            {"wild": ["bat", "eel", "fox", "gnus"], "tame": ["cat", "dog"]},
            (
                "zoo: a class in dataset.superclasses must be one of 'bat', 'cat', 'dog', 'eel', 'fox', "
                "'gnu', got 'gnus'; did you mean 'gnu'?"
            ),
        ),
        (
            {"wild": ["bat", "fox"], "tame": ["cat", "dog"]},
            (
                "zoo: expected every class in one of dataset.superclasses, found none for 2 of 6, "
                "first 'eel'; add it, or leave it out with dataset.classes"
            ),
        ),
        (
            {"all": list(ANIMALS)},
            (
                "zoo: expected at least two superclasses of the 6 classes, found only 'all'; "
                "mend dataset.superclasses"
            ),
        ),
    ],
)
def test_superclasses_that_do_not_fit_the_classes_are_refused(
    superclasses: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        selected(table_of(), superclasses=superclasses)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("superclasses", "message"),
    [
        (
            {"tame": "cat"},
            "dataset.superclasses.tame must be a list of class names, got 'cat'; put numbers in quotes",
        ),
        (
            {"tame": [1]},
            "dataset.superclasses.tame must be a list of class names, got [1]; put numbers in quotes",
        ),
        (
            {"tame": ["cat"], "wild": ["cat"]},
            (
                "dataset.superclasses: expected 'cat' in one superclass, found it in 'tame' and in 'wild'; "
                "remove one"
            ),
        ),
    ],
)
def test_superclasses_that_are_no_lists_of_classes_are_refused(
    superclasses: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        selected(table_of(), superclasses=superclasses)
    assert str(caught.value) == message


def write_superclasses(root: Path, content: str) -> dict[str, str]:
    (root / "coarse.csv").write_text(content, encoding="utf-8")
    return {"superclasses": "coarse.csv", "superclasses_sha256": hashlib.sha256(content.encode()).hexdigest()}


ROWS = "".join(f"{name},{coarse}\n" for coarse, names in COARSE.items() for name in names)


@pytest.mark.parametrize("head", ["class,superclass\n", "\ufeffclass, superclass\n\n"])
def test_superclasses_of_a_file_are_those_of_a_mapping(head: str, tmp_path: Path) -> None:
    fields = write_superclasses(tmp_path, head + ROWS)
    from_file = selected(table_of(), data_root=tmp_path, **fields)
    from_mapping = selected(table_of(), superclasses=COARSE)
    assert from_file.classes == from_mapping.classes
    assert names_by_id(from_file) == names_by_id(from_mapping)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "coarse.csv: expected the columns class,superclass, found none; mend the file"),
        ("a,b\n", "coarse.csv: expected the columns class,superclass, found a,b; mend the file"),
        (
            "class,superclass\nbat\n",
            "coarse.csv: line 2: expected a class and its superclass, found 'bat'; mend it",
        ),
        (
            "class,superclass\nbat,x\nbat,y\n",
            "coarse.csv: line 3: expected 'bat' in one superclass, found it in 'x' and in 'y'; remove one",
        ),
    ],
)
def test_file_that_is_no_table_of_superclasses_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        selected(table_of(), data_root=tmp_path, **write_superclasses(tmp_path, content))
    assert str(caught.value) == message


def test_file_of_superclasses_that_has_changed_is_refused(tmp_path: Path) -> None:
    fields = write_superclasses(tmp_path, "class,superclass\n" + ROWS)
    write_superclasses(tmp_path, "class,superclass\n" + ROWS.replace("tame", "pet"))
    with pytest.raises(DataError, match=r"coarse.csv: expected the file with SHA-256 \w+, found \w+; it has"):
        selected(table_of(), data_root=tmp_path, **fields)


def test_missing_file_of_superclasses_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.superclasses no.csv: cannot be read in .*No such file"):
        selected(table_of(), data_root=tmp_path, superclasses="no.csv")
    with pytest.raises(DataError, match=r"dataset.superclasses no.csv: set TRANSFUSION_DATA to the folder"):
        selected(table_of(), superclasses="no.csv")


@pytest.mark.parametrize("n", [1, 3, 5, 100])
def test_training_samples_of_a_class_are_at_most_so_many_and_the_rest_is_untouched(n: int) -> None:
    table = table_of(n=15, splits=("train", "val", "test"))
    few = selected(table, train_per_class=n)
    in_train = few.take(few.splits == "train")
    assert np.bincount(in_train.labels).tolist() == [min(n, 5)] * len(ANIMALS)
    for split in ("val", "test"):
        kept, all_of_it = (set(t.sample_ids[t.splits == split]) for t in (few, table))
        assert kept == all_of_it


def test_group_in_two_splits_of_the_format_is_refused_and_named() -> None:
    table = table_of(splits=("train", "val", "test"))
    groups = table.groups.astype("<U9")
    groups[[0, 7]] = "patient 5"
    with pytest.raises(DataError) as caught:
        selected(Table(**{**vars(table), "groups": groups}))
    assert str(caught.value) == (
        "zoo: expected every group (patient or lesion) in one split, found 1 in several; 'patient 5' is in "
        "train and val; mend the splits of the data"
    )
