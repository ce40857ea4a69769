"""What a dataset is, as data. Below `trainables.spec`, so that the readers need not know of trials."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from trainables.datasets.paths import check_name
from trainables.fields import (
    Channels,
    Fraction,
    FrozenMapping,
    ListAsTuple,
    Pairs,
    Sha256,
    SpecModel,
)

# Of files and archives; a folder may have a dot in its name.
_SUFFIX = re.compile(r"\.(npz|csv|tsv|zip|tar|tar\.\w+|tgz)$")


def below_data_root(value: str) -> str:
    """Return a relative path in its shortest form.

    Raises:
        ValueError: the path is absolute, leaves the data root or is empty, or no file can have it.
    """
    check_name(value)
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(
            f"must be relative to the data root (TRANSFUSION_DATA) and stay below it, got {value!r}"
        )
    return str(path)


# What is learned: one class of several, any of several labels, or a grade.
Task: TypeAlias = Literal["multiclass", "multilabel", "ordinal"]
DataPath = Annotated[str, AfterValidator(below_data_root)]


class DatasetSpec(SpecModel):
    """The images, the labels and the splits of a task.

    Attributes:
        reader: the on-disk format, an entry of `trainables.datasets.catalog.READERS`.
        path: file or folder below the data root (`TRANSFUSION_DATA`); None where the reader needs none.
        options: of the reader, as its entry in the catalog describes them.
        partial: the copy on disk is a part of what was published; otherwise its counts must be those.
        broken_files: `refuse` the dataset, or `skip` such images and say which.
        size_px: side to which images are resized (bilinear, antialiased); square.
        channels: 1 (grey, ITU-R 601) or 3 (RGB; grey is repeated).
        classes: keep these classes, numbered in this order; None keeps all.
        n_classes: keep so many of the classes, drawn by `split_seed`; fewer are part of more.
        superclasses: coarser labels: a mapping of each superclass to its classes, or a file below the data
            root with the columns `class,superclass`; `superclasses_sha256` is filled in when the spec is
            resolved.
        train_fraction: share of the training samples kept, stratified by class, whole groups.
        train_per_class: keep at most so many training samples of each class, whole groups.
        validation_fraction, test_fraction: used where the format has no such split of its own.
        split_seed: of the drawn splits, classes and samples; not the trial's seed, so that the seeds of a
            cell see the same images.
        normalize: `train` (mean and sd of the training split), `imagenet`, `unit` (-1 … 1), or `published`:
            what the published weights of the network expect, which is written here when the spec is resolved.
        referable_grade: the labels are grades, and a grade of at least this counts as positive in auroc
            and auprc; the number of a class that is kept. None is what the reader says, `none` that the
            classes are no grades.
    """

    reader: str
    path: DataPath | None = None
    options: FrozenMapping = Pairs()
    partial: bool = False
    broken_files: Literal["refuse", "skip"] = "refuse"
    size_px: Annotated[int, Field(ge=8, le=4096)] = 28
    channels: Channels = 1
    classes: Annotated[tuple[str, ...] | None, ListAsTuple] = None
    n_classes: Annotated[int, Field(ge=2)] | None = None
    superclasses: DataPath | FrozenMapping | None = None
    superclasses_sha256: Sha256 | None = None
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    train_per_class: Annotated[int, Field(ge=1)] | None = None
    validation_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.15
    split_seed: Annotated[int, Field(ge=0)] = 0
    normalize: Literal["train", "imagenet", "unit", "published"] = "train"
    referable_grade: Annotated[int, Field(ge=1)] | Literal["none"] | None = None

    @model_validator(mode="after")
    def _check(self) -> "DatasetSpec":
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes must name at least two different classes")
        if self.n_classes is not None and self.classes is not None and self.n_classes > len(self.classes):
            raise ValueError(f"n_classes must be at most the {len(self.classes)} of classes")
        if self.train_per_class is not None and self.train_fraction < 1:
            raise ValueError("give either train_fraction or train_per_class")
        if self.superclasses_sha256 is not None and not isinstance(self.superclasses, str):
            raise ValueError("superclasses_sha256 belongs to a file of superclasses")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave samples for training")
        return self

    @property
    def _place(self) -> str:
        """The end of the path, by which people know a dataset; tables are called `labels.csv` everywhere."""
        path = PurePosixPath(self.path or "")
        has_folder = self.reader == "csv" and path.parent.name
        return f"{path.parent.name}/{path.name}" if has_folder else path.name

    @property
    def label(self) -> str:
        """What people call it: derived from the content, so that a name changes no identity."""
        name = _SUFFIX.sub("", self._place) if self.path else self.reader
        if self.classes is not None:
            name += f" {self.classes[0]}–{self.classes[-1]}"
        if self.n_classes is not None:
            name += f" {self.n_classes} classes"
        if self.superclasses is not None:
            name += " coarse"
        if self.train_per_class is not None:
            name += f" {self.train_per_class} a class"
        return name if self.train_fraction == 1 else f"{name} {self.train_fraction:.3g}"
