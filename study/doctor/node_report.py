"""What one machine tells of itself. Runs on the nodes, where Ray imports it by name."""

import hashlib
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from study.doctor.round_trip import writes_artifact
from study.doctor.server_clock import server_skew_s
from study.reach import reaches_store
from trainables.datasets.cache import cache_folder
from trainables.datasets.loading import load_dataset
from trainables.errors import UserError
from trainables.spec import DatasetSpec

PACKAGES = ("ray", "torch", "torchvision", "mlflow", "transfusion-study")
FIRST_PARTY = ("analysis", "study", "trainables")
DATA = "TRANSFUSION_DATA"
# Ray hides the GPUs from what asked for none.
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Order:
    """What a machine needs to know to report.

    Attributes:
        tracking_uri, experiment: of the store that trials will write to.
        store_host: the machine whose file the store is; None if it is a server.
    """

    tracking_uri: str
    experiment: str
    store_host: str | None


@dataclass(frozen=True)
class Place:
    """A folder that files are written to or read from."""

    path: str
    free_bytes: int


@dataclass(frozen=True)
class NodeReport:
    """One machine.

    Attributes:
        versions: of Python and of packages; `absent` if not installed.
        code: digest of the files of this program.
        n_cpus: cores that this process may use.
        gpus: names of those that torch sees.
        places: `temp`, `cache` and `data`, as far as they are set.
        data_root: TRANSFUSION_DATA; None if not set.
        is_data_there: it is a folder.
        store_problem: why trials here cannot write to MLflow; None if they can.
        server_skew_s: how far this clock is ahead of MLflow's server; None if there is none to ask.
    """

    host: str
    versions: Mapping[str, str]
    code: str
    n_cpus: int
    gpus: tuple[str, ...]
    places: Mapping[str, Place]
    data_root: str | None
    is_data_there: bool
    store_problem: str | None
    server_skew_s: float | None


@dataclass(frozen=True)
class DatasetAnswer:
    """A dataset on one machine: its digest, or why it cannot be loaded."""

    digest: str | None
    problem: str | None


def report(order: Order) -> NodeReport:
    """Look at this machine, and write a small artifact to MLflow."""
    root = os.environ.get(DATA)
    folders = {"temp": Path(tempfile.gettempdir()), "cache": cache_folder()}
    if root and Path(root).is_dir():
        folders["data"] = Path(root)
    return NodeReport(
        host=socket.gethostname(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        code=code_digest(),
        n_cpus=len(os.sched_getaffinity(0)),
        gpus=_gpus(),
        places={name: Place(str(folder), _free_bytes(folder)) for name, folder in folders.items()},
        data_root=root,
        is_data_there=bool(root) and Path(str(root)).is_dir(),
        store_problem=_store_problem(order),
        server_skew_s=server_skew_s(order.tracking_uri),
    )


def clock_s() -> float:
    """Return the seconds since 1970 by the clock of this machine."""
    return time.time()


def dataset_digest(spec: DatasetSpec) -> DatasetAnswer:
    """Load a dataset here; that may take minutes, and prepares it for the trials to come."""
    root = os.environ.get(DATA)
    try:
        return DatasetAnswer(load_dataset(spec, data_root=Path(root) if root else None).digest, None)
    except UserError as error:
        return DatasetAnswer(None, str(error))


def code_digest() -> str:
    """Return the SHA-256, in hex, of the names and contents of the Python files of this program."""
    digest = hashlib.sha256()
    for package in FIRST_PARTY:
        found = find_spec(package)
        for folder in sorted(found.submodule_search_locations or []) if found else []:
            for file in sorted(Path(folder).rglob("*.py")):
                name = f"{package}/{file.relative_to(folder).as_posix()}"
                digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _gpus() -> tuple[str, ...]:
    import torch

    with _all_gpus_visible():
        return tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


@contextmanager
def _all_gpus_visible() -> Iterator[None]:
    hidden = os.environ.get(VISIBLE_GPUS)
    if hidden not in ("", "-1"):
        yield
        return
    del os.environ[VISIBLE_GPUS]
    try:
        yield
    finally:
        os.environ[VISIBLE_GPUS] = hidden


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _store_problem(order: Order) -> str | None:
    if order.store_host not in (None, socket.gethostname()):
        return f"the store is a file on {order.store_host}, which is not seen from here"
    unreached = reaches_store(order.tracking_uri, order.experiment)
    return unreached or writes_artifact(order.tracking_uri, order.experiment)
