"""Where a trial ran and what its parts took, as its tags tell it."""

import json
from dataclasses import asdict

import pytest

from tests.conftest import tiny_trial
from tests.test_speed import SPENT
from trainables.hardware import cpu_model
from trainables.identity import trial_id
from trainables.record import RecordReader, Store
from trainables.record.circumstances import Circumstances, circumstances_of
from trainables.spec import RunOptions
from trainables.trial import run_trial


def test_what_was_spent_survives_its_tag() -> None:
    assert circumstances_of({"spent": SPENT.to_tag()}).spent == SPENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        json.dumps({"images_trained": 3}),
        json.dumps({**asdict(SPENT), "more": 1}),
        json.dumps({**asdict(SPENT), "training_s": "10"}),
        json.dumps({**asdict(SPENT), "training_s": -1}),
        json.dumps({**asdict(SPENT), "scoring_s": None}),
        SPENT.to_tag().replace("10.0", "NaN"),
    ],
)
def test_an_edited_tag_counts_as_absent(text: str) -> None:
    assert circumstances_of({"spent": text}).spent is None


def test_a_record_older_than_the_tags_tells_only_its_gpu() -> None:
    assert circumstances_of({"device": "cpu", "host": "a"}) == Circumstances(host="a")
    old = circumstances_of({"device": "NVIDIA A10G", "host": "a"})
    assert (old.hardware, old.is_gpu, old.spent) == ("NVIDIA A10G", True, None)


def test_the_memory_of_a_gpu_is_a_number_or_unknown() -> None:
    assert circumstances_of({"device": "T4", "gpu_memory_gb": "15.6"}).gpu_memory_gb == 15.6
    for text in ("", "much", "nan", "-1", "inf"):
        assert circumstances_of({"device": "T4", "gpu_memory_gb": text}).gpu_memory_gb is None


def test_attempts_and_halved_micro_batches_are_seen() -> None:
    assert circumstances_of({"attempt": "1-ab"}).is_first_attempt
    assert not circumstances_of({"attempt": "11-ab"}).is_first_attempt
    assert circumstances_of({"micro_batch_size": "4"}).was_halved


def test_a_trial_records_what_it_spent_and_a_resumed_one_only_its_own_part(store: Store) -> None:
    spec = tiny_trial()
    options = RunOptions(
        state_every_s=0, rungs=(48,)
    )  # so that it reports before its end, however fast it is
    begun = run_trial(spec, store=store, options=options, data_root=None)
    while next(begun).metrics.get("images_seen", 0) < 48:
        pass
    begun.close()
    list(run_trial(spec, store=store, options=options, data_root=None))
    record = RecordReader(store).trial(trial_id(spec))
    assert record is not None
    found = record.circumstances
    assert (found.hardware, found.is_gpu, found.is_first_attempt) == (cpu_model(), False, False)
    assert found.spent is not None
    assert 0 < found.spent.images_trained < 12 * 16
    assert found.spent.training_s < record.metrics["train_seconds"]
    assert found.spent.n_train > found.spent.n_test > 0
