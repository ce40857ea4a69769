"""What a trial begins with: its data, its network with initial weights, and the weights of its classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.architectures.spec import ArchitectureSpec
from trainables.architectures.stages import Network, build_network
from trainables.datasets.loading import Dataset, cached_dataset
from trainables.errors import CheckpointError, SpecError
from trainables.identity import trial_id
from trainables.importance import class_importance, effective_sample_size
from trainables.initialization import initialize
from trainables.record import RecordReader, Store
from trainables.seeding import generator, seeded
from trainables.spec import ImportanceSpec, SourceSpec, TrialSpec
from trainables.training import Training


def initial_network(spec: TrialSpec, dataset: Dataset, *, store: Store, data_root: Path | None) -> Network:
    """Build the network of a resolved spec with the weights its training starts from.

    The random weights are drawn first, whatever the initialization, so that trials of one seed share
    those that are not transfused.
    """
    with seeded(spec.seed, "weights"):
        network = build_network(
            spec.architecture, n_outputs=dataset.n_outputs, channels=spec.dataset.channels
        )
    source = spec.init.source
    initialize(
        network,
        spec.init,
        source_state=source_weights(source, store=store, data_root=data_root) if source else None,
        generator=generator(spec.seed, "init"),
        whole=_whole_network(spec, network) if source else None,
    )
    return network


def _whole_network(spec: TrialSpec, network: Network) -> Network:
    """Build, without its weights, the network before it was slimmed or truncated: the usual source."""
    whole = ArchitectureSpec(name=spec.architecture.name)
    if spec.architecture == whole:
        return network
    with torch.device("meta"):
        return build_network(whole, n_outputs=2, channels=spec.dataset.channels)


def source_weights(source: SourceSpec, *, store: Store, data_root: Path | None) -> dict[str, Tensor]:
    """Return pretrained weights: those of another trial, of a publisher, or of a file.

    Raises:
        CheckpointError: the pretraining is not finished, or its checkpoint is damaged.
        WeightsError: published weights or a file are absent.
    """
    if source.trial is None:
        from trainables.pretrained import load_weights  # imports timm and torchvision, which takes seconds

        return load_weights(source, data_root=data_root)
    return _trained_weights(source.trial, source.checkpoint, store=store)


def _trained_weights(spec: TrialSpec, checkpoint: str, *, store: Store) -> dict[str, Tensor]:
    reader = RecordReader(store)
    record = reader.trial(trial_id(spec))
    if record is None or record.status != "finished":
        state = "has not been run" if record is None else f"is {record.status}"
        raise CheckpointError(f"the pretraining {spec.label} {state}; run it first")
    return reader.weights(record, checkpoint, is_kept=True)


@dataclass(frozen=True)
class SampleWeights:
    """In what proportion the training images are drawn.

    Attributes:
        of_images: (n_train,) float64.
        facts: metrics for the record: the effective sample size, and the weight of each class.
    """

    of_images: np.ndarray
    facts: dict[str, float]


def importance_weights(
    spec: TrialSpec,
    dataset: Dataset,
    *,
    store: Store,
    data_root: Path | None,
    device: torch.device,
    may_fill: bool = True,
) -> SampleWeights | None:
    """Return the weights that `spec.importance` asks for, or None if it asks for none.

    Raises:
        SpecError: the images have several labels each, so that they have no class to be weighted by.
        CheckpointError: the classifier has not been trained.
    """
    if spec.importance is None:
        return None
    if dataset.task == "multilabel":
        raise SpecError(
            f"importance needs images of one class each; those of {spec.dataset.label} have several labels"
        )
    predictions = _predicted_classes(
        spec.importance, dataset, store=store, data_root=data_root, device=device, may_fill=may_fill
    )
    labels = dataset.train.labels
    counts = np.bincount(labels, minlength=dataset.n_outputs)
    of_classes = class_importance(predictions, counts, temper=spec.importance.temper, cap=spec.importance.cap)
    of_images = of_classes[labels]
    facts = {f"importance/{name}": float(of_classes[k]) for k, name in enumerate(dataset.classes)}
    facts["importance_effective_samples"] = effective_sample_size(of_images)
    return SampleWeights(of_images, facts)


def _predicted_classes(
    importance: ImportanceSpec,
    dataset: Dataset,
    *,
    store: Store,
    data_root: Path | None,
    device: torch.device,
    may_fill: bool,
) -> np.ndarray:
    """Return (n_target, n_classes) probabilities of the source's classes for the target's training images."""
    spec = importance.classifier
    network = build_network(spec.architecture, n_outputs=dataset.n_outputs, channels=spec.dataset.channels)
    network.module.load_state_dict(_trained_weights(spec, "best", store=store))
    network.module.to(device)
    # The classifier sees the target's images as it saw its own: with the source's mean and sd.
    classifier = Training(
        network, dataset, spec.training, seed=spec.seed, device=device, may_fill=may_fill, has_optimizer=False
    )
    return classifier.predict(cached_dataset(importance.target, data_root).train)
