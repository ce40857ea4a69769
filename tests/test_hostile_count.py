"""How many hostile inputs there are: those written by hand, and those that hypothesis makes."""

from tests import (
    test_hostile_archives,
    test_hostile_arrays,
    test_hostile_images,
    test_hostile_records,
    test_hostile_study_files,
    test_hostile_tables,
    test_hostile_weights,
)

BY_HAND = {
    "study and trial files": [
        *test_hostile_study_files.FILES.values(),
        *test_hostile_study_files.VALUES.values(),
    ],
    "tables": [*test_hostile_tables.TABLES.values()],
    "images": [*test_hostile_images.BROKEN.values()],
    "folders": [*test_hostile_images.FOLDERS.values()],
    "arrays": [*test_hostile_arrays.NPZ.values()],
    "pickles of CIFAR": [*test_hostile_arrays.PICKLES.values()],
    "packed pixels": [*test_hostile_arrays.CACHES.values(), *test_hostile_arrays.JOURNALS.values()],
    "safetensors": [*test_hostile_weights.SAFETENSORS.values(), *test_hostile_weights.BAD_FACTS.values()],
    "files of weights": [*test_hostile_weights.PICKLES.values()],
    "archives": [*test_hostile_archives.ARCHIVES.values()],
    "tags": test_hostile_records.EDITS,
    "archives of records": [*test_hostile_records.RECORDS.values()],
}
MADE = {
    "study files": test_hostile_study_files.N_VALUES + test_hostile_study_files.N_TEXTS,
    "tables": test_hostile_tables.N_TABLES,
    "images": test_hostile_images.N_DAMAGES,
    "arrays": test_hostile_arrays.N_DAMAGES,
    "weights": test_hostile_weights.N_DAMAGES,
    "archives": test_hostile_archives.N_DAMAGES,
    "records": test_hostile_records.N_TEXTS + test_hostile_records.N_DAMAGES,
}


def test_there_are_at_least_200_inputs_by_hand_of_every_kind_and_100_made() -> None:
    n_by_hand = {kind: len({repr(case) for case in cases}) for kind, cases in BY_HAND.items()}
    assert n_by_hand == {kind: len(cases) for kind, cases in BY_HAND.items()}, "one stands there twice"
    assert min(n_by_hand.values()) >= 15, n_by_hand
    # The tags are of few texts, so they are not counted towards the 200.
    assert sum(n_by_hand.values()) - n_by_hand["tags"] >= 200
    assert sum(MADE.values()) >= 100
