"""How alike two networks are, stage by stage."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from analysis.jobs.bench import Bench
from analysis.jobs.job import Job, Outcome, Weights
from analysis.jobs.schedule import NOT_COMPUTED
from analysis.load import StudyTrials
from analysis.networks.activations import Gathered, Samples, StagePair, gather
from analysis.networks.comparisons import OF_EVERY_STAGE_WITH_EVERY, TOP_TWO, Comparison
from analysis.numerics.gram import ROW_MEASURES
from analysis.numerics.moments import IncomparableError
from analysis.numerics.similarity import MEASURES, Similarity, svcca
from trainables.architectures.architecture import HEAD
from trainables.architectures.stages import Network

KIND = "similarity"
MEASURES_OF_MAPS = ("svcca", "linear_cka")

SIMILARITY_COLUMNS = (
    "kind", "setting", "architecture", "dataset", "init_x", "init_y", "seed_x", "seed_y", "checkpoint_x",
    "checkpoint_y", "stage", "stage_y", "measure", "value", "noise_floor", "directions_x", "directions_y",
    "n_samples", "n_images", "samples", "positions_per_image", "variance_fraction", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How networks are compared; stated in the report.

    Attributes:
        probe_images: test images, at most as many as there are.
        positions_per_image: of feature maps.
        variance_fraction: kept by SVCCA.
        variance_reading: what variance means to SVCCA: `squares` of singular values, or their plain sum
            (`singular_values`), as some public implementations have it.
        samples: see `analysis.networks.activations.gather`.
        seed: of the choice of images and positions.
    """

    probe_images: int = 512
    positions_per_image: int = 8
    variance_fraction: float = 0.99
    variance_reading: Literal["squares", "singular_values"] = "squares"
    samples: Samples = "positions"
    seed: int = 0


def similarity_jobs(comparisons: Sequence[Comparison], trials: StudyTrials, settings: Settings) -> list[Job]:
    """Return the job of every comparison, in their order."""
    return [
        similarity_job(
            Weights(trials.records[comparison.x.trial_id], comparison.x.checkpoint),
            Weights(trials.records[comparison.y.trial_id], comparison.y.checkpoint),
            settings,
            every_with_every=comparison.kind in OF_EVERY_STAGE_WITH_EVERY,
        )
        for comparison in comparisons
    ]


def similarity_job(x: Weights, y: Weights, settings: Settings, *, every_with_every: bool = False) -> Job:
    """Return the job that compares two networks.

    Args:
        every_with_every: every backbone stage of one with every one of the other, by MEASURES_OF_MAPS; else
            each stage with the one of the same place, by all measures.
    """
    measures = MEASURES_OF_MAPS if every_with_every else (*MEASURES, *ROW_MEASURES)
    # The measures are named, so that one that is new is computed for pairs that were compared before.
    content = {"every_with_every": every_with_every, "measures": list(measures)}
    return Job(KIND, (x, y), {**asdict(settings), **content})


def compare(job: Job, bench: Bench) -> Outcome:
    """Return one row per pair of stages and measure; where a measure is not defined, `reason` says why."""
    options = dict(job.settings)
    every, measures = options.pop("every_with_every"), options.pop("measures")
    settings = Settings(**options)
    probes = {
        key: bench.probe(weights, n_images=settings.probe_images, seed=settings.seed)
        for key, weights in zip("xy", job.inputs, strict=True)
    }
    networks = {
        key: bench.network(weights, n_outputs=probes[key].n_outputs)
        for key, weights in zip("xy", job.inputs, strict=True)
    }
    gathered = gather(
        networks,
        _stage_pairs(networks["x"], networks["y"], every=every),
        probes,
        positions_per_image=settings.positions_per_image,
        samples=settings.samples,
        on_one_grid=every,
        seed=settings.seed,
        device=bench.device,
    )
    rows = [_row(pair, found, measure, settings) for measure in measures for pair, found in gathered.items()]
    return Outcome(rows)


