"""Many small trainings on one machine: one at a time, in processes side by side, and stacked.

    python benchmarks/packing.py             # under eight minutes

Images per second of all trainings together, for 1, 4, 8, 16 and 32 CBR-Tiny that differ in their seed:

one       one after the other in one process (their rate is that of a single one)
processes each in a process of its own at the same time, as with `gpu: 0.25`; on a processor as many as cores
stacked   `trainables.stack.Stack`: one forward and backward pass for all

On a processor also: trainings with a thread each, as many as cores, against the sum of as many alone.

Every side trains on the same images of noise with flips and shifts, batches of 32 at 64 px. Each is warmed
up; what is printed is the median of three turns and the ratio to `one`.

It imports torch, torchvision, timm, numpy and pydantic, and no other package of the project's.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, Split
from trainables.seeding import seeded
from trainables.spec import parse_trial
from trainables.stack import Stack
from trainables.training import Training

SIZES = (1, 4, 8, 16, 32)
SIZE_PX, BATCH, N_IMAGES = 64, 32, 2048
ROUNDS, SECONDS = 3, 4.0
MANY_STEPS = 10**9
SPEC: dict[str, Any] = {
    "architecture": "cbr_tiny",
    "dataset": {"reader": "digits"},
    "training": {
        "steps": MANY_STEPS,
        "batch_size": BATCH,
        "optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.9},
        "augment": {"horizontal_flip": True, "shift_px": 4},
    },
}


def noise() -> Dataset:
    """Return images of noise of two classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (N_IMAGES, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
    ids = np.arange(N_IMAGES).astype(str)
    split = Split(pixels, np.arange(N_IMAGES) % 2, ids, ids)
    return Dataset(("0", "1"), "multiclass", split, split, split, "0" * 64, (0.5,) * 3, (0.3,) * 3)


def training(data: Dataset, seed: int, device: torch.device) -> Training:
    """Return a training as a trial runs it."""
    with seeded(seed, "weights"):
        network = build_network("cbr_tiny", n_outputs=2, channels=3)
    network.module.to(device)
    return Training(network, data, parse_trial(SPEC).training, seed=seed, device=device)


def seen_in(seconds: float, one: Training) -> int:
    """Train for a while and return the images seen."""
    deadline, first = time.perf_counter() + seconds, one.step
    one.train_until(MANY_STEPS, pause=lambda: time.perf_counter() > deadline)
    return (one.step - first) * one.batch_size


def seen_stacked(seconds: float, stack: Stack) -> int:
    """Do the same with a stack, which looks at its losses as often."""
    deadline, first = time.perf_counter() + seconds, stack.members[0].step
    while time.perf_counter() < deadline:
        stack.take_step()
        if stack.members[0].are_losses_due:
            for member in stack.members:
                member.read_losses()
    for member in stack.members:
        member.read_losses()
    return (stack.members[0].step - first) * stack.members[0].batch_size * len(stack.members)


def serve(pipe: Connection, seed: int, threads: int) -> None:
    """Train when told for how long, in a process of its own."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    one = training(noise(), seed, device)
    seen_in(1.0, one)
    pipe.send(0)
    while (seconds := pipe.recv()) is not None:
        pipe.send(seen_in(seconds, one))


@contextmanager
def processes(n: int, threads: int) -> Iterator[Callable[[float], int]]:
    """Start processes; what is yielded lets all train for some seconds, and returns the images they saw."""
    context = multiprocessing.get_context("spawn")
    pipes, started = [], []
    for seed in range(n):
        mine, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, seed, threads), daemon=True)
        process.start()
        pipes.append(mine)
        started.append(process)
    for pipe in pipes:
        pipe.recv()

    def run(seconds: float) -> int:
        for pipe in pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in pipes)

    yield run
    for pipe in pipes:
        pipe.send(None)
    for process in started:
        process.join()


def rate(run: Callable[[float], int], device: torch.device) -> float:
    """Return images per second: the median of some turns, after one that warms up."""
    rates = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        n_images = run(SECONDS)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(n_images / (time.perf_counter() - began))
    return median(rates[1:])


def print_core_by_core(cores: int, device: torch.device) -> None:
    """Print what trainings with a core each do together, by the sum of what each does alone."""
    with processes(1, 1) as run:
        alone = rate(run, device)
    with processes(cores, 1) as run:
        together = rate(run, device)
    print(
        f"one thread each: one alone {alone:.1f}, {cores} at once {together:.1f} "
        f"({together / (cores * alone):.2f} of the sum)"
    )


def main() -> None:
    """Measure every number of trainings and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="Write the figures there, too.")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cores = os.cpu_count() or 1
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{cores} cores"
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}; images/s of all together")
    data = noise()
    alone = training(data, 0, device)
    one = rate(lambda seconds: seen_in(seconds, alone), device)
    rows = []
    for n in SIZES:
        stack = Stack([training(data, seed, device) for seed in range(n)])
        stacked = rate(lambda seconds, stack=stack: seen_stacked(seconds, stack), device)  # type: ignore[misc]
        at_once = n if device.type == "cuda" else min(n, cores)
        with processes(at_once, max(1, cores // at_once)) as run:
            side_by_side = rate(run, device)
        rows.append(
            {"n": n, "one": one, "processes": side_by_side, "n_processes": at_once, "stacked": stacked}
        )
        print(
            f"{n:>3} trainings: one at a time {one:9.1f}   {at_once} processes {side_by_side:9.1f} "
            f"({side_by_side / one:.2f})   stacked {stacked:9.1f} ({stacked / one:.2f})",
            flush=True,
        )
    if device.type == "cpu":
        print_core_by_core(cores, device)
    if options.json is not None:
        options.json.write_text(json.dumps({"device": name, "rows": rows}))


if __name__ == "__main__":
    main()
