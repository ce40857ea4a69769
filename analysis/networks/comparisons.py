"""Which networks are compared, and the table of how alike they are, stage by stage.

- *before/after*: a network at its initialization and at the end of its training.
- *pretrained–random*: two trained networks of different seeds, one of them pretrained.
- *random–random*: the same with both from random weights: what two trainings share in any case.

With n seeds, each is paired with the next in a circle: n pairs of every kind (one random–random pair for
two seeds), in which every network takes part equally often.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from analysis.load import FULL_TRAINING, StudyTrials
from analysis.networks.activations import StagePair, gather_moments
from analysis.networks.probe import ProbeSet, load_probe
from analysis.numerics.moments import IncomparableError
from analysis.numerics.similarity import MEASURES
from trainables.architectures.stages import Network, build_network
from trainables.errors import CheckpointError, DataError, SpecError

if TYPE_CHECKING:
    from trainables.record import RecordReader, TrialRecord

BEFORE_AFTER = "before/after"
PRETRAINED_RANDOM = "pretrained–random"
RANDOM_RANDOM = "random–random"
TOP_TWO = "top two"

SIMILARITY_COLUMNS = (
    "kind", "setting", "architecture", "dataset", "init_x", "init_y", "seed_x", "seed_y", "checkpoint_x",
    "checkpoint_y", "stage", "measure", "value", "noise_floor", "directions_x", "directions_y", "n_samples",
    "n_images", "positions_per_image", "variance_fraction", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How networks are compared; stated in the report.

    Attributes:
        probe_images: test images, at most as many as there are.
        positions_per_image: of feature maps.
        variance_fraction: kept by SVCCA, of the squares of singular values.
        seed: of the choice of images and positions.
    """

    probe_images: int = 512
    positions_per_image: int = 8
    variance_fraction: float = 0.99
    seed: int = 0


@dataclass(frozen=True)
class Side:
    """One network of a comparison: a checkpoint of a trial."""

    trial_id: str
    init: str
    seed: int
    checkpoint: str


@dataclass(frozen=True)
class Comparison:
    """Two networks to compare, of one setting."""

    kind: str
    setting: str
    architecture: str
    dataset: str
    x: Side
    y: Side


def plan_comparisons(finished: pd.DataFrame) -> list[Comparison]:
    """Decide what to compare, from the rows of finished trials; settings stay together.

    Only networks that were trained as a whole: what is frozen stays as it was, and trees have no stages.
    """
    finished = finished[finished["protocol"] == FULL_TRAINING]
    return [
        Comparison(kind, str(setting), rows["architecture"].iloc[0], rows["dataset"].iloc[0], x, y)
        for setting, rows in finished.groupby("setting", sort=False)
        for kind, x, y in _pairs(rows)
    ]


def _pairs(rows: pd.DataFrame) -> Iterator[tuple[str, Side, Side]]:
    trials = rows.to_dict("records")
    for trial in trials:
        yield BEFORE_AFTER, _side(trial, "initial"), _side(trial, "final")
    random = {t["seed"]: _side(t, "final") for t in trials if t["init_kind"] == "random"}
    seeds = sorted(random)
    neighbours = list(pairwise(seeds))
    if len(seeds) > 2:
        neighbours.append((seeds[-1], seeds[0]))
    for trial in trials:
        others = [seed for seed in seeds if seed > trial["seed"]] or [s for s in seeds if s != trial["seed"]]
        if trial["init_kind"] == "pretrained" and others:
            yield PRETRAINED_RANDOM, _side(trial, "final"), random[others[0]]
    for first, second in neighbours:
        yield RANDOM_RANDOM, random[first], random[second]


def _side(trial: dict[Any, Any], checkpoint: str) -> Side:
    return Side(trial["trial_id"], trial["init"], int(trial["seed"]), checkpoint)


