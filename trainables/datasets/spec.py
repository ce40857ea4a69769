"""What a dataset is, as data. Below `trainables.spec`, so that the readers need not know of trials."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trainables.fields import Channels, Fraction, ListAsTuple, SpecModel


def below_data_root(value: str) -> str:
    """Return a relative path in its shortest form.

    Raises:
        ValueError: the path is absolute, leaves the data root or is empty.
    """
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(
            f"must be relative to the data root (TRANSFUSION_DATA) and stay below it, got {value!r}"
        )
    return str(path)


DataPath = Annotated[str, AfterValidator(below_data_root)]


class DatasetSpec(SpecModel):
    """The images, the labels and the splits of a task.

    Attributes:
        reader: the on-disk format, an entry of `trainables.datasets.catalog.READERS`.
        path: file or folder below the data root (`TRANSFUSION_DATA`); None where the reader needs none.
        size_px: side to which images are resized (bilinear, antialiased); square.
        channels: 1 (grey, ITU-R 601) or 3 (RGB; grey is repeated).
        classes: keep these classes, numbered in this order; None keeps all.
        train_fraction: share of the training samples kept, stratified by class, whole groups.
        validation_fraction, test_fraction: used where the format has no such split of its own.
        split_seed: of the drawn splits and of `train_fraction`; not the trial's seed, so that the seeds
            of a cell see the same images.
        normalize: `train` (mean and sd of the training split), `imagenet`, or `unit` (-1 … 1).
    """

    reader: str
    path: DataPath | None = None
    size_px: Annotated[int, Field(ge=8, le=4096)] = 28
    channels: Channels = 1
    classes: Annotated[tuple[str, ...] | None, ListAsTuple] = None
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    validation_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.15
    split_seed: Annotated[int, Field(ge=0)] = 0
    normalize: Literal["train", "imagenet", "unit"] = "train"

    @model_validator(mode="after")
    def _check(self) -> "DatasetSpec":
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes must name at least two different classes")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave samples for training")
        return self

    @property
    def label(self) -> str:
        """What people call it: derived from the content, so that a name changes no identity."""
        name = PurePosixPath(self.path).name.split(".")[0] if self.path else self.reader
        if self.classes is not None:
            name += f" {self.classes[0]}–{self.classes[-1]}"
        return name if self.train_fraction == 1 else f"{name} {self.train_fraction:.3g}"
