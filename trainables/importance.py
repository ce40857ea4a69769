"""Class weights that make a source look like the target (Domain adaptive transfer, Ngiam et al. 2018)."""

import numpy as np

from trainables.errors import DataError


def class_importance(
    predictions: np.ndarray, source_counts: np.ndarray, *, temper: float = 1.0, cap: float | None = None
) -> np.ndarray:
    """Return w(y) = P_t(y) / P_s(y) for every source class, scaled to a mean of 1 over the source's images.

    P_s is the frequency of a class among the source's training images, P_t the mean of the predictions for
    the target's images. What the paper does not have: an exponent, and a bound.

    Args:
        predictions: (n_target, n_classes) scores, not negative; each row is divided by its sum.
        source_counts: (n_classes,) training images of each class. A class without images gets weight 0.
        temper: exponent of the weights; 0 makes all classes alike.
        cap: greatest weight, relative to the mean over the source's images; what is cut off goes to no other.

    Raises:
        DataError: no target images, predictions that are not finite, or all of them on classes that the
            source has no images of.
    """
    if len(predictions) == 0:
        raise DataError("importance: expected predictions for at least one target image, got none")
    sums = predictions.sum(1, keepdims=True)
    if not np.isfinite(predictions).all() or (sums <= 0).any():
        raise DataError(
            "importance: expected finite predictions that are not all 0; the classifier has diverged"
        )
    of_target = (predictions / sums).mean(0)
    of_source = source_counts / source_counts.sum()
    ratio = np.divide(of_target, of_source, out=np.zeros_like(of_target), where=source_counts > 0)
    weights = np.where(source_counts > 0, ratio**temper, 0.0)
    mean = float(weights @ of_source)
    if mean <= 0:
        raise DataError("importance: the classifier sees none of the source's classes in the target's images")
    weights = weights / mean
    return weights if cap is None else np.minimum(weights, cap)


def effective_sample_size(weights: np.ndarray) -> float:
    """Return (sum w)^2 / sum w^2, Kish's effective number of samples; weights of the images, not all 0."""
    return float(weights.sum() ** 2 / (weights**2).sum())
