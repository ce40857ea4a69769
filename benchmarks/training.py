"""How fast one network is trained: ours against its own ceiling and against the usual loops.

    python benchmarks/training.py            # under eight minutes on two cores; less on a GPU

Images per second of whole training steps (batch, augmentation, forward, backward, update), per network:

ours      `trainables.training.Training` on packed images, as a trial of a study runs it
ceiling   the same step on one batch that lies on the device, without any work for the images
loop      a plain loop: JPEGs through a DataLoader with Pillow and numpy, loss.item() every step
folder    the same loop on torchvision's ImageFolder with its v2 transforms

All sides flip and shift the same JPEGs, which this program draws (an eighth larger than the network's input,
as prepared data are; the loops crop, ours packed them at the input's size and shifts by as much), with SGD
and momentum, in float32 or in what `--precision` says, the loops in what `--loop-precision` says (on a GPU
their float32 multiplies as ours does). Loops use
as many workers as there are cores, at most eight, kept from epoch to epoch. Each side is warmed up, then
measured for a few seconds at a time, the sides taking turns, so that a machine that slows down slows down
all; printed are medians and their ratios.

It imports torch, torchvision, timm, numpy and pydantic, and no other package of the project's.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, Split
from trainables.spec import parse_trial
from trainables.training import Training

N_CLASSES = 2
ROUNDS = 3
MANY_STEPS = 10**9
MOST_WORKERS = 8
PRECISIONS = ("float32", "tf32", "bfloat16")
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Case:
    """A network, its input and its batch.

    Args:
        n_images: JPEGs that are drawn.
        seconds: of one turn of a side.
    """

    def __init__(self, name: str, *, size_px: int, batch: int, n_images: int, seconds: float) -> None:
        self.name, self.size_px, self.batch = name, size_px, batch
        self.n_images, self.seconds = n_images, seconds
        self.margin_px = size_px // 16  # on either side


def cases(*, is_gpu: bool) -> list[Case]:
    """Return what is measured: on a processor with batches that it can turn over."""
    if is_gpu:
        return [
            Case("cbr_tiny", size_px=64, batch=64, n_images=4096, seconds=4),
            Case("cbr_large_t", size_px=64, batch=64, n_images=4096, seconds=4),
            Case("cbr_tiny", size_px=224, batch=64, n_images=2048, seconds=4),
            Case("cbr_large_t", size_px=224, batch=64, n_images=2048, seconds=4),
            Case("resnet50", size_px=224, batch=64, n_images=2048, seconds=4),
            Case("inception_v3", size_px=299, batch=64, n_images=1024, seconds=4),
        ]
    return [
        Case("cbr_tiny", size_px=64, batch=32, n_images=1024, seconds=4),
        Case("cbr_large_t", size_px=64, batch=32, n_images=1024, seconds=4),
        Case("resnet50", size_px=224, batch=8, n_images=64, seconds=8),
        Case("inception_v3", size_px=299, batch=8, n_images=64, seconds=8),
    ]


def draw_jpegs(folder: Path, case: Case) -> list[Path]:
    """Draw smooth random pictures and write them as JPEGs of two classes."""
    side, rng, paths = case.size_px + 2 * case.margin_px, np.random.default_rng(0), []
    for number in range(case.n_images):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        grain = rng.integers(-12, 13, (side, side, 3))
        pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
        path = folder / str(number % N_CLASSES) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
        paths.append(path)
    return paths


def packed(folder: Path, paths: list[Path], case: Case) -> Dataset:
    """Return the images as a trial maps them: decoded once, uint8, in a file."""
    file = folder / "packed.npy"
    array = np.lib.format.open_memmap(file, "w+", np.uint8, (len(paths), 3, case.size_px, case.size_px))
    cut = slice(case.margin_px, case.margin_px + case.size_px)
    for number, path in enumerate(paths):
        array[number] = np.asarray(Image.open(path).convert("RGB"))[cut, cut].transpose(2, 0, 1)
    array.flush()
    pixels = np.load(file, mmap_mode="r")
    labels, ids = np.arange(len(paths)) % N_CLASSES, np.arange(len(paths)).astype(str)
    split = Split(pixels, labels, ids, ids)
    names = tuple(str(k) for k in range(N_CLASSES))
    return Dataset(names, "multiclass", split, split, split, "0" * 64, MEAN, SD)


class FixedBatch(Training):
    """Our training with its images ready: the step alone."""

    def hold_batch(self) -> None:
        """Use the batch of the first step for all."""
        batch = self.batches.at(0)
        self.batches.at = lambda step: batch  # type: ignore[method-assign]


def our_steps(
    case: Case, data: Dataset, device: torch.device, precision: str, *, may_fill: bool
) -> tuple[Training, FixedBatch]:
    """Build `ours` and its `ceiling`."""
    content: dict[str, Any] = {
        "architecture": case.name,
        "dataset": {"reader": "digits"},
        "training": {
            "steps": MANY_STEPS,
            "batch_size": case.batch,
            "optimizer": {"kind": "sgd", "lr": 1e-3, "momentum": 0.9},
            "augment": {"horizontal_flip": True, "shift_px": case.margin_px},
            "precision": precision,
        },
    }
    spec = parse_trial(content).training

    def built(kind: type[Training]) -> Any:
        network = build_network(case.name, n_outputs=N_CLASSES, channels=3)
        network.module.to(device)
        return kind(network, data, spec, seed=0, device=device, may_fill=may_fill)

    ours, ceiling = built(Training), built(FixedBatch)
    ceiling.hold_batch()
    return ours, ceiling


class Jpegs(TorchDataset):
    """What one writes by hand: open, convert, crop and flip with numpy, to a normalized tensor."""

    def __init__(self, paths: list[Path], case: Case) -> None:
        self.paths, self.case = paths, case

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        case = self.case
        pixels = np.asarray(Image.open(self.paths[number]).convert("RGB"), dtype=np.float32) / 255
        top, left = torch.randint(0, 2 * case.margin_px + 1, (2,)).tolist()
        pixels = pixels[top : top + case.size_px, left : left + case.size_px]
        if torch.rand(()) < 0.5:
            pixels = pixels[:, ::-1]
        pixels = (pixels - np.float32(MEAN)) / np.float32(SD)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), number % N_CLASSES


def v2_folder(root: Path, case: Case) -> ImageFolder:
    """Return torchvision's folder with its present transforms."""
    transform = v2.Compose([
        v2.PILToTensor(),
        v2.RandomCrop(case.size_px),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, SD),
    ])  # fmt: skip
    return ImageFolder(root, transform)


