"""Where and with what a trial ran: package versions, the code's commit, host and device."""

import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.hardware import cpu_model
from trainables.record import names

if TYPE_CHECKING:
    import torch

PACKAGES = ("transfusion-study", "torch", "torchvision", "timm", "ray", "mlflow", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Environment:
    """What is kept of a trial's surroundings.

    Attributes:
        tags: the facts people filter by.
        details: everything, for the artifact.
    """

    tags: dict[str, str]
    details: dict[str, Any]


@lru_cache(maxsize=4)
def describe_environment(device: "torch.device") -> Environment:
    """Describe this process; asked once per process and device, since it starts git."""
    gpu = _gpu(device) if device.type == "cuda" else {}
    commit, is_dirty = _git_state(Path(__file__).parent)
    tags = {names.HOST: socket.gethostname(), names.DEVICE: "cpu", names.CPU_MODEL: cpu_model(), **gpu}
    if commit:
        tags |= {names.GIT_COMMIT: commit, names.GIT_DIRTY: str(is_dirty).lower()}
    details = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": tags[names.DEVICE],
        "git_commit": commit,
        "git_dirty": is_dirty,
        "packages": {package: found for package in PACKAGES if (found := _version(package))},
    }
    return Environment(tags, details)


def _gpu(device: "torch.device") -> dict[str, str]:
    import torch

    found = torch.cuda.get_device_properties(device)
    return {names.DEVICE: found.name, names.GPU_MEMORY_GB: f"{found.total_memory / 1e9:.2f}"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit and whether files differ from it; (None, None) outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
