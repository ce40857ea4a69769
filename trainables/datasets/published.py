"""What publishers say a complete copy of their data holds, and the check of a copy against it.

Every number was read in a source or counted in a copy, but for the number of Messidor-2's images without a
grade, which is remembered, and used for the size of a plan alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.errors import DataError


@dataclass(frozen=True)
class Published:
    """The counts of a complete copy.

    Attributes:
        splits: images by the split as it lies on disk; `images` where there are none.
        classes: images by class, over all splits, where that is known.
        pool: the splits on disk from which the training split, and splits that are drawn, are taken.
        n_pool: images of the pool that are used, where not all are; 0 stands for all.
        drawn: which of train's companions `val` and `test` are drawn from the pool.
    """

    splits: Mapping[str, int]
    classes: Mapping[str, int] = field(default_factory=dict)
    pool: tuple[str, ...] = ("train",)
    n_pool: int = 0
    drawn: tuple[str, ...] = ()

    @property
    def n_images(self) -> int:
        """All images."""
        return sum(self.splits.values())

    @property
    def n_trainable(self) -> int:
        """Images from which the training split is taken."""
        return self.n_pool or sum(self.splits[name] for name in self.pool)


def _graded(*counts: int) -> dict[str, int]:
    return {str(grade): count for grade, count in enumerate(counts)}


CHEXPERT = Published({"train": 223_414, "valid": 234}, drawn=("val",))
CHEXPERT_FRONTAL = Published(CHEXPERT.splits, n_pool=191_027, drawn=("val",))
EYEPACS = Published({"train": 35_126, "Public": 10_906, "Private": 42_670})
EYEPACS_ALL_TESTED = Published(EYEPACS.splits, drawn=("val",))
APTOS = Published({"train": 3_662}, _graded(1_805, 370, 999, 193, 295), drawn=("val", "test"))
APTOS_RESPLIT = Published({"train": 2_930, "valid": 366, "test": 366})
# Of 1,748 images four have no grade.
MESSIDOR2 = Published({"images": 1_748}, pool=("images",), n_pool=1_744, drawn=("val", "test"))
# One photograph of train is in test too, and is left out of train.
IDRID = Published({"train": 413, "test": 103}, n_pool=412, drawn=("val",))
HAM10000 = Published(
    {"images": 10_015},
    {"akiec": 327, "bcc": 514, "bkl": 1_099, "df": 115, "mel": 1_113, "nv": 6_705, "vasc": 142},
    pool=("images",),
    drawn=("val", "test"),
)
KERMANY = Published(
    {"train": 5_216, "val": 16, "test": 624},
    {"NORMAL": 1_583, "PNEUMONIA": 4_273},
    pool=("train", "val", "test"),
    drawn=("val", "test"),
)
KERMANY_OFFICIAL_TEST = Published(KERMANY.splits, KERMANY.classes, pool=("train", "val"), drawn=("val",))
CIFAR = Published({"train": 50_000, "test": 10_000}, drawn=("val",))
IMAGENET = Published({"train": 1_281_167, "val": 50_000}, drawn=("val",))
MEDMNIST: dict[str, Published] = {
    flag: Published({"train": train, "val": val, "test": test})
    for flag, (train, val, test) in {
        "bloodmnist": (11_959, 1_712, 3_421),
        "breastmnist": (546, 78, 156),
        "chestmnist": (78_468, 11_219, 22_433),
        "dermamnist": (7_007, 1_003, 2_005),
        "octmnist": (97_477, 10_832, 1_000),
        "organamnist": (34_561, 6_491, 17_778),
        "organcmnist": (12_975, 2_392, 8_216),
        "organsmnist": (13_932, 2_452, 8_827),
        "pathmnist": (89_996, 10_004, 7_180),
        "pneumoniamnist": (4_708, 524, 624),
        "retinamnist": (1_080, 120, 400),
        "tissuemnist": (165_466, 23_640, 47_280),
    }.items()
}


def check_complete(
    name: str, published: Published, *, splits: Mapping[str, int], classes: Mapping[str, int] | None = None
) -> None:
    """Compare what was found on disk with what was published.

    Raises:
        DataError: the first count that differs; says how to go on with a part of the data.
    """
    rows = [(f"images in {split}", n, splits.get(split, 0)) for split, n in published.splits.items()]
    if classes is not None:
        rows += [(f"images of {label}", n, classes.get(label, 0)) for label, n in published.classes.items()]
    for what, expected, found in rows:
        if found != expected:
            reason = "the copy is incomplete" if found < expected else "this is another edition"
            raise DataError(
                f"{name}: expected {expected} {what}, found {found}; {reason}: fetch it again, or write "
                "partial: true in the dataset if a part of it is meant"
            )
