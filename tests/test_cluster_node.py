"""What the cluster files do on a node: the script `node.sh`, with stand-ins for the programs it calls."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NODE = Path(__file__).parent.parent / "configs" / "clusters" / "node.sh"
SERVER = """#!/bin/bash
echo "$MLFLOW_BACKEND_STORE_URI $*" >>~/calls
echo a word of the log
"""
ANSWERING = f"""#!{sys.executable}
import http.server, os
from pathlib import Path

(Path.home() / "health").touch()
os.chdir(Path.home())
address = ("127.0.0.1", int(os.environ["MLFLOW_PORT"]))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    if (tmp_path / ".transfusion" / "mlflow.pid").exists():
        node(tmp_path, "stop-mlflow")


def stand_in(home: Path, name: str, script: str) -> None:
    file = home / "venv" / "bin" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script)
    file.chmod(0o755)


def node(home: Path, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{home}/venv/bin:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"bash {NODE} {words}"],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "HOME": str(home), "PATH": path, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("bashrc", [None, "", "case $- in *i*) ;; *) return;; esac\n"])
def test_login_shells_know_the_environment_however_often_it_is_set(home: Path, bashrc: str | None) -> None:
    if bashrc is not None:
        (home / ".bashrc").write_text(bashrc)
    for words in ('login RAY_AUTH_MODE=token TRANSFUSION_DATA="$HOME/my data"', "tracking 10.0.0.1") * 2:
        assert node(home, words).returncode == 0
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    told = subprocess.run(
        ["bash", "--login", "-c", "env"], env=environment, capture_output=True, text=True
    ).stdout
    assert "RAY_AUTH_MODE=token\n" in told
    assert f"TRANSFUSION_DATA={home}/my data\n" in told
    assert (home / "my data").is_dir()
    assert "MLFLOW_TRACKING_URI=http://10.0.0.1:5000\n" in told
    assert re.search(rf"^PATH={home}/venv/bin:", told, re.MULTILINE)
    assert (home / ".bashrc").read_text().count("login.sh") == 1
    assert (home / ".bashrc").read_text().rstrip().endswith((bashrc or "login.sh").rstrip())


def test_an_mlflow_server_that_dies_fails_ray_up_and_says_where_to_look(home: Path) -> None:
    stand_in(home, "mlflow", SERVER)
    done = node(home, "mlflow 10.0.0.1 sqlite:///$HOME/records/mlflow.db artifacts", MLFLOW_PORT=free_port())
    assert done.returncode == 1
    assert "a word of the log" in done.stderr
    assert re.search(r"the MLflow server does not answer on port \d+; the end of \S+mlflow.log", done.stderr)


def test_starting_mlflow_again_replaces_the_server_and_stopping_it_leaves_none(home: Path) -> None:
    stand_in(home, "mlflow", ANSWERING)
    port, processes = free_port(), []
    for _ in range(2):
        done = node(home, "mlflow 10.0.0.1 postgresql://me:secret@db/mlflow s3://bucket", MLFLOW_PORT=port)
        assert done.returncode == 0, done.stderr
        processes.append(int((home / ".transfusion" / "mlflow.pid").read_text()))
    first, second = processes
    assert not is_alive(first)
    assert is_alive(second)
    assert node(home, "stop-mlflow").returncode == node(home, "stop-mlflow").returncode == 0
    assert not is_alive(second)


def test_mlflow_answers_to_the_head_and_to_tunnels_alone_and_its_password_is_no_argument(home: Path) -> None:
    stand_in(home, "mlflow", SERVER)
    port = free_port()
    for address in ("10.0.0.1", "127.0.0.1"):
        node(home, f"mlflow {address} postgresql://me:secret@db/mlflow s3://bucket", MLFLOW_PORT=port)
    on_network, on_loopback = (home / "calls").read_text().splitlines()
    store, _, arguments = on_network.partition(" ")
    assert store == "postgresql://me:secret@db/mlflow"
    assert "secret" not in arguments
    assert f"--allowed-hosts 10.0.0.1:{port},localhost:*,127.0.0.1:*" in arguments
    assert "--host 0.0.0.0 " in arguments
    assert "--artifacts-destination s3://bucket " in arguments
    assert "--host 127.0.0.1 " in on_loopback


def test_a_number_that_is_another_process_by_now_is_left_alone(home: Path) -> None:
    (home / ".transfusion").mkdir()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        (home / ".transfusion" / "mlflow.pid").write_text(str(other.pid))
        assert node(home, "stop-mlflow").returncode == 0
        assert other.poll() is None
        other.kill()


def test_workers_are_installed_at_the_versions_of_the_head(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "transfusion"
    (project / "configs" / "clusters").mkdir(parents=True)
    script = project / "configs" / "clusters" / "node.sh"
    script.write_text(NODE.read_text())
    pip = '#!/bin/sh\necho "$@" >>~/calls\n[ "$1" != freeze ] || echo ray==2.60.0\n'
    stand_in(home, "pip", pip)
    stand_in(home, "python3", "#!/bin/sh\n")
    path = f"{home}/venv/bin:{os.environ['PATH']}"
    for _ in ("the head", "a worker, to which Ray has copied the folder"):
        subprocess.run(
            ["bash", str(script), "install", "boto3"], check=True, env={"HOME": str(home), "PATH": path}
        )
    head, freeze, worker = (home / "calls").read_text().splitlines()
    constraints = script.with_name("constraints.txt")
    assert constraints.read_text() == "ray==2.60.0\n"
    assert head == f"install --quiet --editable {project} boto3"
    assert freeze == "freeze --exclude-editable"
    assert worker == f"install --quiet --constraint {constraints} --editable {project} boto3"


def test_a_python_that_is_too_old_is_refused_with_what_is_needed(home: Path) -> None:
    old = '#!/bin/sh\n[ "$1" != --version ] || echo Python 3.9.2\n[ "$1" = --version ]\n'
    stand_in(home, "python3.9", old)
    done = node(home, "install", PYTHON="python3.9")
    assert done.returncode == 1
    assert "Python 3.9.2 is too old: 3.11 or newer is needed" in done.stderr


def test_an_unknown_command_is_named(home: Path) -> None:
    done = node(home, "instal")
    assert done.returncode == 1
    assert "expected install, login, tracking, mlflow or stop-mlflow, got 'instal'" in done.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state) and not state.startswith("Z")
