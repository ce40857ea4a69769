"""Where the time of a training step goes, what compiling gains, and what the same bits every time cost.

    python benchmarks/step.py                # four minutes; two of them compile

A step is the whole of it: the batch is chosen, changed and normalized, sent forward and backward, and the
optimizer steps, as in a trial (`trainables.training.Training`), on packed images of noise. Printed are images
per second, plain, compiled (`resources.compile`) and by deterministic kernels (`resources.deterministic`) by
turns (medians of three, their ratios to plain, the seconds that compiling took), and of the plain step the
largest shares of the operators' own time by torch's profiler; on a GPU of its kernels', and the share of the
step in which it computes nothing: it waits for the next to be launched.

It imports torch, torchvision, timm, numpy and pydantic, and no other package of the project's.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, Split
from trainables.determinism import set_determinism
from trainables.spec import parse_trial
from trainables.training import Training

ON_PROCESSOR = (("cbr_tiny", 64, 8), ("cbr_tiny", 64, 32), ("cbr_large_t", 64, 32), ("resnet50", 224, 8))
ON_GPU = (*ON_PROCESSOR[:3], ("resnet50", 224, 64))
N_IMAGES, ROUNDS, SECONDS = 256, 3, 4.0
WARM_UP_STEPS, PROFILED_STEPS, MANY_STEPS = 5, 10, 10**9
LISTED = 5
PRECISIONS = ("float32", "tf32", "bfloat16")


def noise(size_px: int) -> Dataset:
    """Return images of noise of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 3, size_px, size_px), dtype=np.uint8)
    ids = np.arange(N_IMAGES).astype(str)
    split = Split(pixels, np.arange(N_IMAGES) % 2, ids, ids)
    return Dataset(("0", "1"), "multiclass", split, split, split, "0" * 64, (0.5,) * 3, (0.3,) * 3)


def training(
    name: str, size_px: int, batch: int, *, precision: str, device: torch.device, is_compiled: bool = False
) -> Training:
    """Return a training as a trial runs it."""
    content: dict[str, Any] = {
        "architecture": name,
        "dataset": {"reader": "digits"},
        "training": {
            "steps": MANY_STEPS,
            "batch_size": batch,
            "optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.9},
            "augment": {"horizontal_flip": True, "shift_px": 4},
            "precision": precision,
        },
    }
    network = build_network(name, n_outputs=2, channels=3)
    network.module.to(device)
    spec = parse_trial(content).training
    return Training(network, noise(size_px), spec, seed=0, device=device, is_compiled=is_compiled)


def rate(one: Training) -> float:
    """Return images per second."""
    began, first = time.perf_counter(), one.step
    # At its end the losses are read, which waits for the device.
    one.train_until(MANY_STEPS, pause=lambda: time.perf_counter() > began + SECONDS)
    return (one.step - first) * one.batch_size / (time.perf_counter() - began)


def deterministic_rate(one: Training) -> float:
    """Return images per second where only kernels are used that give the same bits every time."""
    set_determinism(True)
    try:
        return rate(one)
    finally:
        set_determinism(False)


def own_times(one: Training) -> Iterator[tuple[str, float]]:
    """Yield operators, on a GPU kernels, and the milliseconds each takes itself of a step, longest first."""
    is_gpu = one.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities) as found:
        one.train_until(one.step + PROFILED_STEPS)
    where = DeviceType.CUDA if is_gpu else DeviceType.CPU
    # The time of a kernel stands with it and with the operator that launched it.
    events = [e for e in found.key_averages() if e.device_type == where and not e.is_user_annotation]
    times = [(e.key, e.self_device_time_total if is_gpu else e.self_cpu_time_total) for e in events]
    for name, microseconds in sorted(times, key=lambda item: -item[1]):
        yield name, microseconds / 1000 / PROFILED_STEPS


def print_case(name: str, size_px: int, batch: int, *, precision: str, device: torch.device) -> None:
    """Measure and profile one network."""
    plain, compiled = (
        training(name, size_px, batch, precision=precision, device=device, is_compiled=is_it)
        for is_it in (False, True)
    )
    for one in (plain, compiled):
        one.train_until(WARM_UP_STEPS)
    turns = [(rate(plain), rate(compiled), deterministic_rate(plain)) for _ in range(ROUNDS)]
    of_plain, of_compiled, of_deterministic = (median(rates) for rates in zip(*turns, strict=True))
    step_ms = batch / of_plain * 1000
    print(
        f"\n{name}, {size_px} px, batch {batch}: {of_plain:.1f} images/s ({step_ms:.1f} ms a step), compiled "
        f"{of_compiled:.1f} ({of_compiled / of_plain:.2f}) after {compiled.compiling_seconds:.0f} s, "
        f"deterministic {of_deterministic:.1f} ({of_deterministic / of_plain:.2f})"
        f"{''.join(f'; {notice}' for notice in compiled.notices)}"
    )
    found = list(own_times(plain))
    busy = sum(ms for _, ms in found)
    if device.type == "cuda":
        print(f"  {max(0.0, 1 - busy / step_ms):6.1%}  the GPU computes nothing")
    for operator, ms in found[:LISTED]:
        print(f"  {ms / busy:6.1%}  {ms:8.3f} ms  {operator[:90]}", flush=True)


def main() -> None:
    """Print what each network takes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    precision = parser.parse_args().precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"{name}, {precision}, torch {torch.__version__}, Python {platform.python_version()}")
    for network, size_px, batch in ON_GPU if device.type == "cuda" else ON_PROCESSOR:
        print_case(network, size_px, batch, precision=precision, device=device)


if __name__ == "__main__":
    main()
