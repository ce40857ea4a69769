"""On which of the machines that anything was measured on a trial will run."""

import os

from study.cost.speed import Measurements, Place, place_of
from study.grid import Resources
from trainables.hardware import cpu_model, gpu_names


def expected_place(measured: Measurements, resources: Resources) -> Place | None:
    """Return where trials will run: on what is here, else on what was measured last; None if nothing was."""
    is_gpu = resources.gpu > 0
    hardware = _hardware(measured, is_gpu=is_gpu)
    if hardware is None:
        return None
    return place_of(hardware, resources, is_gpu=is_gpu)


def _hardware(measured: Measurements, *, is_gpu: bool) -> str | None:
    known = measured.hardware(is_gpu=is_gpu)
    if not os.environ.get("RAY_ADDRESS"):
        here = gpu_names()[:1] if is_gpu else (cpu_model(),)
        if here and (here[0] in known or not is_gpu):
            return here[0]
    return known[-1] if known else None
