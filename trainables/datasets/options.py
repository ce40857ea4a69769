"""What a study can say about one on-disk format beyond what all formats share: `dataset.options`."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from trainables.datasets.paths import check_name
from trainables.errors import unknown_choice
from trainables.fields import ListAsTuple, NonNegative, SpecModel

Policy: TypeAlias = Literal["zeros", "ones", "ignore"]

CHEXPERT_FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
DEFAULT = "default"


class ChexpertOptions(SpecModel):
    """CheXpert: what is taken for a label that is not certain, and which views are kept.

    Attributes:
        uncertain: of a mark of -1: `zeros`, `ones`, `ignore` (no loss, no score), or these by label
            (`{Atelectasis: ones, default: zeros}`).
        blank: of a finding that is not mentioned; `ignore` leaves almost only positives of some labels.
        views: `frontal` or `all`.
    """

    uncertain: Policy | dict[str, Policy] = "zeros"
    blank: Policy | dict[str, Policy] = "zeros"
    views: Literal["frontal", "all"] = "frontal"

    @model_validator(mode="after")
    def _check(self) -> "ChexpertOptions":
        for field in ("uncertain", "blank"):
            policy = getattr(self, field)
            for finding in () if isinstance(policy, str) else policy:
                if finding not in (*CHEXPERT_FINDINGS, DEFAULT):
                    known = (*CHEXPERT_FINDINGS, DEFAULT)
                    raise ValueError(unknown_choice(f"{field}: a finding", finding, known))
        return self

    def of_findings(self, kept: tuple[str, ...]) -> "ChexpertOptions":
        """Return the same policies for these findings in the one form they have: a word if all have one."""
        changes = {}
        for field in ("uncertain", "blank"):
            by_finding = policies(getattr(self, field), kept)
            words = sorted(set(by_finding.values()))
            changes[field] = words[0] if len(words) == 1 else by_finding
        return self.model_copy(update=changes)


def policies(policy: Policy | dict[str, Policy], findings: tuple[str, ...]) -> dict[str, Policy]:
    """Return the policy of each finding; one that the mapping leaves out has its default, or `zeros`."""
    if isinstance(policy, str):
        return dict.fromkeys(findings, policy)
    default = policy.get(DEFAULT, "zeros")
    return {finding: policy.get(finding, default) for finding in findings}


class EyepacsOptions(SpecModel):
    """EyePACS.

    Attributes:
        public_as_validation: whether the public part of the competition's test set is the validation split,
            as is common; otherwise validation is drawn from train, and public and private are the test split.
    """

    public_as_validation: bool = True


class AptosOptions(SpecModel):
    """APTOS 2019.

    Attributes:
        files: `original` (train.csv alone has labels, so val and test are drawn), or `resplit` (the copy with
            train_1.csv, valid.csv and test.csv).
    """

    files: Literal["original", "resplit"] = "original"


class KermanyOptions(SpecModel):
    """Kermany's chest X-rays.

    Attributes:
        splits: `redraw` pools all images and draws the splits by person; `official_test` keeps the test
            folder and draws validation from train and val, whose own val folder has 16 images.
    """

    splits: Literal["redraw", "official_test"] = "redraw"


class CifarOptions(SpecModel):
    """CIFAR-10 and CIFAR-100 as torchvision leaves them on disk.

    Attributes:
        labels: of CIFAR-100: its 100 `fine` or its 20 `coarse` classes; of CIFAR-10 `fine` is all there is.
    """

    labels: Literal["fine", "coarse"] = "fine"


class CsvOptions(SpecModel):
    """A table of one's own, `.csv` or `.tsv`, beside images.

    Attributes:
        image: the column with the path of the image, relative to `folder`.
        label: the column with the class; exclusive with `labels`.
        labels: columns with marks 0, 1 or nothing (not known); then a sample can have several.
        group: the column whose samples stay in one split (patient, lesion); None makes each image its own.
        split: the column with train, val (valid, validation) or test; None draws the splits.
        folder: of the images, relative to the table and below it.
        suffix: added to every name in `image` (`.png`), for tables that leave it out.
    """

    image: str = "image"
    label: str | None = None
    labels: Annotated[tuple[str, ...], ListAsTuple] = ()
    group: str | None = None
    split: str | None = None
    folder: str = "."
    suffix: str = ""

    @model_validator(mode="after")
    def _check(self) -> "CsvOptions":
        if PurePosixPath(self.folder).is_absolute() or ".." in PurePosixPath(self.folder).parts:
            raise ValueError(f"folder must be relative to the table and stay below it, got {self.folder!r}")
        check_name(self.folder)
        if (self.label is None) == (not self.labels):
            raise ValueError("give either label (one column with the class) or labels (columns with marks)")
        return self


class SyntheticOptions(SpecModel):
    """Procedural images whose lesions grow with the grade.

    Attributes:
        n_images: in all; the splits are drawn.
        n_classes: grades; 0 is healthy.
        images_per_patient: that look alike but for the view.
        seed: of the images.
        contrast: of the lesions; 0 leaves nothing to learn.
    """

    n_images: Annotated[int, Field(ge=10, le=10_000_000)] = 2000
    n_classes: Annotated[int, Field(ge=2, le=10)] = 5
    images_per_patient: Annotated[int, Field(ge=1)] = 2
    seed: Annotated[int, Field(ge=0)] = 0
    contrast: NonNegative = 1.0
