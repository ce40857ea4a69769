"""Rows of an array of images, in any order, without a copy of them."""

from typing import Any

import numpy as np


class ImageRows:
    """Reads like `pixels[rows]`, and copies only what is asked for.

    A split that was drawn at random lies scattered over the packed images of its dataset; copied together it
    would be the private memory of every process.

    Args:
        pixels: (n_images, channels, size_px, size_px) uint8, perhaps mapped from a file.
        rows: (n,) the numbers of the images that belong to it.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray) -> None:
        self.pixels, self.rows = pixels, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, size_px, size_px)."""
        return (len(self.rows), *self.pixels.shape[1:])

    def __getitem__(self, chosen: Any) -> np.ndarray:
        """Return an image, or copies of several: of a slice, or of an array of numbers."""
        return self.pixels[self.rows[chosen]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all of them, in memory."""
        if copy is False:
            raise ValueError("rows of an array can only be copied together")
        return np.asarray(self[:], dtype=dtype)
