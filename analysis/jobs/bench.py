"""Where jobs are done: a reader of records, the images, and a device."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from analysis.jobs.job import Weights
from analysis.networks.probe import ProbeSet, load_probe, opened_dataset
from trainables.architectures.stages import Network, build_network
from trainables.datasets.loading import Dataset
from trainables.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from trainables.record import RecordReader


@dataclass(frozen=True)
class Bench:
    """What every kind of job needs."""

    reader: "RecordReader"
    data_root: Path | None
    device: torch.device

    def dataset(self, weights: Weights) -> Dataset:
        """Return the dataset of a trial.

        Raises:
            DataError: it is not on this machine, damaged, or not the one the trial was trained on.
        """
        record = weights.record
        dataset = opened_dataset(record.spec.dataset, self.data_root)
        if record.dataset_digest not in (None, dataset.digest):
            raise DataError(
                f"{record.spec.dataset.label}: the images or labels here (digest {dataset.digest[:12]}…) are "
                f"not those of {record.spec.label} (digest {str(record.dataset_digest)[:12]}…); analyze "
                "where the same data are, or run the study again"
            )
        return dataset

    def probe(self, weights: Weights, *, n_images: int, seed: int) -> ProbeSet:
        """Return the probe set of a trial's dataset.

        Raises:
            DataError: as `dataset`.
        """
        self.dataset(weights)
        return load_probe(weights.record.spec.dataset, data_root=self.data_root, n_images=n_images, seed=seed)

    def network(self, weights: Weights, *, n_outputs: int) -> Network:
        """Build the network of a trial with the weights of a checkpoint, in eval mode.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or of another network.
        """
        record = weights.record
        state = self.reader.weights(record, weights.checkpoint)
        with torch.random.fork_rng(devices=[]):
            network = build_network(
                record.spec.architecture, n_outputs=n_outputs, channels=record.spec.dataset.channels
            )
        try:
            network.module.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{record.spec.label}: checkpoint {weights.checkpoint!r} does not fit the network: {error}"
            ) from None
        network.module.to(self.device).eval()
        return network
