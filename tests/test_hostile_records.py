"""Records that somebody edited: tags and archives in MLflow that say anything at all hide no other trial."""
# ruff: noqa: E501

import io
import json
import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import tiny_trial
from tests.hostility import Payload, read_or_refused, watched
from trainables.errors import UserError
from trainables.record import RecordReader, Store, TrialRecord, TrialWriter, names
from trainables.record.archive import Archive, read_archive, write_archive
from trainables.record.environment import Environment
from trainables.record.library import RunLibrary
from trainables.record.runs import StoredRun

SHA = "0" * 64
N_TEXTS, N_DAMAGES = 60, 40
WEIGHTS = {"a": torch.ones(2)}


def finished(store: Store, seed: int) -> str:
    """Write a finished trial and return the id of its run."""
    writer = TrialWriter.open(store, tiny_trial(seed=seed), study="mine", environment=Environment({}, {}))
    writer.log_metrics({"val_auroc": 0.5}, step=1)
    writer.commit_checkpoints({"final": WEIGHTS}, {"final": 1})
    writer.finish()
    return writer.run_id


def pointer(**changes: object) -> str:
    good = {"name": "final", "path": "checkpoints/x.safetensors", "sha256": SHA, "step": 1, "n_bytes": 8}
    return json.dumps({key: value for key, value in {**good, **changes}.items() if value is not ...})


# Texts that a tag can hold, of any kind.
TEXTS: dict[str, str] = {
    "nothing": "",
    "spaces": "   ",
    "text": "hello",
    "a number": "5",
    "a number of 5,000 digits": "9" * 5_000,
    "no number": "NaN",
    "infinity": "-Infinity",
    "null": "null",
    "true": "true",
    "text of JSON": '"x"',
    "a list": "[]",
    "a list of lists": "[[1], [2]]",
    "a mapping": "{}",
    "JSON cut": '{"name": "final", "pa',
    "nested 3,000 deep": "[" * 3_000,
    "mappings nested": '{"a":' * 1_500,
    "half a character": '"\\ud800"',
    "a date": "2024-01-01",
    "a quote": 'it\'s `quoted` "here"',
    "markup": "<script>alert(1)</script>",
    "code": "__import__('os').system('touch canary-was-here')",
    "YAML of code": "!!python/object/apply:os.system ['touch canary-was-here']",
    "a path above": "../../../etc/passwd",
    "a line break": "a\nb",
}
SPECS: dict[str, str] = {
    "another version": '{"spec_version": 99}',
    "a version of text": '{"spec_version": "x"}',
    "a version of a list": '{"spec_version": [1]}',
    "a field too many": '{"architecture": "cbr_tiny", "what": 1}',
    "a seed alone": '{"a": 1, "seed": 3}',
    "a seed that is too large": '{"a": 1, "seed": 99999999999999999999}',
    "a dataset of a list": '{"architecture": "cbr_tiny", "dataset": [], "training": {}}',
    "a reader of code": '{"architecture": "cbr_tiny", "dataset": {"reader": "os:system"}, "training": {"steps": 1}}',
    "an architecture that is none": '{"architecture": "os.system", "dataset": {"reader": "digits"}, "training": {"steps": 1}}',
}  # fmt: skip
POINTERS: dict[str, str] = {
    "a path above": pointer(path="../../../../etc/passwd"),
    "a path that is absolute": pointer(path="/etc/passwd"),
    "a path of an address": pointer(path="http://127.0.0.1/x"),
    "a path of nothing": pointer(path=""),
    "a path that is a number": pointer(path=5),
    "a path with NUL": pointer(path="checkpoints/\0"),
    "a name of a list": pointer(name=["final"]),
    "a name of a mapping": pointer(name={}),
    "a digest of a number": pointer(sha256=5),
    "no digest": pointer(sha256=None),
    "a digest of text": pointer(sha256="x"),
    "a step of text": pointer(step="1"),
    "a step that is true": pointer(step=True),
    "a negative step": pointer(step=-1),
    "a step of no number": pointer(step=float("nan")),
    "bytes of text": pointer(n_bytes="8"),
    "a field too many": pointer(more=1),
    "a field too few": pointer(step=...),
}
TAGS = [
    names.SPEC, names.STATE, names.CHECKPOINT_PREFIX + "final", names.ATTEMPT, names.CAUSE, names.CELL_ID,
    names.DATASET_DIGEST, names.TRIAL_ID, names.STUDY_PREFIX + "mine", names.KIND,
]  # fmt: skip
EDITS = [
    *((tag, text) for tag in TAGS for text in TEXTS.values()),
    *((names.SPEC, text) for text in SPECS.values()),
    *((tag, text) for tag in (names.STATE, names.CHECKPOINT_PREFIX + "final") for text in POINTERS.values()),
]


