"""The processor and the GPUs of this machine, asked without torch, whose import takes seconds."""

import os
import platform
from functools import cache
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")


@cache
def cpu_model() -> str:
    """Return what the processor calls itself."""
    found = _field(Path("/proc/cpuinfo"), "model name")
    return found or platform.processor() or platform.machine() or "unknown"


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use, as torch names them, from NVIDIA's driver."""
    found = (_field(file, "Model") for file in sorted(NVIDIA.glob("*/information")))
    names = [name for name in found if name]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(names)
    wanted = [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    if all(one.isdigit() for one in wanted):
        return tuple(names[int(one)] for one in wanted if int(one) < len(names))
    return tuple(names[: len(wanted)])  # by their UUIDs, which the driver does not show here


def n_cpus() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _field(file: Path, name: str) -> str | None:
    """Return the first value of a file of lines `name : value`."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None
