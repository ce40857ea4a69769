"""How much memory a trial on many images takes for itself.

    python benchmarks/memory.py              # writes 10 GB below TMPDIR, and a few minutes

200,000 images of 224 × 224 px lie in one packed file and are split at random, as by patients. The trial is
the real path: the file is opened and checked, digest and statistics of its splits are computed, CBR-Tiny is
trained on random batches. Printed is the peak of the process's own memory (RssAnon) beside what it has
mapped of the file, whose pages all processes of the machine share; and the seconds until the dataset is open,
for the first process of a machine and for the next.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, assemble
from trainables.datasets.packed import ImageArray, Packed
from trainables.datasets.packed_file import load_packed_file, unfinished_file
from trainables.datasets.preparation import Ready
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import SPLITS, Table
from trainables.spec import parse_trial
from trainables.training import Training

SIZE_PX, BATCH, STEPS = 224, 32, 10


def write_images(path: Path, n: int) -> tuple[int, ...]:
    """Pack images of noise: a thousand different ones, again and again."""
    shape = (n, 1, SIZE_PX, SIZE_PX)
    some = np.random.default_rng(0).integers(0, 256, (1000, *shape[1:]), dtype=np.uint8)
    with unfinished_file(path, shape, lambda done, total: None) as file:
        for number in range(n):
            file.add(number, some[number % len(some)])
        file.finish()
    return shape


def table_of(n: int) -> Table:
    """Return samples of two classes, split at random."""
    rng = np.random.default_rng(1)
    names = np.arange(n).astype(str)
    splits = np.array(SPLITS)[rng.choice(3, n, p=(0.8, 0.1, 0.1))]
    images = ImageArray(np.empty((0, SIZE_PX, SIZE_PX), np.uint8))
    return Table("noise", images, np.arange(n), np.arange(n) % 2, ("0", "1"), names, names, splits)


class Watch:
    """The peak of this process's own memory, and what it has mapped then, in MB."""

    def __init__(self) -> None:
        self.own_mb, self.mapped_mb = 0.0, 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            found = {key: value for key, _, value in (line.partition(":") for line in lines)}
            own, mapped = (float(found[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile"))
            self.own_mb, self.mapped_mb = max(self.own_mb, own), max(self.mapped_mb, mapped)
            time.sleep(0.02)


def opened(path: Path, n: int) -> Dataset:
    """Open the packed file and make the dataset of it, as a worker does."""
    found = load_packed_file(path, (n, 1, SIZE_PX, SIZE_PX))
    assert found is not None, "it was just written"
    packed = Packed(found.pixels, {}, was_there=True, digest=found.digest)
    spec = DatasetSpec(reader="image_folder", path="noise", size_px=SIZE_PX, channels=1)
    return assemble(Ready(spec, table_of(n), packed, ()))


def train(path: Path, n: int) -> dict[str, float]:
    """Load and train; return seconds and the peak."""
    watch, began = Watch(), time.perf_counter()
    dataset = opened(path, n)
    opened_s, began = time.perf_counter() - began, time.perf_counter()
    content = {
        "architecture": "cbr_tiny",
        "dataset": {"reader": "digits"},
        "training": {
            "steps": STEPS,
            "batch_size": BATCH,
            "augment": {"horizontal_flip": True, "shift_px": 8},
        },
    }
    network = build_network("cbr_tiny", n_outputs=2, channels=1)
    training = Training(network, dataset, parse_trial(content).training, seed=0, device=torch.device("cpu"))
    training.train_until(STEPS)
    return {
        "opening_s": opened_s,
        "training_s": time.perf_counter() - began,
        "own_mb": watch.own_mb,
        "mapped_mb": watch.mapped_mb,
    }


def seconds_to_open(path: Path, n: int) -> float:
    """Return the seconds that another worker needs."""
    began = time.perf_counter()
    opened(path, n)
    return time.perf_counter() - began


def main() -> None:
    """Write the images, train, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        os.environ["TRANSFUSION_CACHE"] = folder
        path = Path(folder) / "packed.npy"
        write_images(path, options.images)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as workers:
            found = workers.apply(train, (path, options.images))
            found["opening_again_s"] = workers.apply(seconds_to_open, (path, options.images))
        print(json.dumps({"images": options.images, "file_mb": path.stat().st_size / 1e6, **found}))


if __name__ == "__main__":
    main()
