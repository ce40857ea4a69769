"""How much a trial looks at, as far as that is known before its images are there."""

from dataclasses import dataclass
from functools import lru_cache

from trainables.datasets.published import Published
from trainables.datasets.readers import find_reader
from trainables.datasets.spec import DatasetSpec
from trainables.spec import TrainingSpec, TrialSpec


@dataclass(frozen=True)
class SplitSizes:
    """Images of each split; None where they are not known."""

    train: int | None = None
    val: int | None = None
    test: int | None = None


@lru_cache(maxsize=4096)
def published_sizes(spec: DatasetSpec) -> SplitSizes:
    """Return the sizes of the splits of a complete copy, within the rounding of whole groups.

    None where nothing is published, where a part of the data is meant, or where it depends on the classes
    that are kept.
    """
    reader = find_reader(spec.reader)
    published, selects_columns = reader.published(spec), reader.is_multilabel(spec)
    selects_rows = (spec.classes or spec.n_classes or spec.train_per_class) and not selects_columns
    if published is None or spec.partial or selects_rows:
        return SplitSizes()
    shares = {"val": spec.validation_fraction, "test": spec.test_fraction}
    drawn = {name: shares[name] * published.n_trainable for name in published.drawn}
    given = _given(published)
    train = (published.n_trainable - sum(drawn.values())) * spec.train_fraction
    return SplitSizes(
        round(train),
        round(drawn["val"]) if "val" in drawn else given.get("val"),
        round(drawn["test"]) if "test" in drawn else given.get("test"),
    )


def _given(published: Published) -> dict[str, int]:
    """Return the splits that are not drawn: those on disk from which nothing is drawn, in this order."""
    sizes = [size for name, size in published.splits.items() if name not in published.pool]
    wanted = [name for name in ("val", "test") if name not in published.drawn]
    return {wanted[0]: sum(sizes)} if len(wanted) == 1 else dict(zip(wanted, sizes, strict=False))


def batch_size(training: TrainingSpec, n_train: int | None) -> int:
    """Return the images of an optimizer step: no more than there are."""
    return training.batch_size if n_train is None else min(training.batch_size, n_train)


def total_steps(training: TrainingSpec, n_train: int | None) -> int | None:
    """Return the optimizer steps of a training by gradient, as `trainables.training` counts them."""
    if training.steps is not None:
        return training.steps
    if not n_train:
        return None
    return round((training.epochs or 0) * (n_train // batch_size(training, n_train)))


def training_images(spec: TrialSpec, sizes: SplitSizes) -> int | None:
    """Return how many training images a resolved trial looks at, repetitions counted; None if not known.

    Early stopping may end it before.
    """
    if spec.training.method != "gradient":
        return sizes.train
    steps = total_steps(spec.training, sizes.train)
    return None if steps is None else steps * batch_size(spec.training, sizes.train)