def compare_networks(
    comparisons: list[Comparison],
    trials: StudyTrials,
    *,
    reader: "RecordReader",
    data_root: Path | None,
    settings: Settings,
    device: torch.device,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Return one row per comparison, stage and measure, with SIMILARITY_COLUMNS.

    The stage "top two" is the mean over the last two backbone stages, as in Transfusion's figure 2.
    What cannot be computed is a row without value that says why: a checkpoint that is missing or damaged,
    a dataset that is not on this machine, too few samples. The others are not affected.
    """
    probes = _Probes(data_root, settings)
    rows: list[dict[str, Any]] = []
    for done, comparison in enumerate(comparisons):
        if progress is not None:
            progress("comparing networks", done, len(comparisons))
        records = [trials.records[side.trial_id] for side in (comparison.x, comparison.y)]
        try:
            probe = probes.of(records[0])
            networks = {
                key: load_network(reader, record, side.checkpoint, n_outputs=probe.n_outputs)
                for key, record, side in zip("xy", records, (comparison.x, comparison.y), strict=True)
            }
            rows += _stage_rows(comparison, networks, probe, settings, device)
        except (CheckpointError, DataError, SpecError, IncomparableError) as error:
            rows.append(_facts(comparison, settings) | {"reason": str(error)})
    if progress is not None and comparisons:
        progress("comparing networks", len(comparisons), len(comparisons))
    return pd.DataFrame(rows, columns=list(SIMILARITY_COLUMNS))


def load_network(
    reader: "RecordReader", record: "TrialRecord", checkpoint: str, *, n_outputs: int
) -> Network:
    """Build the network of a trial with the weights of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or of another network.
    """
    weights = reader.weights(record, checkpoint)
    with torch.random.fork_rng():
        network = build_network(
            record.spec.architecture, n_outputs=n_outputs, channels=record.spec.dataset.channels
        )
    try:
        network.module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{record.spec.label}: checkpoint {checkpoint!r} does not fit the network: {error}"
        ) from None
    return network


class _Probes:
    """Loads the probe set of each dataset once, and remembers why one could not be loaded."""

    def __init__(self, data_root: Path | None, settings: Settings) -> None:
        self._data_root, self._settings = data_root, settings
        self._spec: object = None
        self._newest: ProbeSet | DataError | SpecError | None = None

    def of(self, record: "TrialRecord") -> ProbeSet:
        spec = record.spec.dataset
        # Comparisons of a setting follow each other, so one probe set in memory is enough.
        if spec != self._spec or self._newest is None:
            self._spec = spec
            try:
                self._newest = load_probe(
                    spec,
                    data_root=self._data_root,
                    n_images=self._settings.probe_images,
                    seed=self._settings.seed,
                )
            except (DataError, SpecError) as error:
                self._newest = error
        if isinstance(self._newest, DataError | SpecError):
            raise self._newest
        return self._newest


def _stage_rows(
    comparison: Comparison,
    networks: dict[str, Network],
    probe: ProbeSet,
    settings: Settings,
    device: torch.device,
) -> list[dict[str, Any]]:
    stages = [stage.name for stage in networks["x"].stages]
    moments = gather_moments(
        networks,
        [StagePair("x", stage, "y", stage) for stage in stages],
        probe,
        positions_per_image=settings.positions_per_image,
        seed=settings.seed,
        device=device,
    )
    facts = _facts(comparison, settings) | {"n_images": len(probe.images)}
    rows = []
    for measure, compute in MEASURES.items():
        of_measure = {}
        for pair, gathered in moments.items():
            row = facts | {"stage": pair.stage_x, "measure": measure, "n_samples": gathered.n}
            try:
                similarity = compute(gathered, settings.variance_fraction)
                row |= {
                    "value": similarity.value,
                    "noise_floor": similarity.noise_floor,
                    "directions_x": similarity.directions_x,
                    "directions_y": similarity.directions_y,
                }
            except IncomparableError as error:
                row |= {"reason": f"{pair.stage_x}: {error}"}
            of_measure[pair.stage_x] = row
        rows += [*of_measure.values(), _top_two(facts, [of_measure[s] for s in networks["x"].backbone[-2:]])]
    return rows


def _top_two(facts: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the rows of the last two backbone stages; a missing one makes the mean missing."""
    mean = facts | {"stage": TOP_TWO, "measure": rows[0]["measure"]}
    reasons = [row["reason"] for row in rows if row["reason"]]
    if reasons:
        return mean | {"reason": "; ".join(reasons)}
    return mean | {key: sum(row[key] for row in rows) / len(rows) for key in ("value", "noise_floor")}


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
        "positions_per_image": settings.positions_per_image,
        "variance_fraction": settings.variance_fraction,
        "value": float("nan"),
        "noise_floor": float("nan"),
        "stage": "",
        "measure": "",
        "reason": "",
    }
