"""Jobs: what identifies them, that outcomes survive the disk, and that nothing is done twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.jobs.bench import Bench
from analysis.jobs.cache import OutcomeCache
from analysis.jobs.job import Job, Outcome, Weights
from analysis.jobs.schedule import NOT_COMPUTED, one_after_another, outcomes
from analysis.jobs.similarity import KIND, Settings, similarity_job
from analysis.jobs.work import KINDS, any_device, do
from tests.fake_records import record_of, spec_of
from trainables.errors import CheckpointError

RECORD = record_of(spec_of("random", 0))
OTHER = record_of(spec_of("random", 1))


def job(number: int = 0, *, record=RECORD, checkpoint: str = "final") -> Job:
    return Job("similarity", (Weights(record, checkpoint),), {"number": number})


def test_equal_jobs_have_one_key_and_others_another():
    assert job().key == job().key
    others = [job(1), job(record=OTHER), job(checkpoint="initial"), replace(job(), kind="loss line")]
    assert len({job().key, *(other.key for other in others)}) == 5


def test_the_key_depends_on_the_images_and_how_they_are_read():
    other_images = replace(RECORD, dataset_digest="e" * 64)
    dataset = RECORD.spec.dataset.model_copy(update={"size_px": 32})
    other_size = replace(RECORD, spec=RECORD.spec.model_copy(update={"dataset": dataset}))
    assert len({job(record=record).key for record in (RECORD, other_images, other_size)}) == 3


def test_a_record_without_the_checkpoint_is_told_apart_by_its_run():
    lacking = replace(RECORD, checkpoints={})
    assert job(record=lacking).key != job(record=replace(lacking, run_id="another")).key


def test_outcomes_survive_the_disk(tmp_path: Path):
    cache = OutcomeCache(tmp_path / "not" / "there")
    picture = np.arange(6.0).reshape(2, 3)
    outcome = Outcome([{"stage": "conv1", "value": float("nan"), "n": 3}], {"map": picture})
    cache.put("ab" * 32, outcome)
    read = cache.get("ab" * 32)
    assert read is not None
    assert np.isnan(read.rows[0].pop("value"))
    assert read.rows == [{"stage": "conv1", "n": 3}]
    np.testing.assert_array_equal(read.arrays["map"], picture)
    assert cache.get("cd" * 32) is None


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes):
    cache = OutcomeCache(tmp_path)
    cache.put("ab" * 32, Outcome([{"x": 1}]))
    [file] = tmp_path.rglob("*.npz")
    file.write_bytes(content)
    assert cache.get("ab" * 32) is None


def test_a_cache_that_cannot_be_written_is_noted_once(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = OutcomeCache(blocked)
    cache.put("ab" * 32, Outcome())
    cache.put("cd" * 32, Outcome())
    [notice] = cache.notices
    assert notice.startswith("the analysis is not kept for the next time: cannot write the cache file")


def counted(done: list[int]):
    def number(one: Job) -> Outcome:
        done.append(one.settings["number"])
        return Outcome([{"number": one.settings["number"]}])

    return one_after_another(number)


def test_equal_jobs_are_done_once_and_cached_ones_never_again(tmp_path: Path):
    done: list[int] = []
    cache = OutcomeCache(tmp_path)
    first = outcomes([job(0), job(1), job(0)], perform=counted(done), cache=cache)
    assert [outcome.rows[0]["number"] for outcome in first] == [0, 1, 0]
    assert done == [0, 1]
    again = outcomes([job(1), job(2)], perform=counted(done), cache=cache)
    assert [outcome.rows[0]["number"] for outcome in again] == [1, 2]
    assert done == [0, 1, 2]


def test_outcomes_come_in_the_order_of_the_jobs_whatever_the_order_they_are_done_in():
    def backwards(jobs):
        return ((place, Outcome([dict(jobs[place].settings)])) for place in reversed(range(len(jobs))))

    found = outcomes([job(n) for n in range(4)], perform=backwards, cache=None)
    assert [outcome.rows[0]["number"] for outcome in found] == [0, 1, 2, 3]


def test_what_failed_is_not_cached(tmp_path: Path):
    cache = OutcomeCache(tmp_path)
    failing = one_after_another(lambda _: Outcome(reason="the data are not here"))
    assert outcomes([job()], perform=failing, cache=cache)[0].reason == "the data are not here"
    done: list[int] = []
    outcomes([job()], perform=counted(done), cache=cache)
    assert done == [0]


def test_without_a_performer_only_what_is_cached_is_there(tmp_path: Path):
    cache = OutcomeCache(tmp_path)
    outcomes([job(0)], perform=counted([]), cache=cache)
    found = outcomes([job(0), job(1)], perform=None, cache=cache)
    assert [outcome.reason for outcome in found] == ["", NOT_COMPUTED]


def test_every_kind_names_its_reason_where_a_checkpoint_cannot_be_read():
    class Unreadable:
        def weights(self, record, checkpoint):
            raise CheckpointError("truncated")

    bench = Bench(Unreadable(), None, any_device())
    one = Weights(RECORD, "final")
    assert do(similarity_job(one, one, Settings(probe_images=8)), bench).reason == "truncated"
    for kind in set(KINDS) - {KIND, "uncertainty", "mistakes", "pictures"}:
        settings = {"n_images": 2, "values": [0.5, 0.4]}
        inputs = (one,) if "expl" in kind else (one, one)
        assert do(Job(kind, inputs, settings), bench).reason == "truncated"
