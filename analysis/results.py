"""What is asked of an analysis, and everything that it measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from analysis.convergence import Threshold
from analysis.jobs.explanations import Explained
from analysis.jobs.similarity import Settings
from analysis.jobs.weights import WeightResults
from analysis.load import StudyTrials
from analysis.mistakes import Mistakes
from analysis.networks.activations import Samples
from analysis.searches import SearchFacts
from analysis.sources import source_accuracies
from analysis.tables.inventory import PlannedCell
from analysis.tables.relations import source_points
from analysis.tables.resampled import Resampled

PARTS = ("tables", "similarity", "weights", "saliency", "report")
"""What can be asked for on its own; `report` lays out what is known already and computes nothing."""


@dataclass(frozen=True)
class StudyFacts:
    """What a study says of itself.

    Attributes:
        file: the text of its study file.
        planned: the cells of the plan with their state; those that are not `done` are listed as missing.
        trial_ids: see `analysis.load.load_trials`.
        run_address: of MLflow's page of a run, with `{run_id}` in the place of its id; "" for no links.
        searches: of its cells, if their settings were searched.
        optuna_file: beside the report, with the searches for Optuna's own tools; "" if there is none.
    """

    name: str
    question: str = ""
    file: str = ""
    planned: Sequence[PlannedCell] = ()
    trial_ids: Mapping[str, bool] | None = None
    run_address: str = ""
    searches: Sequence[SearchFacts] = ()
    optuna_file: str = ""


@dataclass(frozen=True)
class Options:
    """How a study is analysed: the section `analysis` of its file.

    Attributes:
        baseline: label or kind of the initialization that others are compared with.
        threshold_metric: whose threshold counts as convergence; its test counterpart ranks the cells.
        thresholds: by dataset label; the others get 99 % of what the baseline reaches.
        probe_images, positions_per_image, samples, variance_fraction, variance_reading: see
            `analysis.jobs.similarity.Settings`.
        bootstrap_replicates: of the intervals over patients.
        explained_images: test images whose explanations are drawn; 0 draws none.
    """

    baseline: str = "random"
    threshold_metric: str = "val_auroc"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    probe_images: int = 512
    positions_per_image: int = 8
    samples: Samples = "positions"
    variance_fraction: float = 0.99
    variance_reading: Literal["squares", "singular_values"] = "squares"
    bootstrap_replicates: int = 1000
    explained_images: int = 4

    @property
    def similarity(self) -> Settings:
        """How networks are compared."""
        return Settings(
            probe_images=self.probe_images,
            positions_per_image=self.positions_per_image,
            variance_fraction=self.variance_fraction,
            variance_reading=self.variance_reading,
            samples=self.samples,
        )


@dataclass(frozen=True)
class PredictionResults:
    """What stored predictions tell.

    Attributes:
        resampled: the rows of the table of uncertainty, by setting.
        pictures: uint8 images (channels, height, width) by sample id, by setting.
    """

    resampled: Sequence[Resampled]
    mistakes: Sequence[Mistakes]
    pictures: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class ExplanationResults:
    """Where networks look.

    Attributes:
        checks: setting, init and the columns of `analysis.networks.randomisation`.
    """

    explained: Sequence[Explained]
    checks: pd.DataFrame


@dataclass(frozen=True)
class Results:
    """Everything that was measured, before it is laid out.

    Attributes:
        histories: trial_id, metric, step, value.
        convergence: one row per trial: steps to the threshold, reached, area under the curve.
        similarity: one row per comparison, pair of stages and measure.
        metric: over training, of the learning curves and thresholds.
        primary: of the test split, by which cells are ranked.
        not_computed: how many jobs were left out because their part was not asked for, by part.
        problems: what could not be done, and why.
    """

    trials: StudyTrials
    histories: pd.DataFrame
    thresholds: Mapping[str, Threshold]
    convergence: pd.DataFrame
    predictions: PredictionResults
    similarity: pd.DataFrame
    weights: WeightResults
    explanations: ExplanationResults
    metric: str
    primary: str
    options: Options
    not_computed: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[tuple[str, str]] = ()

    @property
    def source_points(self) -> pd.DataFrame:
        """Performance on source and target, one row per cell whose source is known; see `analysis.tables`."""
        points = source_points(
            self.trials.finished,
            source_accuracies(self.trials.records),
            metric=self.primary,
            by="trial_id",
        )
        return points[points["source_value"].notna()]
