"""Where the time of a training step goes: one of CBR-Tiny, and one of ResNet-50.

    python benchmarks/profile_step.py        # a minute

A step is the whole of it: the batch is chosen, changed and normalized, sent forward and backward, and the
optimizer steps, as in a trial (`trainables.training.Training`), on packed images of noise. Printed are the
milliseconds of a step, and the largest shares of the operators' own time by torch's profiler; on a GPU also
the share of the step in which it computes nothing, because it waits for the next kernel to be launched.

It imports torch, torchvision, timm, numpy and pydantic, and no other package of the project's.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, Split
from trainables.spec import parse_trial
from trainables.training import Training

WARM_UP_STEPS, STEPS = 5, 10
N_IMAGES = 256
LISTED = 8
PRECISIONS = ("float32", "tf32", "bfloat16")


def noise(size_px: int) -> Dataset:
    """Return images of noise of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 3, size_px, size_px), dtype=np.uint8)
    ids = np.arange(N_IMAGES).astype(str)
    split = Split(pixels, np.arange(N_IMAGES) % 2, ids, ids)
    return Dataset(("0", "1"), "multiclass", split, split, split, "0" * 64, (0.5,) * 3, (0.3,) * 3)


def training(name: str, *, size_px: int, batch: int, precision: str, device: torch.device) -> Training:
    """Return a training as a trial runs it."""
    content: dict[str, Any] = {
        "architecture": name,
        "dataset": {"reader": "digits"},
        "training": {
            "steps": 10**9,
            "batch_size": batch,
            "optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.9},
            "augment": {"horizontal_flip": True, "shift_px": 4},
            "precision": precision,
        },
    }
    network = build_network(name, n_outputs=2, channels=3)
    network.module.to(device)
    return Training(network, noise(size_px), parse_trial(content).training, seed=0, device=device)


def step_ms(one: Training) -> float:
    """Return the milliseconds of a step, nothing watching."""
    began = time.perf_counter()
    one.train_until(one.step + STEPS)  # which reads the losses, and so waits for the device
    return (time.perf_counter() - began) / STEPS * 1000


def shares(one: Training, device: torch.device) -> Iterator[tuple[str, float]]:
    """Yield operators and the milliseconds that each takes itself of a step, the longest first."""
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities) as found:
        one.train_until(one.step + STEPS)

    def own_ms(event: FunctionEventAvg) -> float:
        return (event.self_device_time_total if is_gpu else event.self_cpu_time_total) / STEPS / 1000

    for event in sorted(found.key_averages(), key=own_ms, reverse=True):
        yield event.key, own_ms(event)


def main() -> None:
    """Profile both networks and print where their time goes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}, {options.precision}")
    for network, size_px, batch in (
        ("cbr_tiny", 64, 8),
        ("cbr_tiny", 64, 32),
        ("resnet50", 224, 8 if device.type == "cpu" else 64),
    ):
        one = training(network, size_px=size_px, batch=batch, precision=options.precision, device=device)
        one.train_until(WARM_UP_STEPS)
        whole = step_ms(one)
        found = list(shares(one, device))
        busy = sum(ms for _, ms in found)
        print(f"\n{network}, {size_px} px, batch {batch}: {whole:.2f} ms a step")
        if device.type == "cuda":
            print(f"  {max(0.0, 1 - busy / whole):6.1%}  the GPU computes nothing")
        for operator, ms in found[:LISTED]:
            print(f"  {ms / busy:6.1%}  {ms:8.3f} ms  {operator[:90]}")


if __name__ == "__main__":
    main()
