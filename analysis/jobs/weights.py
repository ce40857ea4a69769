"""What training does to weights: changes, first filters, the loss along lines, ensembles of checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.jobs.bench import Bench
from analysis.jobs.job import Job, Outcome, Weights
from analysis.load import FULL_TRAINING, StudyTrials
from analysis.networks.comparisons import FINAL, INITIAL, Comparison
from analysis.networks.ensembles import (
    Member,
    NoEnsembleError,
    checkpoint_ensemble,
    choose_members,
    ensemble_rows,
)
from analysis.networks.filters import (
    FilterPictures,
    ShownFilters,
    filter_pictures,
    filter_weights,
    first_convolution,
)
from analysis.networks.loss_line import line_alphas, line_images, loss_line, plan_lines
from analysis.networks.weight_change import CHANGE_COLUMNS, filter_change, filter_rows, stage_change
from trainables.architectures.reshaping import architecture_of
from trainables.objectives import build_objective

if TYPE_CHECKING:
    from trainables.record import TrialRecord

CHANGE, LINE, ENSEMBLE = "weight change", "loss line", "checkpoint ensemble"
FILTERS_SHOWN = 64
STAGES, FILTERS, POINTS, SUMMARY = "stages", "filters", "points", "summary"
CELL = ("setting", "init", "seed")
FILTER_COLUMNS = ("filter", "cosine", "relative_l2")
LINE_COLUMNS = ("kind", "setting", "init", "line", "barrier", "loss_a", "loss_b")
POINT_COLUMNS = ("kind", "setting", "init", "line", "alpha", "loss", "accuracy", "auroc")
ENSEMBLE_COLUMNS = ("metric", "single", "ensemble", "n_members", "n_images")


@dataclass(frozen=True)
class WeightResults:
    """What is known of the weights of a study.

    Attributes:
        changes: rows of `stage_change` with setting, init, seed.
        filters: rows of `filter_rows` with setting, init, seed.
        shown: the first filters of the first seed of every cell, before and after.
        lines: one row per line: kind, setting, init, barrier, loss_a, loss_b.
        points: one row per point of a line.
        ensembles: rows of `ensemble_rows` with setting, init, seed.
        without_ensemble: why trials have none, by label.
    """

    changes: pd.DataFrame
    filters: pd.DataFrame
    shown: Sequence[ShownFilters]
    lines: pd.DataFrame
    points: pd.DataFrame
    ensembles: pd.DataFrame
    without_ensemble: Mapping[str, str] = field(default_factory=dict)


def change_jobs(rows: pd.DataFrame, trials: StudyTrials) -> list[Job]:
    """Return the job that compares each trial's weights before and after; `rows` are trained as a whole."""
    return [
        Job(CHANGE, (Weights(record, INITIAL), Weights(record, FINAL))) for record in _records(rows, trials)
    ]


