"""A password is nowhere but in the environment: not in MLflow, reports, terminals or Ray's logs."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import tiny_trial
from trainables.record import Store
from trainables.spec import RunOptions
from trainables.trial import run_trial

ROOT = Path(__file__).parent.parent
CANARY = "c4n4ry-d0-n0t-l34k"
SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "user",
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-password",
    "AWS_ACCESS_KEY_ID": "AKIA0",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
    "HF_TOKEN": f"{CANARY}-hugging-face",
    "HUGGING_FACE_HUB_TOKEN": f"{CANARY}-hub",
}
STUDY = """
name: guarded
trial:
  architecture: cbr_tiny
  dataset: {from: digits_5_9, size_px: 16, classes: ["5", "6"]}
  training: {steps: 4, batch_size: 16, evaluation: {points: 2}}
grid:
  training.optimizer.lr: [0.02, 1.0e+30]
"""
TRIAL = """
architecture: cbr_tiny
dataset: {from: digits_5_9, size_px: 16, classes: ["7", "8"]}
training: {steps: 4, batch_size: 16, evaluation: {points: 2}}
"""


@dataclass(frozen=True)
class Place:
    """A server that is asked with a password, and the folders of all that is written."""

    folder: Path
    ray: Path
    uri: str

    def transfusion(self, *arguments: str, timeout_s: float = 300) -> tuple[int, str]:
        """Run a command line here; return its exit code and all it printed."""
        environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-m", "study", *arguments],
            cwd=self.folder,
            env={
                **environment,
                **SECRETS,
                "PYTHONPATH": str(ROOT),
                "MLFLOW_TRACKING_URI": self.uri,
                "TRANSFUSION_CACHE": str(self.folder / "cache"),
                "RAY_TMPDIR": str(self.ray),
                "TMPDIR": str(self.ray),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    ray = Path(tempfile.mkdtemp(prefix="tf"))  # Ray's sockets need a short path
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
    ]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield Place(folder, ray, f"http://user:{CANARY}-uri@127.0.0.1:{port}")
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)
        shutil.rmtree(ray, ignore_errors=True)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def holding(folder: Path, text: str) -> list[str]:
    """Return the files below a folder, and the names of files, that hold a text."""
    found = []
    for path in folder.rglob("*"):
        if text in path.name:
            found.append(f"{path} (its name)")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes():
            found.append(str(path))
    return found


@pytest.mark.programs
def test_no_secret_is_written_anywhere(place: Place) -> None:
    """One study with a trial that fails, its status and analysis, and a trial without Ray."""
    (place.folder / "guarded.yaml").write_text(STUDY)
    (place.folder / "trial.yaml").write_text(TRIAL)
    printed = {}
    for arguments, expected in (
        (("run", "guarded.yaml"), 3),
        (("status", "guarded"), 0),
        (("analyze", "guarded", "--only", "tables", "--only", "report"), 0),
        (("trial", "trial.yaml", "--threads", "1"), 0),
    ):
        code, output = place.transfusion(*arguments)
        assert code == expected, output
        printed[arguments[0]] = output
    assert "1 failed" in printed["status"], printed["status"]
    assert (place.folder / "mlflow.db").stat().st_size > 100_000
    assert list((place.folder / "artifacts").rglob("*.safetensors"))
    assert list(place.folder.rglob("report.html"))
    assert list(place.ray.rglob("*.log")), "Ray has logged elsewhere, so nothing was looked through"
    assert not [name for name, output in printed.items() if CANARY in output]
    assert not holding(place.folder, CANARY)
    assert not holding(place.ray, CANARY)


def test_a_traceback_that_quotes_a_secret_is_stored_without_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in SECRETS.items():
        monkeypatch.setenv(name, text)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(
            f"no answer of http://user:{CANARY}-uri@host with {SECRETS['AWS_SECRET_ACCESS_KEY']}"
        )

    monkeypatch.setattr("trainables.gradient_trial.GradientTrial.prepare", fail)
    options = RunOptions(threads=1, device="cpu")
    *_, last = run_trial(tiny_trial(), store=store, options=options, data_root=None)
    assert last.status == "failed"
    store.client._tracking_client.store.engine.dispose()
    assert list(tmp_path.rglob("traceback.txt"))
    assert not holding(tmp_path, CANARY)
    assert CANARY not in str(last)