def everything_about(reader: RecordReader, records: list[TrialRecord], folder: Path) -> None:
    """Read all there is; what cannot be read is an error that a person can mend."""
    for record in records:
        assert record.resumes_at_step >= 0
        for checkpoint in record.checkpoints:
            with read_or_refused(folder, record.run_id):
                reader.weights(record, checkpoint)


@dataclass
class Edited:
    """Two finished trials in a store, of which one is read with a tag that somebody edited."""

    store: Store
    damaged: StoredRun
    whole: StoredRun
    patch: pytest.MonkeyPatch
    folder: Path

    def read(self, tag: str, text: str) -> None:
        """Read all trials; the whole one must be there."""
        runs = [replace(self.damaged, tags={**self.damaged.tags, tag: text}), self.whole]
        self.patch.setattr(RunLibrary, "runs", lambda *_: runs)
        reader = RecordReader(self.store)
        with watched(self.folder):
            records = reader.trials()
        assert self.whole.run_id in {record.run_id for record in records}
        if tag.startswith(names.CHECKPOINT_PREFIX):
            others = [record for record in records if record.run_id != self.whole.run_id]
            everything_about(reader, others, self.folder)
        assert "Traceback" not in "".join(reader.notices)


@pytest.fixture
def edited(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Edited:
    # Handed to the reader as the store would: to write each edit would take minutes.
    runs = [StoredRun.of(store.client.get_run(finished(store, seed))) for seed in (1, 2)]
    return Edited(store, *runs, patch=monkeypatch, folder=tmp_path)


def test_no_tag_hides_another_trial(edited: Edited) -> None:
    failures = []
    for tag, text in EDITS:
        try:
            edited.read(tag, text)
        except Exception as error:
            failures.append(f"{tag} = {text[:60]!r}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, "\n".join(failures)


def test_a_tag_that_was_edited_in_the_store_hides_no_other_trial(store: Store) -> None:
    damaged, whole = finished(store, 1), finished(store, 2)
    set_tag(store, damaged, names.SPEC, TEXTS["code"])
    reader = RecordReader(store)
    assert [record.run_id for record in reader.trials()] == [whole]
    assert damaged in reader.notices[0]


def set_tag(store: Store, run_id: str, tag: str, text: str) -> None:
    store.client.set_tag(run_id, tag, text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
written = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(written, max_size=200) | json_values.map(json.dumps)


def test_any_text_in_a_tag_hides_no_other_trial(edited: Edited) -> None:
    @settings(max_examples=N_TEXTS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(tag=st.sampled_from(TAGS), text=texts)
    def any_text(tag: str, text: str) -> None:
        edited.read(tag, text)

    any_text()


ATTEMPTS = ["", "x", "-", "x-y", "-1-a", "9" * 5_000, "1.5-a", "٣-a", "null", "{}"]


def test_a_trial_whose_attempt_was_edited_is_taken_over_or_refused(store: Store, tmp_path: Path) -> None:
    spec, failures = tiny_trial(seed=3), []
    writer = TrialWriter.open(store, spec, study=None, environment=Environment({}, {}))
    for text in ATTEMPTS:
        set_tag(store, writer.run_id, names.ATTEMPT, text)
        try:
            with watched(tmp_path):
                again = TrialWriter.open(store, spec, study=None, environment=Environment({}, {}))
            assert again.run_id == writer.run_id
        except UserError:
            continue
        except Exception as error:
            failures.append(f"attempt = {text[:60]!r}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, "\n".join(failures)


STATES = [
    *(TEXTS[name] for name in ("nothing", "text", "null", "a list", "nested 3,000 deep")),
    *(POINTERS[name] for name in ("a path above", "a path that is a number", "no digest", "a step of text")),
]


def test_a_state_that_was_edited_begins_the_trial_anew(store: Store, tmp_path: Path) -> None:
    spec, failures = tiny_trial(seed=4), []
    writer = TrialWriter.open(store, spec, study=None, environment=Environment({}, {}))
    for text in STATES:
        set_tag(store, writer.run_id, names.STATE, text)
        try:
            with watched(tmp_path):
                again = TrialWriter.open(store, spec, study=None, environment=Environment({}, {}))
                assert again.load_state() is None
        except Exception as error:
            failures.append(f"state = {text[:60]!r}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, "\n".join(failures)


def archive_file(**members: bytes | str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return stream.getvalue()


def good_archive() -> bytes:
    run = StoredRun("a" * 32, "FINISHED", 1, 2, {"kind": "trial"}, {"x": 1.0})
    stream = io.BytesIO()
    write_archive(Archive({run.run_id: run}), stream)
    return stream.getvalue()


def with_runs(content: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(good_archive())) as file:
        points = file.read("points.parquet")
    text = content if isinstance(content, str) else json.dumps(content)
    return archive_file(runs__json=text, points__parquet=points)


RUN = {"run_id": "a", "status": "FINISHED", "start_time": 1, "end_time": 2, "tags": {}, "metrics": {}}
RECORDS: dict[str, bytes] = {
    "no bytes": b"",
    "text": b"records",
    "a pickle": pickle.dumps(Payload()),
    "cut": good_archive()[:-30],
    "cut in the middle": good_archive()[:200],
    "an empty zip": archive_file(),
    "no points": archive_file(runs__json="{}"),
    "points of text": archive_file(runs__json="{}", points__parquet="x"),
    "points of a pickle": archive_file(runs__json="{}", points__parquet=pickle.dumps(Payload())),
    "no JSON": with_runs("{"),
    "nested": with_runs("[" * 50_000),
    "a list": with_runs([]),
    "a number": with_runs(5),
    "no format": with_runs({}),
    "another format": with_runs({"format": 99, "runs": [], "known": {}}),
    "runs of a number": with_runs({"format": 1, "runs": 5, "known": {}}),
    "runs of text": with_runs({"format": 1, "runs": ["x"], "known": {}}),
    "runs of nothing": with_runs({"format": 1, "runs": [None], "known": {}}),
    "runs without a status": with_runs({"format": 1, "runs": [{"run_id": "a"}], "known": {}}),
    "runs with more": with_runs({"format": 1, "runs": [{**RUN, "more": 1}], "known": {}}),
    "known of a list": with_runs({"format": 1, "runs": [], "known": []}),
    "known of numbers": with_runs({"format": 1, "runs": [], "known": {"a": 5}}),
    "an id of a list": with_runs({"format": 1, "runs": [{**RUN, "run_id": []}], "known": {}}),
    "tags of a list": with_runs({"format": 1, "runs": [{**RUN, "tags": ["x"]}], "known": {}}),
    "a start of text": with_runs({"format": 1, "runs": [{**RUN, "start_time": "x"}], "known": {}}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_archive_of_records_is_no_archive(name: str, tmp_path: Path) -> None:
    (tmp_path / "records.zip").write_bytes(RECORDS[name])
    with watched(tmp_path):
        assert read_archive(tmp_path / "records.zip") is None


def test_the_archive_that_is_spoiled_is_good(tmp_path: Path) -> None:
    (tmp_path / "records.zip").write_bytes(good_archive())
    found = read_archive(tmp_path / "records.zip")
    assert found is not None
    assert len(found.runs) == 1


@settings(
    max_examples=N_DAMAGES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_damage_anywhere_in_an_archive_of_records_is_noticed_or_of_no_effect(
    damage: list[tuple[float, int]], tmp_path: Path
) -> None:
    content = bytearray(good_archive())
    for where, byte in damage:
        content[int(where * (len(content) - 1))] = byte
    (tmp_path / "records.zip").write_bytes(content)
    with watched(tmp_path):
        assert isinstance(read_archive(tmp_path / "records.zip"), Archive | None)
