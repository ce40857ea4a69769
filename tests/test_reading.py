"""Reading many trials: from an archive or run by run, the facts are the same."""

import contextlib
import math
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import requests
import torch
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from tests.conftest import tiny_trial
from trainables.errors import TrackingError
from trainables.identity import trial_id
from trainables.record import RecordReader, Store, TrialRecord, TrialWriter, open_store
from trainables.record.archive_places import local_file
from trainables.record.environment import Environment

N_FINISHED = 4
METRICS = ("val_auroc", "val_loss", "absent")


def add_trial(store: Store, seed: int, *, study: str = "s") -> TrialWriter:
    """A trial whose steps are not logged in order, with a NaN and a step that was logged twice."""
    writer = TrialWriter.open(store, tiny_trial(seed=seed), study=study, environment=Environment({}, {}))
    for step in (0, 10, 2):
        writer.log_metrics({"val_auroc": seed + step / 100, "train_loss": 1.0}, step=step)
    if seed % 2:
        writer.log_metrics({"val_loss": math.nan}, step=0)
        writer.log_metrics({"val_loss": 1 / 3}, step=1)
        # Another program logged a step again, later and with a smaller value.
        store.client.log_metric(writer.run_id, "val_auroc", -1.0, timestamp=2**41, step=2)
    writer.commit_checkpoints({"best": {"w": torch.ones(2)}}, {"best": 2})
    return writer


