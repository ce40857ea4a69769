"""The project's own cluster file, `ray` and `transfusion` on hosts made of namespaces."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TypeVar

import yaml

from tests.hosts.network import VENV, Host, Network
from tests.hosts.records import Record, read_records

ROOT = Path(__file__).parents[2]
ONPREM = ROOT / "configs" / "clusters" / "onprem.yaml"
LAPTOP, HEAD, WORKERS = "10.88.0.9", "10.88.0.10", ("10.88.0.11", "10.88.0.12")

# The only changes to the file: addresses, the user, the key, an installation without a network, and one CPU a
# worker, since all hosts share those of this machine.
SUBSTITUTES = {
    "192.168.1.10 ": f"{HEAD} ",
    "[192.168.1.11, 192.168.1.12]": f"[{', '.join(WORKERS)}]",
    "ssh_user: ubuntu": "ssh_user: root",
    "~/.ssh/id_ed25519": "~/.ssh/id",
    "bash ~/transfusion/configs/clusters/node.sh install psycopg2-binary": f"ln -sfn {VENV} ~/venv",
    "--address=$RAY_HEAD_IP:6379": "--address=$RAY_HEAD_IP:6379 --num-cpus=1 --num-gpus=0",
    "RAY_ADDRESS=auto": "PYTHONPATH=$HOME/transfusion RAY_ADDRESS=auto",
}
FILE = "configs/clusters/onprem.yaml"

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """A laptop, a head and two workers."""

    laptop: Host
    head: Host
    workers: tuple[Host, Host]

    def up(self) -> str:
        """`ray up`, from the laptop."""
        return self.ray(f"up --yes {FILE}")

    def down(self) -> str:
        """`ray down`, from the laptop."""
        return self.ray(f"down --yes {FILE}")

    def execute(self, command: str) -> str:
        """`ray exec` of a command on the head, from the laptop."""
        return self.ray(f"exec {FILE} {quote(command)}")

    def n_nodes(self) -> int:
        """The number of nodes that Ray holds alive, asked by `ray submit` of a script."""
        printed = self.ray(f"submit {FILE} ~/nodes.py")
        return int(printed.split("nodes alive:")[1].split()[0])

    def records(self) -> list[Record]:
        """The MLflow runs of all trials."""
        return read_records(self.head.home / "mlflow" / "mlflow.db")

    def ray(self, words: str) -> str:
        """Run a `ray` command in the laptop's copy of the repository."""
        return self.laptop.run(f"cd ~/transfusion && ray {words}", timeout_s=400)


def make_cluster(hosts: Network) -> Cluster:
    """Boot the hosts, and give the laptop what a person has there: the repository, a key and a token."""
    laptop, head = hosts.add("laptop", LAPTOP), hosts.add("head", HEAD)
    workers = hosts.add("worker1", WORKERS[0]), hosts.add("worker2", WORKERS[1])
    text = ONPREM.read_text()
    for written, meant in SUBSTITUTES.items():
        if written not in text:
            raise LookupError(f"{ONPREM.name} holds no {written!r} to replace")
        text = text.replace(written, meant)
    repository = laptop.home / "transfusion"
    repository.mkdir()
    for remote, local in yaml.safe_load(text)["file_mounts"].items():
        if remote.startswith("~/transfusion/"):
            copy(ROOT / local, repository / local)
    (repository / FILE).write_text(text)
    shutil.copy(Path(__file__).with_name("study.yaml"), repository / "configs")
    shutil.copy(Path(__file__).with_name("nodes.py"), laptop.home)
    laptop.run("ray get-auth-token --generate")
    return Cluster(laptop, head, workers)


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder without what Python left in it."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def wait_for(what: str, ask: Callable[[], T], *, timeout_s: float) -> T:
    """Ask until the answer is true.

    Raises:
        TimeoutError: it never was.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(1)
    raise TimeoutError(f"{what}: not within {timeout_s:g} s")