def _stage_pairs(x: Network, y: Network, *, every: bool) -> list[StagePair]:
    if every:
        return [StagePair("x", stage_x, "y", stage_y) for stage_x in x.backbone for stage_y in y.backbone]
    names = [stage.name for stage in x.stages]
    if names != [stage.name for stage in y.stages]:
        raise IncomparableError(
            "two networks with different stages are compared every stage with every stage, got stages "
            f"{', '.join(names)} and {', '.join(stage.name for stage in y.stages)}"
        )
    return [StagePair("x", name, "y", name) for name in names]


def _row(pair: StagePair, gathered: Gathered, measure: str, settings: Settings) -> dict[str, Any]:
    row = {"stage": pair.stage_x, "stage_y": pair.stage_y, "measure": measure, "n_images": len(gathered.x)}
    try:
        similarity = _measured(gathered, measure, settings)
    except IncomparableError as error:
        return row | {"n_samples": gathered.moments.n, "reason": f"{pair.stage_x}: {error}"}
    values = asdict(similarity)
    del values["settings"]  # stand in the row by their own names
    return row | values


def _measured(gathered: Gathered, measure: str, settings: Settings) -> Similarity:
    if measure in ROW_MEASURES:
        return ROW_MEASURES[measure](gathered.x, gathered.y)
    if measure == "svcca":
        return svcca(
            gathered.moments,
            variance_fraction=settings.variance_fraction,
            reading=settings.variance_reading,
        )
    return MEASURES[measure](gathered.moments, settings.variance_fraction)


def similarity_rows(
    comparisons: Sequence[Comparison], outcomes: Sequence[Outcome], settings: Settings
) -> pd.DataFrame:
    """Return one row per comparison, pair of stages and measure, with SIMILARITY_COLUMNS.

    The stage "top two" is the mean over the last two backbone stages, as in Transfusion's figure 2.
    What could not be computed is a row without value that says why; what was not asked for has none.
    """
    rows: list[dict[str, Any]] = []
    for comparison, outcome in zip(comparisons, outcomes, strict=True):
        facts = _facts(comparison, settings)
        if outcome.reason == NOT_COMPUTED:
            continue
        if outcome.reason:
            rows.append(facts | {"reason": outcome.reason})
            continue
        rows += [facts | row for row in outcome.rows]
        if comparison.kind not in OF_EVERY_STAGE_WITH_EVERY:
            rows += [facts | row for row in _top_two(outcome.rows)]
    return pd.DataFrame(rows, columns=list(SIMILARITY_COLUMNS))


def _top_two(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the last two backbone stages, by measure; a missing one makes the mean missing."""
    means = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        top = [row for row in rows if row["measure"] == measure and row["stage"] != HEAD][-2:]
        mean = {"stage": TOP_TWO, "stage_y": TOP_TWO, "measure": measure, "n_images": top[0]["n_images"]}
        if reasons := [row["reason"] for row in top if row.get("reason")]:
            mean["reason"] = "; ".join(reasons)
        else:
            mean |= {key: sum(row[key] for row in top) / len(top) for key in ("value", "noise_floor")}
        means.append(mean)
    return means


def _facts(comparison: Comparison, settings: Settings) -> dict[str, Any]:
    x, y = comparison.x, comparison.y
    return {
        "kind": comparison.kind,
        "setting": comparison.setting,
        "architecture": comparison.architecture,
        "dataset": comparison.dataset,
        "init_x": x.init,
        "init_y": y.init,
        "seed_x": x.seed,
        "seed_y": y.seed,
        "checkpoint_x": x.checkpoint,
        "checkpoint_y": y.checkpoint,
        "samples": settings.samples,
        "positions_per_image": settings.positions_per_image,
        "variance_fraction": settings.variance_fraction,
        "value": float("nan"),
        "noise_floor": float("nan"),
        "stage": "",
        "stage_y": "",
        "measure": "",
        "reason": "",
    }
