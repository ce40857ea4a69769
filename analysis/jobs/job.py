"""A piece of analysis that needs networks or predictions: what it depends on, and what comes of it.

A job is plain data, so that it can be done in another process or on another machine. Its key says all that
its outcome depends on; equal keys give equal outcomes, so an outcome is computed once (`jobs.cache`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainables.record import TrialRecord

# Raised when a method gives other numbers than before: what was cached is then computed anew.
METHOD_VERSION = 1


@dataclass(frozen=True)
class Weights:
    """A checkpoint of a trial."""

    record: "TrialRecord"
    checkpoint: str

    @property
    def identity(self) -> dict[str, Any]:
        """What the network is: its weights by their digest, its shape, and the images it takes."""
        ref = self.record.checkpoints.get(self.checkpoint)
        return {
            # Trees and damaged records have no weights to name; then the run stands for them.
            "weights": ref.sha256 if ref else f"{self.record.run_id}/{self.checkpoint}",
            "architecture": self.record.spec.architecture.model_dump(mode="json"),
            "dataset": self.record.spec.dataset.model_dump(mode="json"),
            "dataset_digest": self.record.dataset_digest,
        }


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: an entry of `analysis.jobs.work.KINDS`.
        inputs: the networks it takes, in the order in which the kind expects them.
        settings: plain values that its outcome depends on.
    """

    kind: str
    inputs: tuple[Weights, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256, in hex, of all that the outcome depends on."""
        content = {
            "kind": self.kind,
            "version": METHOD_VERSION,
            "inputs": [weights.identity for weights in self.inputs],
            "settings": dict(self.settings),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a job gave.

    Attributes:
        rows: plain values, one mapping per row of a table.
        arrays: pictures and maps, by name.
        reason: why there is nothing; "" if there is.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""
