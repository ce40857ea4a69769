"""The 1,797 handwritten digits that ship with scikit-learn: real images without a download."""

from pathlib import Path

import numpy as np

from trainables.datasets.packed import ImageArray
from trainables.datasets.readers import DIGITS
from trainables.datasets.table import Table

BRIGHTEST = 16


def read_digits(_location: Path | None = None) -> Table:
    """Return the digits, 8 × 8 grey pixels, without splits; the writers are not known."""
    from sklearn.datasets import load_digits  # slow to import, and only this reader needs it

    content = load_digits()
    pixels = np.rint(content.images * (255 / BRIGHTEST)).astype(np.uint8)
    ids = np.array([f"{number:04d}" for number in range(len(pixels))])
    return Table(
        name="digits",
        images=ImageArray(pixels),
        rows=np.arange(len(pixels)),
        labels=content.target.astype(np.int64),
        classes=DIGITS,
        sample_ids=ids,
        groups=ids,
        splits=np.full(len(pixels), "train"),
    )