def loop_steps(case: Case, images: TorchDataset, device: torch.device, precision: str) -> Callable[[], None]:
    """Return a function that takes one step of the usual loop."""
    network = build_network(case.name, n_outputs=N_CLASSES, channels=3)
    module, weight = network.module.to(device).train(), network.auxiliary_weight
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    loader = DataLoader(
        images,
        case.batch,
        shuffle=True,
        drop_last=True,
        num_workers=min(os.cpu_count() or 1, MOST_WORKERS),
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    batches = forever(loader)

    def step() -> None:
        pixels, labels = next(batches)
        pixels, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = module(pixels)
            heads = outputs if isinstance(outputs, tuple) else (outputs,)
            losses = [nn.functional.cross_entropy(head.float(), labels) for head in heads]
            loss = losses[0] + weight * sum(losses[1:])
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def forever(loader: DataLoader) -> Iterator[Any]:
    """Yield the batches of one epoch after the other."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


def images_per_second(run: Callable[[float], int], seconds: float, device: torch.device) -> float:
    """Measure a side for a while."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    n_images = run(seconds)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return n_images / (time.perf_counter() - began)


def as_run(case: Case, step: Callable[[], None]) -> Callable[[float], int]:
    """Return what repeats a step of a loop for some seconds, and returns the images it saw."""

    def run(seconds: float) -> int:
        deadline, n = time.perf_counter() + seconds, 0
        while time.perf_counter() < deadline:
            step()
            n += case.batch
        return n

    return run


def as_training_run(training: Training) -> Callable[[float], int]:
    """Return the same of a training, which runs as in a trial: until it is asked to pause."""

    def run(seconds: float) -> int:
        deadline, first = time.perf_counter() + seconds, training.step
        training.train_until(MANY_STEPS, pause=lambda: time.perf_counter() > deadline)
        return (training.step - first) * training.batch_size

    return run


def measure(
    case: Case, device: torch.device, precision: str, loop_precision: str, *, may_fill: bool
) -> dict[str, Any]:
    """Return images per second of every side of a case."""
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        paths = draw_jpegs(folder / "jpegs", case)
        ours, ceiling = our_steps(case, packed(folder, paths, case), device, precision, may_fill=may_fill)
        by_hand, of_folder = Jpegs(paths, case), v2_folder(folder / "jpegs", case)
        sides = {
            "ours": as_training_run(ours),
            "ceiling": as_training_run(ceiling),
            "loop": as_run(case, loop_steps(case, by_hand, device, loop_precision)),
            "folder": as_run(case, loop_steps(case, of_folder, device, loop_precision)),
        }
        found: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(ROUNDS + 1):
            for side, run in sides.items():
                rate = images_per_second(run, case.seconds, device)
                if turn:  # the first one warms up
                    found[side].append(rate)
    return {side: median(rates) for side, rates in found.items()}


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--loop-precision", choices=PRECISIONS, help="Default: the same.")
    parser.add_argument("--mapped", action="store_true", help="Leave the images out of a GPU's memory.")
    parser.add_argument("--network", action="append", help="Only this one; may be repeated.")
    parser.add_argument("--json", type=Path, help="Write the figures there, too.")
    options = parser.parse_args()
    loop_precision = options.loop_precision or options.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    print(
        f"{name}, {options.precision} (loops {loop_precision}), torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}; images/s"
    )
    print(
        f"{'network':>12} {'px':>4} {'batch':>5} {'ours':>8} {'ceiling':>8} {'loop':>8} {'folder':>8}  ratios"
    )
    rows = []
    for case in cases(is_gpu=device.type == "cuda"):
        if options.network and case.name not in options.network:
            continue
        rates = measure(case, device, options.precision, loop_precision, may_fill=not options.mapped)
        rows.append({"network": case.name, "size_px": case.size_px, "batch": case.batch, **rates})
        print(
            f"{case.name:>12} {case.size_px:>4} {case.batch:>5} "
            + " ".join(f"{rates[side]:8.1f}" for side in ("ours", "ceiling", "loop", "folder"))
            + f"  of the ceiling {rates['ours'] / rates['ceiling']:.2f}, of the loop "
            f"{rates['ours'] / rates['loop']:.2f}, of the folder {rates['ours'] / rates['folder']:.2f}",
            flush=True,
        )
    if options.json is not None:
        found = {"device": name, "precision": options.precision, "loop_precision": loop_precision}
        options.json.write_text(json.dumps({**found, "rows": rows}))


if __name__ == "__main__":
    main()
