"""The cluster files: valid for Ray, marked where they must be changed, closed to the world."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "configs" / "clusters").glob("*.yaml"))]
COMMANDS = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray")
every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@every_file
def test_ray_accepts_every_cluster_file(file: Path) -> None:
    validate_config(prepare_config(read(file)))


@every_file
def test_the_shell_can_parse_every_command(file: Path) -> None:
    for command in commands(prepare_config(read(file))):
        parsed = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert parsed.returncode == 0, f"{command}: {parsed.stderr}"


@every_file
def test_ray_adds_no_commands_of_its_own(file: Path) -> None:
    """Its defaults install, for example, a google-api-python-client of 2019."""
    assert set(commands(prepare_config(read(file)))) == set(commands(read(file)))


@every_file
def test_what_a_user_must_change_is_marked(file: Path) -> None:
    """Values that cannot be right for anybody: machine images, addresses, projects, accounts."""
    personal = (
        "ImageId:",
        "sourceImage: projects/deeplearning",
        "_ip:",
        "_ips: [1",
        "project_id:",
        "region:",
    )
    for line in file.read_text().splitlines():
        if any(word in line for word in personal):
            assert "CHANGE" in line, line
    assert file.read_text().count("CHANGE") >= 4


@every_file
def test_every_file_says_how_it_is_used(file: Path) -> None:
    header = file.read_text().split("cluster_name:")[0]
    for command in ("up", "exec", "exec --tmux", "attach --tmux", "submit", "down"):
        assert f"ray {command} {file.relative_to(ROOT)}" in header, command
    assert "State of this file:" in header
    assert "-p 5000" in header


@every_file
def test_the_folders_a_node_gets_are_all_that_the_package_needs(file: Path) -> None:
    mounted = {
        local for remote, local in read(file)["file_mounts"].items() if remote.startswith("~/transfusion/")
    }
    metadata = (ROOT / "pyproject.toml").read_text()
    packages = re.findall(r'"(\w+)\*"', re.search(r"include = \[(.*)\]", metadata)[1])  # type: ignore[index]
    assert mounted == {*packages, "configs", "pyproject.toml", "README.md", "LICENSE"}
    for local in mounted:
        assert (ROOT / local).exists()


@every_file
def test_records_are_kept_by_a_server_that_answers_the_head_alone_on_the_web(file: Path) -> None:
    [serve] = [command for command in read(file)["head_start_ray_commands"] if "node.sh mlflow" in command]
    _, address, store, artifacts = (
        serve.split("node.sh ")[1].replace("$(hostname -I | cut -d' ' -f1)", "IP").split()
    )
    assert address == ("127.0.0.1" if file.stem == "single_node" else "IP")
    assert store == "sqlite:///$HOME/mlflow/mlflow.db"
    assert artifacts == "$HOME/mlflow/artifacts"
    assert "--dashboard-host" not in file.read_text()
    assert "security_group" not in file.read_text() or "IpPermissions" not in file.read_text()


@every_file
def test_ray_says_whether_it_wants_a_token(file: Path) -> None:
    config = read(file)
    [login] = [command for command in config["setup_commands"] if " login " in command]
    wants_token = "RAY_AUTH_MODE=token" in login
    assert wants_token or "RAY_AUTH_MODE=disabled" in login
    assert wants_token == ("~/.ray/auth_token" in config["file_mounts"])


def test_a_network_without_a_firewall_of_its_own_gets_a_token() -> None:
    """Cloud nodes have a firewall, a Ray on loopback is out of reach; other networks are open."""
    assert "~/.ray/auth_token" in read(ROOT / "configs/clusters/onprem.yaml")["file_mounts"]
    starts = read(ROOT / "configs/clusters/single_node.yaml")["head_start_ray_commands"]
    assert "--node-ip-address=127.0.0.1" in starts[-1]
    assert "mlflow 127.0.0.1 " in starts[1]


@pytest.mark.parametrize("name", ["onprem", "single_node"])
def test_a_local_cluster_is_kept_from_autoscaler_v2(name: str) -> None:
    [start] = [
        c for c in read(ROOT / f"configs/clusters/{name}.yaml")["head_start_ray_commands"] if "--head" in c
    ]
    # `ray up` puts exports before every command; the last word is the file's own.
    printed = shell(f"export RAY_enable_autoscaler_v2=1; {start.replace('ray start', 'env #')}")
    assert "RAY_enable_autoscaler_v2=0\n" in printed


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def commands(config: dict[str, Any]) -> list[str]:
    return [command for kind in COMMANDS for command in config.get(f"{kind}_commands") or []]


def shell(command: str, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
