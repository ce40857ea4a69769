"""How much training a plan is, before any image is there: from the counts that publishers give."""

from trainables.datasets.readers import find_reader
from trainables.datasets.spec import DatasetSpec
from trainables.spec import TrialSpec


def training_images(spec: TrialSpec) -> int | None:
    """Return how many training images a resolved trial looks at, repetitions counted; None if not known.

    Early stopping may end it before.
    """
    training = spec.training
    if training.method != "gradient":
        return published_training_split(spec.dataset)
    if training.steps is not None:
        return training.steps * training.batch_size
    in_split = published_training_split(spec.dataset)
    return None if in_split is None else round((training.epochs or 0) * in_split)


def published_training_split(spec: DatasetSpec) -> int | None:
    """Return the size of the training split of a complete copy, within the rounding of whole groups.

    None where nothing is published, where a part of the data is meant, or where it depends on the classes
    that are kept.
    """
    reader = find_reader(spec.reader)
    published, selects_columns = reader.published(spec), reader.is_multilabel(spec)
    selects_rows = (spec.classes or spec.n_classes or spec.train_per_class) and not selects_columns
    if published is None or spec.partial or selects_rows:
        return None
    drawn = {"val": spec.validation_fraction, "test": spec.test_fraction}
    share = 1 - sum(drawn[name] for name in published.drawn)
    return round(published.n_trainable * share * spec.train_fraction)
