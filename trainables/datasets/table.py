"""What every reader yields: one row per sample, the pixels not yet decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from trainables.datasets.packed import ImageArray, ImageFiles
from trainables.errors import DataError

SPLITS = ("train", "val", "test")
# A mark that is neither 0 nor 1: no loss and no score.
UNKNOWN = 255


@dataclass(frozen=True)
class OnDisk:
    """What a reader found, in the publisher's own terms, before anything is selected.

    Attributes:
        splits: images by the names of `trainables.datasets.published.Published.splits`.
        classes: images by class, over all splits.
    """

    splits: Mapping[str, int]
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The samples of a dataset, ordered by the reader in a way that does not depend on the file system.

    Attributes:
        name: file or folder, for messages.
        images: of `n_images`; a row of the table is image `rows[i]`.
        rows: (n_samples,) int64.
        labels: (n_samples,) int64 class numbers, or (n_samples, n_classes) uint8 marks where a sample can
            have several: 0, 1, or UNKNOWN.
        classes: names, in the order of the label numbers or columns.
        sample_ids: (n_samples,) str, unique.
        groups: (n_samples,) str; samples of one patient or lesion share it and stay in one split.
        splits: (n_samples,) of SPLITS; a format without splits says `train` everywhere.
        on_disk: what was found, for comparison with what was published; None where nothing is published.
    """

    name: str
    images: ImageArray | ImageFiles
    rows: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    sample_ids: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    on_disk: OnDisk | None = None

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

    def membership(self) -> np.ndarray:
        """Return (n_samples, n_classes) bool: which classes a sample belongs to."""
        if self.is_multilabel:
            return self.labels == 1
        return self.labels[:, None] == np.arange(len(self.classes))

    def crossing_groups(self) -> dict[str, tuple[str, ...]]:
        """Return the groups that are in more than one split, with their splits."""
        names, group_of = np.unique(self.groups, return_inverse=True)
        is_in = np.zeros((len(names), len(SPLITS)), bool)
        for number, split in enumerate(SPLITS):
            is_in[group_of[self.splits == split], number] = True
        return {
            str(names[group]): tuple(np.array(SPLITS)[is_in[group]].tolist())
            for group in np.flatnonzero(is_in.sum(1) > 1)
        }

    def check_groups(self) -> None:
        """Refuse splits that share a group: the test would be of people known from training.

        Raises:
            DataError: counts such groups and names the first.
        """
        crossing = self.crossing_groups()
        if crossing:
            group, splits = next(iter(crossing.items()))
            raise DataError(
                f"{self.name}: expected every group (patient or lesion) in one split, found "
                f"{len(crossing)} in several; {group!r} is in {' and '.join(splits)}; "
                "mend the splits of the data"
            )

    def check_every_class(self) -> None:
        """Refuse splits of which one has no sample of a class, or nothing but it: it could not be scored.

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
                if self.is_multilabel and not ((self.labels[:, number] == 0) & (self.splits == split)).any():
                    raise DataError(
                        f"{self.name}: label {name!r} is 0 for no sample of {split}, so it cannot be scored; "
                        "leave it out (dataset.classes), add images, or take what is not known for 0"
                    )
