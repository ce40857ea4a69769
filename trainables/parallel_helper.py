"""A helper of a parallel training (`trainables.parallel`): a process that is told its steps on its input.

It ends when its input does, also in the middle of a step: then the first process is gone.
"""

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import torch

from trainables.architectures.stages import build_network
from trainables.batches import Drawn
from trainables.datasets.loading import cached_dataset
from trainables.determinism import is_refused, set_determinism
from trainables.freezing import set_training_mode
from trainables.parallel import Part, join
from trainables.seeding import seed_generator_of
from trainables.spec import TrialSpec
from trainables.training import Training


def main() -> None:
    """Take part in steps until the input ends."""
    # What is sent to the group is for the first process to act on: its end is that of the input.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    begin = json.loads(told.get())
    rank, device = begin["rank"], torch.device(begin["device"])
    torch.set_num_threads(begin["threads"])
    set_determinism(begin["is_deterministic"])
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    spec = TrialSpec.model_validate_json(begin["spec"])
    join(Path(begin["meeting"]), rank=rank, processes=begin["processes"], device=device)
    data_root = Path(begin["data_root"]) if begin["data_root"] else None
    training = _training(spec, data_root, device, may_fill=begin["may_fill"])
    part = Part(training, rank=rank, processes=begin["processes"])
    while True:
        step = json.loads(told.get())
        training.micro_batch_size = step["micro_batch_size"]
        # Every process drops out other units of its images.
        seed_generator_of(device, spec.seed, "dropout", step["step"], rank)
        try:
            part.take(Drawn(np.array(step["chosen"]), training.batches.changes(step["step"])))
        except RuntimeError as error:
            if not is_refused(error):
                raise
            told.get()  # the first process has it, too, and says so; the input ends then


def _listen(told: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        told.put(line)
    os._exit(0)  # nobody would read what is left to do


def _training(spec: TrialSpec, data_root: Path | None, device: torch.device, *, may_fill: bool) -> Training:
    """Build the training; its weights come with every step."""
    dataset = cached_dataset(spec.dataset, data_root)
    network = build_network(spec.architecture, n_outputs=dataset.n_outputs, channels=spec.dataset.channels)
    network.module.to(device)
    training = Training(
        network,
        dataset,
        spec.training,
        seed=spec.seed,
        device=device,
        may_fill=may_fill,
        has_optimizer=False,
    )
    set_training_mode(network, spec.training.trainable)
    return training


if __name__ == "__main__":
    main()