def trained_as_a_whole(finished: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of networks all of whose stages learned."""
    return finished[finished["protocol"] == FULL_TRAINING]


def measure_change(job: Job, bench: Bench) -> Outcome:
    """Return rows of stages and of the first filters, and pictures of some of these."""
    before, after = (bench.reader.weights(weights.record, weights.checkpoint) for weights in job.inputs)
    spec = job.inputs[1].record.spec
    # The head says how many classes there are, so that the images need not be on this machine.
    head = architecture_of(spec.architecture).stages[-1]
    n_outputs = [len(tensor) for name, tensor in after.items() if head.holds(name) and tensor.ndim][-1]
    network = bench.network(job.inputs[1], n_outputs=n_outputs)
    rows = _marked(STAGES, stage_change(network, before, after))
    try:
        first_convolution(network)
    except ValueError:
        return Outcome(rows)  # the first stage has no filters to look at
    filters = [filter_weights(network, weights) for weights in (before, after)]
    pictures = filter_pictures(filters[0][:FILTERS_SHOWN], filters[1][:FILTERS_SHOWN])
    rows += _marked(FILTERS, filter_rows(filter_change(filters[0], filters[1])))
    return Outcome(rows, {"before": pictures.before, "after": pictures.after, "limits": pictures.limits})


def line_jobs(finished: pd.DataFrame, trials: StudyTrials) -> tuple[list[Comparison], list[Job]]:
    """Return the lines to measure, and their jobs."""
    lines = plan_lines(finished)
    jobs = [
        Job(LINE, tuple(Weights(trials.records[side.trial_id], side.checkpoint) for side in (line.x, line.y)))
        for line in lines
    ]
    return lines, jobs


def measure_line(job: Job, bench: Bench) -> Outcome:
    """Return one row per point, and one that summarises them."""
    dataset = bench.dataset(job.inputs[0])
    network = bench.network(job.inputs[0], n_outputs=dataset.n_outputs)
    images = line_images(dataset, device=bench.device)
    states = [bench.reader.weights(weights.record, weights.checkpoint) for weights in job.inputs]
    line = loss_line(
        network,
        states[0],
        states[1],
        calibration_batches=images.calibration_batches,
        images=images.images,
        labels=images.labels,
        objective=build_objective(dataset.task),
        task=dataset.task,
        referable_grade=dataset.referable_grade,
        alphas=line_alphas(),
    )
    loss = line.points.set_index("alpha")["loss"]
    summary = {"barrier": line.barrier, "loss_a": float(loss[0.0]), "loss_b": float(loss[1.0])}
    return Outcome([*_marked(POINTS, line.points), {"of": SUMMARY, **summary}])


def ensemble_jobs(
    rows: pd.DataFrame, trials: StudyTrials, histories: pd.DataFrame, *, metric: str
) -> tuple[list["TrialRecord"], list[Job], dict[str, str]]:
    """Return the trials that have an ensemble, its jobs, and why others have none, by label."""
    with_one, jobs, without = [], [], {}
    of_metric = dict(list(histories[histories["metric"] == metric].groupby("trial_id")))
    for record in _records(rows, trials):
        try:
            members = choose_members(
                record, of_metric.get(record.trial_id, histories.iloc[:0]), metric=metric
            )
        except NoEnsembleError as error:
            without[record.spec.label] = str(error)
            continue
        inputs = tuple(Weights(record, member.checkpoint) for member in members)
        with_one.append(record)
        jobs.append(Job(ENSEMBLE, inputs, {"values": [member.value for member in members]}))
    return with_one, jobs, without


def measure_ensemble(job: Job, bench: Bench) -> Outcome:
    """Return the metrics of the ensemble and of its best member."""
    record, dataset = job.inputs[0].record, bench.dataset(job.inputs[0])
    members = [
        Member(weights.checkpoint, record.checkpoints[weights.checkpoint].step, value)
        for weights, value in zip(job.inputs, job.settings["values"], strict=True)
    ]
    ensemble = checkpoint_ensemble(
        bench.network(job.inputs[0], n_outputs=dataset.n_outputs),
        members,
        read_weights=lambda name: bench.reader.weights(record, name),
        dataset=dataset,
        device=bench.device,
    )
    return Outcome(_marked(SUMMARY, ensemble_rows(ensemble)))


def rows_of(outcome: Outcome, of: str, **facts: Any) -> list[dict[str, Any]]:
    """Return the rows of one sort, with facts in front."""
    return [
        facts | {name: value for name, value in row.items() if name != "of"}
        for row in outcome.rows
        if row["of"] == of
    ]


def shown_filters(outcome: Outcome, *, setting: str, init: str) -> ShownFilters | None:
    """Return the pictures of a change, if its network has any."""
    if not outcome.arrays:
        return None
    arrays = outcome.arrays
    return ShownFilters(setting, init, FilterPictures(arrays["before"], arrays["after"], arrays["limits"]))


def _records(rows: pd.DataFrame, trials: StudyTrials) -> list["TrialRecord"]:
    return [trials.records[key] for key in rows["trial_id"]]


def _marked(of: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{"of": of} | {str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def collect(
    rows: pd.DataFrame,
    changes: Sequence[Outcome],
    lines: Sequence[Comparison],
    measured: Sequence[Outcome],
    with_ensemble: Sequence[str],
    ensembles: Sequence[Outcome],
    without_ensemble: Mapping[str, str],
) -> WeightResults:
    """Put the outcomes of all jobs together.

    Args:
        rows: of the trials whose `changes` these are.
        with_ensemble: trial ids of the `ensembles`.
    """
    facts = {row["trial_id"]: {k: row[k] for k in CELL} for row in rows.to_dict("records")}
    shown, seen = [], set()
    for key, outcome in zip(rows["trial_id"], changes, strict=True):
        cell = (facts[key]["setting"], facts[key]["init"])
        pictures = shown_filters(outcome, setting=cell[0], init=cell[1])
        if pictures is not None and cell not in seen:
            seen.add(cell)
            shown.append(pictures)
    of_changes = list(zip(rows["trial_id"], changes, strict=True))
    of_lines = list(zip(map(_line, lines, range(len(lines))), measured, strict=True))
    of_ensembles = list(zip(with_ensemble, ensembles, strict=True))
    return WeightResults(
        changes=_frame(
            [r for key, o in of_changes for r in rows_of(o, STAGES, **facts[key])], [*CELL, *CHANGE_COLUMNS]
        ),
        filters=_frame(
            [r for key, o in of_changes for r in rows_of(o, FILTERS, **facts[key])], [*CELL, *FILTER_COLUMNS]
        ),
        shown=shown,
        lines=_frame([r for line, o in of_lines for r in rows_of(o, SUMMARY, **line)], LINE_COLUMNS),
        points=_frame([r for line, o in of_lines for r in rows_of(o, POINTS, **line)], POINT_COLUMNS),
        ensembles=_frame(
            [r for key, o in of_ensembles for r in rows_of(o, SUMMARY, **facts[key])],
            [*CELL, *ENSEMBLE_COLUMNS],
        ),
        without_ensemble=without_ensemble,
    )


def _line(line: Comparison, number: int) -> dict[str, Any]:
    return {"kind": line.kind, "setting": line.setting, "init": line.x.init, "line": number}


def _frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    # Columns of nothing would be objects, with which nobody can calculate.
    return pd.DataFrame(rows, columns=list(columns)).astype({} if rows else dict.fromkeys(columns, float))
