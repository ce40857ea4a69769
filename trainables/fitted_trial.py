"""Trials that are fitted at once instead of trained step by step: linear probes, and trees on pixels.

There is no state in between: interrupted, they begin anew.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from trainables.datasets.loading import Dataset, cached_dataset
from trainables.linear_probe import fit_linear_probe
from trainables.predictions import record_predictions
from trainables.progress import Progress, Status
from trainables.record import TrialWriter
from trainables.spec import RunOptions, TrialSpec
from trainables.starting_point import initial_network
from trainables.training import Training


class _FittedTrial:
    """What both kinds share; `dataset` exists after `prepare`."""

    def __init__(self, spec: TrialSpec, record: TrialWriter, options: RunOptions) -> None:
        self.spec, self.record, self.options = spec, record, options
        self.dataset: Dataset | None = None
        self.test_metrics: Mapping[str, float] = {}

    def close(self) -> None:
        """Free what lies outside of this process: nothing."""

    def prepare(self, device: torch.device, data_root: Path | None) -> None:
        """Load the data."""
        self.dataset = cached_dataset(self.spec.dataset, data_root)
        self.record.log_dataset(name=self.spec.dataset.label, digest=self.dataset.digest)

    def interrupt(self) -> None:
        """Mark the run killed."""
        self.record.interrupt()

    def progress(self, status: Status, *, cause: str | None = None) -> Progress:
        """Describe where the trial stands."""
        metrics = self.test_metrics if status == "finished" else {}
        step = 1 if status == "finished" else 0
        return Progress(step, 1, status, metrics, cause, notices=tuple(self.record.notices))

    def _loaded(self) -> Dataset:
        assert self.dataset is not None, "prepare() comes first"
        return self.dataset


class ProbeTrial(_FittedTrial):
    """Logistic regression on the features of a network that stays as it was initialized."""

    def close(self) -> None:
        """Free what lies outside of this process: nothing."""

    def prepare(self, device: torch.device, data_root: Path | None) -> None:
        """Load the data, build and initialize the network."""
        super().prepare(device, data_root)
        network = initial_network(self.spec, self._loaded(), store=self.record.store, data_root=data_root)
        network.module.to(device)
        self.training = Training(
            network, self._loaded(), self.spec.training, seed=self.spec.seed, device=device
        )

    def train(self) -> Iterator[Progress]:
        """Fit the head, and report once."""
        module = self.training.network.module
        if "initial" in self.options.keep:
            self.record.commit_checkpoints({"initial": module.state_dict()}, {"initial": 0})
        yield self.progress("running")
        self.fit = fit_linear_probe(self.training, metric=self.spec.training.selection_metric)

    def conclude(self) -> None:
        """Commit the weights and score the test split."""
        training, dataset, module = self.training, self._loaded(), self.training.network.module
        self.record.log_metrics(self.fit.val_metrics, step=0)
        self.test_metrics = {
            "best_l2": self.fit.l2,
            "is_converged": float(self.fit.is_converged),
            "n_params": float(sum(p.numel() for p in module.parameters())),
            **record_predictions(
                self.record,
                dataset,
                # The final fit has seen the validation images.
                val_scores=self.fit.val_scores,
                test_scores=training.predict(dataset.test),
            ),
        }
        self.record.log_metrics(self.test_metrics, step=0)
        kept = [name for name in ("best", "final") if name in self.options.keep]
        self.record.commit_checkpoints(dict.fromkeys(kept, module.state_dict()), dict.fromkeys(kept, 1))


class BaselineTrial(_FittedTrial):
    """A decision tree or a random forest on the pixels; it has no weights to keep."""

    def train(self) -> Iterator[Progress]:
        """Fit it, and report once."""
        from trainables.baselines import fit_baseline  # scikit-learn's trees take a second to import

        yield self.progress("running")
        self.fitted = fit_baseline(
            self.spec.architecture.name,
            self._loaded(),
            seed=self.spec.seed,
            threads=self.options.threads,
            class_weights=self.spec.training.class_weights,
        )

    def conclude(self) -> None:
        """Score both splits."""
        dataset = self._loaded()
        self.test_metrics = record_predictions(
            self.record,
            dataset,
            val_scores=self.fitted.scores(dataset.val),
            test_scores=self.fitted.scores(dataset.test),
        )
        self.record.log_metrics(self.test_metrics, step=0)
