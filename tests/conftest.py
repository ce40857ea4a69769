"""What several test files need: an empty MLflow store in no time, and specs of tiny trials."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainables.record import Store, open_store
from trainables.resolution import resolve
from trainables.spec import TrialSpec, parse_trial

# Ray's workers would starve beside the tests of the other cores: it gives them the lowest priority but four.
os.environ.setdefault("RAY_worker_niceness", "0")

# Files that take longest, the longest first: begun last, they would be what one core waits for.
LONG_FILES = (
    "test_study_run.py",
    "test_chaos.py",
    "test_architectures.py",
    "test_cli.py",
    "test_report.py",
    "test_outbox.py",
    "test_report_in_browser.py",
    "test_doctor_records.py",
    "test_training.py",
    "test_reading.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files."""
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's schema: making one takes seconds, copying it nothing."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    open_store(f"sqlite:///{file}").client.search_experiments()
    return file


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A fresh tracking store below `tmp_path`, which is also the working folder and the default store."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("TRANSFUSION_EXPERIMENT", "test")
    return open_store(uri)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_trial(**changes: object) -> TrialSpec:
    """A resolved trial that trains in a second."""
    content: dict[str, object] = {
        "architecture": "cbr_tiny",
        "dataset": {"reader": "digits", "classes": ["5", "6"], "size_px": 16},
        "training": {"steps": 12, "batch_size": 16, "evaluation": {"points": 4}},
    }
    return resolve(parse_trial({**content, **changes}))
