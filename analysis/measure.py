"""From the records of a study to everything that the report shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from analysis.convergence import choose_thresholds, measure_convergence
from analysis.jobs import explanations, predictions, weights
from analysis.jobs.cache import OutcomeCache
from analysis.jobs.job import Job, Outcome
from analysis.jobs.schedule import NOT_COMPUTED, Performer, Progress, outcomes
from analysis.jobs.similarity import similarity_jobs, similarity_rows
from analysis.jobs.weights import WeightResults
from analysis.load import StudyTrials, load_histories, load_trials
from analysis.networks.comparisons import plan_comparisons
from analysis.results import PARTS, ExplanationResults, Options, PredictionResults, Results, StudyFacts
from analysis.tables.table import METRIC_NAMES

if TYPE_CHECKING:
    from trainables.record import RecordReader

SAMPLES_SHOWN = 12


@dataclass
class Workshop:
    """Gets jobs done, if their part was asked for.

    Attributes:
        parts: of `analysis.results.PARTS`, those whose jobs may be done; what the cache holds always counts.
        not_computed: how many jobs were left out, by part.
        problems: what could not be done, and why.
    """

    perform: Performer
    cache: OutcomeCache | None
    progress: Progress
    parts: Sequence[str] = PARTS
    not_computed: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def outcomes(
        self, part: str, jobs: Sequence[Job], *, what: str, names: Sequence[str] | None = None
    ) -> list[Outcome]:
        """Return the outcomes of the jobs of a part, in their order.

        Args:
            what: is done, for people.
            names: of what each job is about, to list those that could not be done; None lists none.
        """
        perform = self.perform if part in self.parts else None
        found = outcomes(jobs, perform=perform, cache=self.cache, progress=self.progress, what=what)
        left = sum(outcome.reason == NOT_COMPUTED for outcome in found)
        if left:
            self.not_computed[part] = self.not_computed.get(part, 0) + left
        for name, outcome in zip(names or [], found, strict=False):
            if outcome.reason not in ("", NOT_COMPUTED):
                self.problems.append((f"{what}: {name}", outcome.reason))
        return found


def measure_study(
    reader: "RecordReader", study: StudyFacts, *, options: Options, workshop: Workshop
) -> Results:
    """Read the records and do what the parts ask for."""
    workshop.progress("reading records", 0, 1)
    trials = load_trials(reader, study.name, trial_ids=study.trial_ids, searches=study.searches)
    finished = trials.finished
    histories = load_histories(reader, [trials.records[key] for key in finished["trial_id"]])
    # A linear probe or a forest has no steps to converge in.
    trained = finished[finished["protocol"].str.startswith("trains")]
    metric = options.threshold_metric
    thresholds = choose_thresholds(
        trained, histories, metric=metric, baseline=options.baseline, given=options.thresholds
    )
    return Results(
        trials=trials,
        histories=histories,
        thresholds=thresholds,
        convergence=measure_convergence(trained, histories, metric=metric, thresholds=thresholds),
        predictions=_of_predictions(trials, options, workshop),
        similarity=_of_similarity(trials, options, workshop),
        weights=_of_weights(trials, histories, options, workshop),
        explanations=_of_explanations(trials, options, workshop),
        metric=metric,
        primary=_primary_metric(metric, finished),
        options=options,
        not_computed=workshop.not_computed,
        problems=workshop.problems,
    )


def _of_similarity(trials: StudyTrials, options: Options, workshop: Workshop) -> pd.DataFrame:
    comparisons = plan_comparisons(trials.finished, trials.records)
    jobs = similarity_jobs(comparisons, trials, options.similarity)
    found = workshop.outcomes("similarity", jobs, what="comparing networks")
    return similarity_rows(comparisons, found, options.similarity)


def _of_predictions(trials: StudyTrials, options: Options, workshop: Workshop) -> PredictionResults:
    finished = trials.finished
    resampling = predictions.setting_jobs(
        predictions.UNCERTAINTY,
        finished,
        trials,
        baseline=options.baseline,
        n_replicates=options.bootstrap_replicates,
    )
    looking = predictions.setting_jobs(predictions.MISTAKES, finished, trials, n_samples=SAMPLES_SHOWN)
    names = [setting for setting, _ in resampling]
    drawn = workshop.outcomes(
        "tables", [job for _, job in resampling], what="resampling patients", names=names
    )
    found = workshop.outcomes("tables", [job for _, job in looking], what="looking for mistakes", names=names)
    parts = [predictions.resampled(outcome) for outcome in drawn if not outcome.reason]
    workshop.problems += [("resampling patients", text) for part in parts for text in part.lacking]
    mistakes = [
        predictions.mistakes_of(outcome, setting)
        for setting, outcome in zip(names, found, strict=True)
        if not outcome.reason
    ]
    fetching = []
    for one in mistakes:
        trial_id = finished[finished["setting"] == one.setting]["trial_id"].iloc[0]
        if (job := predictions.picture_job(one, trials, trial_id)) is not None:
            fetching.append((one.setting, job))
    pictures = workshop.outcomes(
        "tables",
        [job for _, job in fetching],
        what="fetching images of mistakes",
        names=[setting for setting, _ in fetching],
    )
    return PredictionResults(
        parts,
        mistakes,
        {
            setting: predictions.pictures_of(outcome)
            for (setting, _), outcome in zip(fetching, pictures, strict=True)
        },
    )


def _of_weights(
    trials: StudyTrials, histories: pd.DataFrame, options: Options, workshop: Workshop
) -> WeightResults:
    rows = weights.trained_as_a_whole(trials.finished)
    labels = [trials.records[key].spec.label for key in rows["trial_id"]]
    changes = workshop.outcomes(
        "weights", weights.change_jobs(rows, trials), what="comparing weights", names=labels
    )
    lines, jobs = weights.line_jobs(trials.finished, trials)
    names = [f"{line.kind} · {line.setting} · {line.x.init}" for line in lines]
    measured = workshop.outcomes("weights", jobs, what="following loss lines", names=names)
    members, jobs, without = weights.ensemble_jobs(rows, trials, histories, metric=options.threshold_metric)
    names = [record.spec.label for record in members]
    ensembles = workshop.outcomes("weights", jobs, what="averaging checkpoints", names=names)
    return weights.collect(
        rows, changes, lines, measured, [record.trial_id for record in members], ensembles, without
    )


def _of_explanations(trials: StudyTrials, options: Options, workshop: Workshop) -> ExplanationResults:
    rows = explanations.explained_trials(trials.finished)
    if options.explained_images == 0:
        rows = rows.iloc[:0]
    labels = [trials.records[key].spec.label for key in rows["trial_id"]]
    explained = workshop.outcomes(
        "saliency",
        explanations.explanation_jobs(rows, trials, n_images=options.explained_images),
        what="explaining predictions",
        names=labels,
    )
    checks = workshop.outcomes(
        "saliency",
        explanations.randomisation_jobs(rows, trials),
        what="checking explanations",
        names=labels,
    )
    return ExplanationResults(
        explanations.explained_settings(rows, explained), explanations.randomisation_rows(rows, checks)
    )


def _primary_metric(metric: str, finished: pd.DataFrame) -> str:
    """Return the test counterpart of a validation metric, or AUROC where the trials lack it."""
    counterpart = metric.replace("val_", "test_", 1)
    return counterpart if counterpart in METRIC_NAMES and counterpart in finished else "test_auroc"
