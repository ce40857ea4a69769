"""Packing JPEG images: images/s against a plain loop, and what a kill in the middle costs.

    python benchmarks/data.py                     # 20,000 images; a few minutes on two cores
    python benchmarks/data.py --images 1000 --side 1200

Packing and the loop (open, convert, resize with the same filter, np.asarray; one process, one thread) take
turns on parts of the same images, so that whatever else the machine does falls on both. Packing also writes,
syncs and verifies its file; the loop keeps nothing. Then a process that packs all images is killed half-way
and another one goes on.

Printed: images/s of both and their ratio; shards that were finished at the kill, how many of them were
decoded again (0 is right), and whether the file is that of a packing that nobody disturbed.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.datasets import packed_file
from trainables.datasets.packed import ImageFiles, pack

SIZE_PX = 224
PARTS = 5
PATTERNS = 64


@dataclass(frozen=True)
class Speeds:
    """Images/s by part."""

    packing: list[float]
    loop: list[float]


@dataclass(frozen=True)
class Continuation:
    """What is left of a killed packing, and what the next one did.

    Attributes:
        finished: shards in the journal after the kill.
        redone: of these, shards' worth of images that were decoded again.
        is_equal: the file has the bytes of an undisturbed one.
    """

    finished: int
    redone: float
    is_equal: bool


def write_images(folder: Path, n: int, side_px: int) -> None:
    """Write `n` JPEGs of 4 : 3 with as much detail as photographs, no two of them equal."""
    rng = np.random.default_rng(0)
    width, height = side_px, side_px * 3 // 4
    patterns = [
        Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for _ in range(PATTERNS)
    ]
    for number in range(n):
        image = patterns[number % PATTERNS].copy()
        level = number // PATTERNS
        image.paste((level % 256, level // 256, 255), (0, 0, width // 4, height // 4))
        image.save(folder / f"{number:06d}.jpg", quality=90)


def images_of(paths: list[Path], fingerprint: str, *, read: Callable[[Path], bytes]) -> ImageFiles:
    """Return images as the readers of folders do."""

    def contents() -> Iterator[tuple[int, Callable[[], bytes]]]:
        return ((number, partial(read, path)) for number, path in enumerate(paths))

    return ImageFiles(tuple(path.name for path in paths), contents, fingerprint)


def run_loop(paths: list[Path]) -> None:
    """Decode and resize one image after the other."""
    for path in paths:
        with Image.open(path) as opened:
            small = opened.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
        np.asarray(small)


def measure(paths: list[Path]) -> Speeds:
    """Let both sides take turns, each first in every other part."""
    speeds = Speeds([], [])
    edges = np.linspace(0, len(paths), PARTS + 1).astype(int).tolist()
    for part, (start, stop) in enumerate(pairwise(edges)):
        some = paths[start:stop]
        images = images_of(some, f"part {part}", read=Path.read_bytes)
        packing = partial(pack, images, name="benchmark", size_px=SIZE_PX, channels=3)
        sides = [(speeds.packing, packing), (speeds.loop, partial(run_loop, some))]
        for results, work in sides if part % 2 else reversed(sides):
            began = time.perf_counter()
            work()
            results.append(len(some) / (time.perf_counter() - began))
    return speeds


def pack_counting(folder: Path) -> None:
    """Pack all images, and print a JSON line per shard with the images that were decoded by then."""
    read: list[Path] = []  # appended to by several threads

    def counting(path: Path) -> bytes:
        read.append(path)
        return path.read_bytes()

    def report(done: int, total: int) -> None:
        print(json.dumps({"done": done, "total": total, "decoded": len(read)}), flush=True)

    images = images_of(sorted(folder.glob("*.jpg")), "whole", read=counting)
    pack(images, name="benchmark", size_px=SIZE_PX, channels=3, progress=report)
    report(len(images), len(images))


def start_packing(folder: Path, cache: Path, shard_images: int) -> subprocess.Popen[str]:
    """Start a process that packs all images into a cache of its own."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--pack",
        str(folder),
        "--shard",
        str(shard_images),
    ]
    environment = {**os.environ, "TRANSFUSION_CACHE": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def kill_half_way(process: subprocess.Popen[str]) -> None:
    """Wait until half of the images are packed, then let the process end without a chance to tidy up."""
    assert process.stdout is not None
    for line in process.stdout:
        report = json.loads(line)
        if 2 * report["done"] >= report["total"]:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        sys.exit("the process had ended before it could be killed: take more images")


def run_to_the_end(process: subprocess.Popen[str]) -> int:
    """Return how many images a process decoded."""
    lines = process.communicate()[0].splitlines()
    if process.returncode:
        sys.exit(f"packing ended with {process.returncode}")
    decoded: int = json.loads(lines[-1])["decoded"]
    return decoded


def kill_and_continue(folder: Path, scratch: Path, n: int, shard_images: int) -> Continuation:
    """Kill a packing half-way, continue it, and compare with one that nobody disturbed."""
    disturbed, quiet = scratch / "disturbed", scratch / "quiet"
    kill_half_way(start_packing(folder, disturbed, shard_images))
    [journal] = (disturbed / "packed").glob(".*.journal")
    shards = [json.loads(line) for line in journal.read_text().splitlines()]
    n_left = n - sum(len(shard["numbers"]) for shard in shards)
    n_decoded = run_to_the_end(start_packing(folder, disturbed, shard_images))
    run_to_the_end(start_packing(folder, quiet, shard_images))
    files = [next((cache / "packed").glob("*.npy")) for cache in (disturbed, quiet)]
    is_equal = files[0].name == files[1].name and files[0].read_bytes() == files[1].read_bytes()
    return Continuation(len(shards), (n_decoded - n_left) / shard_images, is_equal)


def run(n: int, side_px: int) -> None:
    """Write the images, measure, and print the table."""
    shard_images = min(packed_file.SHARD_IMAGES, max(1, n // 8))
    packed_file.SHARD_IMAGES = shard_images
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = scratch / "images"
        folder.mkdir()
        write_images(folder, n, side_px)
        os.environ["TRANSFUSION_CACHE"] = str(scratch / "speed")
        speeds = measure(sorted(folder.glob("*.jpg")))
        continuation = kill_and_continue(folder, scratch, n, shard_images)
    ratios = [ours / loop for ours, loop in zip(speeds.packing, speeds.loop, strict=True)]
    print(f"{n} JPEGs of {side_px} x {side_px * 3 // 4} px to {SIZE_PX} px RGB, {os.cpu_count()} cores\n")
    rows = {
        "packing, images/s (median)": f"{statistics.median(speeds.packing):.0f}",
        "loop, images/s (median)": f"{statistics.median(speeds.loop):.0f}",
        "packing / loop (median, least … most)": (
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        ),
        "images per shard": str(shard_images),
        "shards finished at the kill": str(continuation.finished),
        "of these decoded again": f"{continuation.redone:g}",
        "bytes equal to an undisturbed packing": "yes" if continuation.is_equal else "NO",
    }
    print("| what | value |\n| --- | --- |")
    for what, value in rows.items():
        print(f"| {what} | {value} |")
    if continuation.redone or not continuation.is_equal:
        sys.exit("a killed packing must go on where it was and end in the same bytes")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=600, help="longer side of the JPEGs in pixels")
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pack is None:
        run(arguments.images, arguments.side)
    else:
        packed_file.SHARD_IMAGES = arguments.shard
        pack_counting(arguments.pack)


if __name__ == "__main__":
    main()