@pytest.fixture(scope="module")
def filled_folder(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with finished trials, a failed one, one of another study, and a run of each study."""
    folder = tmp_path_factory.mktemp("filled")
    shutil.copy(empty_database, folder / "mlflow.db")
    store = open_store(f"sqlite:///{folder / 'mlflow.db'}", experiment="test")
    for seed in range(N_FINISHED):
        add_trial(store, seed).finish()
    add_trial(store, 20).fail("it broke")
    add_trial(store, 30, study="other").finish()
    for name in ("s", "other"):
        store.client.create_run(store.experiment_id, tags={"kind": "study", "study": name})
    return folder


@pytest.fixture
def filled(filled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of it, all of whose trials are worth an archive, which is empty."""
    shutil.copy(filled_folder / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setattr("trainables.record.library.WORTH_AN_ARCHIVE", 2)
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="test")


@pytest.fixture
def served(filled: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The same database behind MLflow's server, in a thread."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", filled.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its search handler imports this at the first call.
        with contextlib.suppress(ImportError):
            import mlflow.server.auth  # noqa: F401
        from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    monkeypatch.setattr(handlers, "_tracking_store", None)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield open_store(f"http://127.0.0.1:{server.server_port}", experiment="test")
    server.shutdown()
    thread.join()
    server.server_close()


def plain(store: Store, study: str | None) -> tuple[list[TrialRecord], pd.DataFrame]:
    """Read run by run with MLflow's client, as one would without an archive."""
    reader = RecordReader(store)
    found = store.search("kind", "trial", *([(f"study.{study}", "yes")] if study else []))
    records = [record for run in found if (record := reader.trial(run.data.tags["trial_id"]))]
    rows = [
        (record.trial_id, metric, step, value)
        for record in records
        for metric in METRICS
        for step, value in sorted(
            {p.step: p.value for p in store.client.get_metric_history(record.run_id, metric)}.items()
        )
    ]
    table = pd.DataFrame(rows, columns=["trial_id", "metric", "step", "value"])
    return records, table.astype({"step": "int64", "value": "float64"})


def read(store: Store, study: str | None = "s") -> tuple[list[TrialRecord], pd.DataFrame]:
    reader = RecordReader(store)
    records = reader.trials(study)
    assert reader.notices == []
    return records, reader.histories(records, METRICS)


def assert_as_plain(store: Store, study: str | None = "s") -> None:
    records, histories = read(store, study)
    expected, expected_histories = plain(store, study)
    assert records == expected
    pd.testing.assert_frame_equal(histories, expected_histories)


def seeds(store: Store, study: str | None = "s") -> list[int]:
    return [record.spec.seed for record in read(store, study)[0]]


def count_searched(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every search for trials appends how many runs it got, counting apart."""
    numbers: list[int] = []
    search = type(store.client).search_runs

    def counting(self: object, ids: object, query: str, **keywords: object) -> object:
        page = search(self, ids, query, **keywords)
        if "'trial'" in query and keywords["max_results"] > 1:  # type: ignore[operator]
            numbers.append(len(page))
        return page

    monkeypatch.setattr(type(store.client), "search_runs", counting)
    return numbers


@pytest.mark.parametrize("study", ["s", None, "it's"])
def test_the_archive_says_what_the_store_says(filled: Store, study: str | None) -> None:
    for _ in range(3):
        assert_as_plain(filled, study)


def test_a_server_says_what_its_database_says(served: Store, filled: Store) -> None:
    for study in ("s", None, "s"):
        assert_as_plain(served, study)
    assert read(served)[0] == read(filled)[0]
    assert read(served)[1].equals(read(filled)[1])


def test_what_is_archived_is_not_read_again(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read(filled)
    assert local_file(filled).exists()
    backend = type(filled.client._tracking_client.store)
    asked: list[list[str]] = []

    def noting(_: object, run_ids: list[str], *__: object) -> list[object]:
        asked.append(run_ids)
        return []

    monkeypatch.setattr(backend, "get_metric_history_bulk", noting)
    numbers = count_searched(filled, monkeypatch)
    records, histories = read(filled)
    assert len(records) == N_FINISHED + 1
    assert set(histories["trial_id"]) == {r.trial_id for r in records if r.status == "finished"}
    assert sum(numbers) == 1, "the failed run"
    (failed,) = (record.run_id for record in records if record.status == "failed")
    assert {run_id for ids in asked for run_id in ids} == {failed}


def test_a_small_store_has_no_archive(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.record.library.WORTH_AN_ARCHIVE", 100)
    assert_as_plain(filled)
    assert not local_file(filled).exists()


@pytest.mark.parametrize("how", ["deleted", "gone", "untagged"])
def test_a_run_that_is_no_longer_there_vanishes(filled: Store, how: str) -> None:
    records, _ = read(filled)
    if how == "untagged":
        filled.client.delete_tag(records[1].run_id, "study.s")
    else:
        filled.client.delete_run(records[1].run_id)
    if how == "gone":
        filled.client._tracking_client.store._hard_delete_run(records[1].run_id)
    assert seeds(filled) == [0, 2, 3, 20]
    assert_as_plain(filled)
    assert_as_plain(filled, None)


def test_a_run_that_goes_as_another_comes_is_not_mistaken_for_it(filled: Store) -> None:
    records, _ = read(filled)
    filled.client.delete_run(records[1].run_id)
    add_trial(filled, 40).finish()
    assert seeds(filled) == [0, 2, 3, 20, 40]


@pytest.mark.parametrize("is_first_all", [False, True])
def test_a_finished_run_that_another_study_adopts_appears_there(filled: Store, is_first_all: bool) -> None:
    records, _ = read(filled, None if is_first_all else "s")
    read(filled, "other")
    filled.client.log_batch(records[2].run_id, tags=[RunTag("study.other", "yes")])
    assert seeds(filled, "other") == [2, 30]
    filled.client.log_batch(records[3].run_id, tags=[RunTag("study.other", "yes")])
    of_all = {record.spec.seed: record.studies for record in read(filled, None)[0]}
    assert of_all[2] == of_all[3] == {"s", "other"}
    assert_as_plain(filled, None)


def test_a_run_that_is_not_finished_is_read_anew(filled: Store) -> None:
    read(filled)
    resumed = add_trial(filled, 20)
    resumed.log_metrics({"val_auroc": 0.75}, step=11)
    resumed.drain()
    assert_as_plain(filled)
    resumed.finish()
    assert [record.status for record in read(filled)[0]] == ["finished"] * (N_FINISHED + 1)
    assert_as_plain(filled)


def test_a_finished_run_that_is_begun_again_is_read_anew(filled: Store) -> None:
    records, _ = read(filled)
    filled.client.update_run(records[0].run_id, status="RUNNING")
    assert_as_plain(filled)
    filled.client.log_metric(records[0].run_id, "val_auroc", 0.125, step=50)
    filled.client.set_terminated(records[0].run_id, "FINISHED")
    assert_as_plain(filled)


def test_of_several_runs_of_one_trial_one_counts(filled: Store) -> None:
    read(filled)
    run = filled.client.get_run(read(filled)[0][-1].run_id)
    twin = filled.client.create_run(filled.experiment_id, tags=run.data.tags)
    filled.client.set_terminated(twin.info.run_id, "FINISHED")
    found, _ = read(filled)
    assert [record.run_id for record in found if record.spec.seed == 20] == [twin.info.run_id]
    assert read(filled)[0] == found


def test_a_damaged_spec_is_told_until_it_is_mended(filled: Store) -> None:
    run_id = plain(filled, "s")[0][1].run_id
    spec = filled.client.get_run(run_id).data.tags["spec"]
    filled.client.set_tag(run_id, "spec", spec[:-1])
    for _ in range(2):
        reader = RecordReader(filled)
        assert [record.spec.seed for record in reader.trials("s")] == [0, 2, 3, 20]
        (notice,) = reader.notices
        assert f"run {run_id}: its tag 'spec' is not the spec of a trial" in notice
    filled.client.set_tag(run_id, "spec", spec)
    assert_as_plain(filled)


@pytest.mark.parametrize("seed", ["-1", "007", "2147483648"])
def test_a_seed_that_is_none_is_told_though_its_neighbours_are_whole(filled: Store, seed: str) -> None:
    run = filled.client.get_run(plain(filled, "s")[0][1].run_id)
    head = run.data.tags["spec"].rpartition(": ")[0]
    filled.client.set_tag(run.info.run_id, "spec", f"{head}: {seed}}}")
    reader = RecordReader(filled)
    assert len(reader.trials("s")) == N_FINISHED
    assert "is not the spec of a trial" in reader.notices[0]


def test_a_spec_that_fits_no_tag_is_read_once(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = plain(filled, "s")[0][1].run_id
    filled.client.log_text(run_id, filled.client.get_run(run_id).data.tags["spec"], "spec.json")
    filled.client.delete_tag(run_id, "spec")
    expected = read(filled)[0]
    assert [record.spec for record in expected] == [record.spec for record in plain(filled, "s")[0]]
    monkeypatch.setattr(Store, "artifact", None)
    assert read(filled)[0] == expected


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "other format"])
def test_a_damaged_archive_is_ignored_and_written_anew(filled: Store, damage: str) -> None:
    read(filled)
    file = local_file(filled)
    content = file.read_bytes()
    middle = len(content) // 3
    damaged = {
        "truncated": content[:-100],
        "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "text": b"no archive",
    }
    if damage == "other format":
        write_other_format(file)
    else:
        file.write_bytes(damaged[damage])
    broken = file.read_bytes()
    assert_as_plain(filled)
    assert file.read_bytes() != broken


def write_other_format(file: Path) -> None:
    import zipfile

    with zipfile.ZipFile(file) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    parts["runs.json"] = parts["runs.json"].replace(b'"format": 1', b'"format": 9', 1)
    with zipfile.ZipFile(file, "w") as new:
        for name, part in parts.items():
            new.writestr(name, part)


def test_a_cache_that_cannot_be_written_is_told_and_stops_nothing(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "file"))
    reader = RecordReader(filled)
    assert reader.trials("s") == plain(filled, "s")[0]
    assert "cannot write the cache file" in reader.notices[0]
    assert reader.notices[0].endswith("until then all trials are read from MLflow each time")


def test_another_machine_begins_with_what_the_study_shares(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RecordReader(filled).share("s")
    add_trial(filled, 40).finish()
    for study in ("s", None):
        monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / f"machine of {study}"))
        with monkeypatch.context() as patch:
            numbers = count_searched(filled, patch)
            found = read(filled, study)[0]
        n_new = {"s": 2, None: 3}[study]
        assert sum(numbers) == n_new < len(found), "the others came with the archive"
        assert_as_plain(filled, study)


def test_shared_trials_are_replaced_by_newer_ones_and_damaged_ones_ignored(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = RecordReader(filled)
    reader.share("s")
    (study_run,) = filled.search("study", "s")
    artifacts = filled.artifacts(study_run)
    first = artifacts.paths("records")
    reader.share("s")
    assert artifacts.paths("records") == first, "nothing new is not stored again"
    add_trial(filled, 40).finish()
    reader.share("s")
    (second,) = artifacts.paths("records")
    assert [second] != first
    file = Path(study_run.info.artifact_uri.removeprefix("file://")) / second
    file.write_bytes(file.read_bytes()[:-9])
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "other machine"))
    assert_as_plain(filled)


def test_artifacts_that_cannot_be_reached_stop_no_reading(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise MlflowException("the artifact store is away")

    monkeypatch.setattr(Store, "artifacts", unreachable)
    assert_as_plain(filled)


def test_an_older_server_that_does_not_answer_for_many_runs_is_asked_for_each(
    served: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def absent(_: object, endpoint: str, *__: object, **___: object) -> SimpleNamespace:
        calls.append(endpoint)
        return SimpleNamespace(status_code=404, content=b"Not Found")

    monkeypatch.setattr("trainables.record.histories.http_request", absent)
    assert_as_plain(served)
    assert calls


def test_a_page_for_people_is_no_answer(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    page = SimpleNamespace(status_code=200, content=b"<html>sign in</html>")
    monkeypatch.setattr("trainables.record.histories.http_request", lambda *_, **__: page)
    assert_as_plain(served)


def test_no_point_is_lost_where_a_server_cuts_its_answer(
    served: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.record import histories

    n_points, ask = 4, histories.http_request

    def cut(*arguments: object, **keywords: object) -> requests.Response:
        parameters = [*keywords.pop("params"), ("max_results", str(n_points))]  # type: ignore[misc]
        return ask(*arguments, params=parameters, **keywords)

    monkeypatch.setattr(histories, "http_request", cut)
    monkeypatch.setattr(histories, "POINTS_A_REQUEST", n_points)
    assert_as_plain(served)


def test_a_store_that_does_not_understand_our_questions_is_read_plainly(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(filled)
    search = type(filled.client).search_runs

    def older(self: object, ids: object, query: str, **keywords: object) -> object:
        if "run_id" in query:
            raise MlflowException("Invalid attribute key 'run_id'", INVALID_PARAMETER_VALUE)
        return search(self, ids, query, **keywords)

    monkeypatch.setattr(type(filled.client), "search_runs", older)
    assert_as_plain(filled)


def test_a_store_whose_pages_cannot_begin_in_the_middle_is_read_anew(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(filled)
    search = type(filled.client).search_runs

    def from_the_start(*arguments: object, **keywords: object) -> object:
        if keywords["max_results"] == 1:
            keywords["page_token"] = None
        return search(*arguments, **keywords)

    monkeypatch.setattr(type(filled.client), "search_runs", from_the_start)
    filled.client.delete_run(plain(filled, "s")[0][0].run_id)
    assert_as_plain(filled)


def test_more_runs_than_fit_a_filter_are_asked_for_in_parts(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.record.library.RUNS_A_FILTER", 3)
    monkeypatch.setattr("trainables.record.library.RUNS_A_DOUBT", 2)
    read(filled)
    add_trial(filled, 40).finish()
    assert_as_plain(filled)
    filled.client.delete_run(read(filled)[0][3].run_id)
    assert_as_plain(filled)


def test_a_store_that_cannot_be_used_is_an_error_and_not_an_empty_study(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(filled)

    def away(*_: object, **__: object) -> None:
        raise MlflowException("503 Service Unavailable")

    monkeypatch.setattr("trainables.record.store.RETRY_AFTER_S", ())
    monkeypatch.setattr(type(filled.client), "search_runs", away)
    with pytest.raises(TrackingError, match="searching MLflow failed: 503"):
        RecordReader(filled).trials("s")


def test_histories_come_in_the_order_they_are_asked_for(filled: Store) -> None:
    reader = RecordReader(filled)
    records = reader.trials("s")[::-1]
    table = reader.histories(records, ("val_loss", "val_auroc"))
    assert table["trial_id"].drop_duplicates().tolist() == [record.trial_id for record in records]
    assert table["metric"][table["trial_id"] == trial_id(tiny_trial(seed=1))].tolist() == [
        *["val_loss"] * 2,
        *["val_auroc"] * 3,
    ]
    for nothing in (reader.histories([], METRICS), reader.histories(records, [])):
        assert nothing.empty
        assert list(nothing) == ["trial_id", "metric", "step", "value"]


def test_a_trial_is_found_by_the_names_people_have_for_it(filled: Store) -> None:
    reader = RecordReader(filled)
    record = reader.trials("s")[2]
    for name in (record.run_id, record.trial_id, record.spec.label):
        assert reader.find(name) == record
    with pytest.raises(TrackingError, match=r"no trial 'cbr_tiny · random · digits 5–6 · sed 2' in sqlite.*"
                       r"did you mean '.* seed 2'"):  # fmt: skip
        reader.find(record.spec.label.replace("seed", "sed"))
    filled.client.set_tag(reader.trials("s")[3].run_id, "mlflow.runName", record.spec.label)
    with pytest.raises(TrackingError, match=r"is the name of 2 trials; give one of their run ids: \w+, \w+"):
        reader.find(record.spec.label)
