"""What `resources.compile` gains: the same training steps, compiled by torch and plain.

    python benchmarks/compiling.py           # three minutes; two of them compile

Images per second of whole steps (`trainables.training.Training` on packed images of noise, as a trial runs
it), both sides taking turns; medians of three, their ratio, and the seconds that compiling takes.

It imports torch, torchvision, timm, numpy and pydantic, and no other package of the project's.
"""

import argparse
import os
import platform
import time
from statistics import median
from typing import Any

import numpy as np
import torch

from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, Split
from trainables.spec import parse_trial
from trainables.training import Training

CASES = (("cbr_tiny", 64, 8), ("cbr_tiny", 64, 32), ("cbr_large_t", 64, 32), ("resnet50", 224, 8))
N_IMAGES, ROUNDS, SECONDS, WARM_UP_STEPS = 256, 3, 4.0, 3
MANY_STEPS = 10**9


def noise(size_px: int) -> Dataset:
    """Return images of noise of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 3, size_px, size_px), dtype=np.uint8)
    ids = np.arange(N_IMAGES).astype(str)
    split = Split(pixels, np.arange(N_IMAGES) % 2, ids, ids)
    return Dataset(("0", "1"), "multiclass", split, split, split, "0" * 64, (0.5,) * 3, (0.3,) * 3)


def training(name: str, size_px: int, batch: int, **options: Any) -> Training:
    """Return a training as a trial runs it."""
    content = {
        "architecture": name,
        "dataset": {"reader": "digits"},
        "training": {
            "steps": MANY_STEPS,
            "batch_size": batch,
            "optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.9},
            "augment": {"horizontal_flip": True, "shift_px": 4},
        },
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(name, n_outputs=2, channels=3)
    network.module.to(device)
    spec = parse_trial(content).training
    return Training(network, noise(size_px), spec, seed=0, device=device, **options)


def rate(one: Training) -> float:
    """Return images per second."""
    began, first = time.perf_counter(), one.step
    one.train_until(MANY_STEPS, pause=lambda: time.perf_counter() > began + SECONDS)
    return (one.step - first) * one.batch_size / (time.perf_counter() - began)


def main() -> None:
    """Measure every network and print its row."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}; images/s")
    for network, size_px, batch in CASES:
        plain, compiled = (training(network, size_px, batch, is_compiled=is_it) for is_it in (False, True))
        for one in (plain, compiled):
            one.train_until(WARM_UP_STEPS)
        turns = [(rate(plain), rate(compiled)) for _ in range(ROUNDS)]
        of_plain, of_compiled = (median(rates) for rates in zip(*turns, strict=True))
        print(
            f"{network:<12} {size_px:>3} px, batch {batch:>2}: plain {of_plain:8.1f}   compiled "
            f"{of_compiled:8.1f} ({of_compiled / of_plain:.2f})   after {compiled.compiling_seconds:.0f} s"
            f"{''.join(f'; {notice}' for notice in compiled.notices)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
