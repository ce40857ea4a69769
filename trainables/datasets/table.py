"""What every reader yields: one row per sample, the pixels not yet decoded."""

from dataclasses import dataclass, replace

import numpy as np

from trainables.datasets.packed import ImageArray, ImageFiles
from trainables.errors import DataError, unknown_choice

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Table:
    """The samples of a dataset, ordered by the reader in a way that does not depend on the file system.

    Attributes:
        name: file or folder, for messages.
        images: of `n_images`; a row of the table is image `rows[i]`.
        rows: (n_samples,) int64.
        labels: (n_samples,) int64, or (n_samples, n_classes) uint8 where a sample can have several.
        classes: names, in the order of the label numbers or columns.
        sample_ids: (n_samples,) str, unique.
        groups: (n_samples,) str; samples of one patient or lesion share it and stay in one split.
        splits: (n_samples,) of SPLITS; a format without splits says `train` everywhere.
    """

    name: str
    images: ImageArray | ImageFiles
    rows: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    sample_ids: np.ndarray
    groups: np.ndarray
    splits: np.ndarray

    @property
    def is_multilabel(self) -> bool:
        """Whether a sample can have several labels, or none."""
        return self.labels.ndim == 2

    @property
    def missing_splits(self) -> tuple[str, ...]:
        """The splits the format does not have."""
        return tuple(split for split in SPLITS if not (self.splits == split).any())

    def take(self, chosen: np.ndarray) -> "Table":
        """Return the chosen rows: a boolean mask or row numbers."""
        return replace(
            self,
            rows=self.rows[chosen],
            labels=self.labels[chosen],
            sample_ids=self.sample_ids[chosen],
            groups=self.groups[chosen],
            splits=self.splits[chosen],
        )

    def select_classes(self, classes: tuple[str, ...]) -> "Table":
        """Return the samples of these classes, numbered in this order; of a multilabel table the columns.

        Raises:
            DataError: no such class; the message lists the known ones.
        """
        for name in classes:
            if name not in self.classes:
                raise DataError(unknown_choice(f"{self.name}: dataset.classes", name, self.classes))
        numbers = [self.classes.index(name) for name in classes]
        if self.is_multilabel:
            return replace(self, labels=self.labels[:, numbers], classes=classes)
        new_number = np.full(len(self.classes), -1)
        new_number[numbers] = np.arange(len(numbers))
        labels = new_number[self.labels]
        return replace(self, labels=labels, classes=classes).take(labels >= 0)

    def membership(self) -> np.ndarray:
        """Return (n_samples, n_classes) bool: which classes a sample belongs to."""
        if self.is_multilabel:
            return self.labels.astype(bool)
        return self.labels[:, None] == np.arange(len(self.classes))

    def check_every_class(self) -> None:
        """Refuse splits of which one has no sample of a class: it could not be scored.

        Raises:
            DataError: names the class, the split, and how many groups the class has.
        """
        membership = self.membership()
        for number, name in enumerate(self.classes):
            of_class = membership[:, number]
            for split in SPLITS:
                if not (of_class & (self.splits == split)).any():
                    n_groups = len(np.unique(self.groups[of_class]))
                    raise DataError(
                        f"{self.name}: class {name!r} has no samples in {split}; its {n_groups} "
                        f"groups (patients, lesions or single images) do not cover {', '.join(SPLITS)}; "
                        "leave the class out (dataset.classes) or add images"
                    )
