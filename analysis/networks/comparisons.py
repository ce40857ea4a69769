"""Which networks are compared with which, as the papers do and beyond.

- *before/after*: a network at its initialization and at the end of its training (Transfusion, figure 3).
- *pretrained–random*: two trained networks of different seeds, one of them pretrained; *random–random*: the
  same with both from random weights, what two trainings share in any case (figure 2). Both also *at
  initialization*, to set against what they are after training (figure 4).
- *stage × stage*: every stage of one trained network with every stage of another.
- *along training*: a network on its way and at its end (Raghu et al. 2017).
- *across architectures*: trained networks of two architectures, every stage with every stage.

With n seeds, each is paired with the next in a circle: n pairs of every kind (one random–random pair for
two seeds), in which every network takes part equally often.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.load import FULL_TRAINING

if TYPE_CHECKING:
    from trainables.record import TrialRecord

BEFORE_AFTER = "before/after"
PRETRAINED_RANDOM = "pretrained–random"
RANDOM_RANDOM = "random–random"
AT_START = " at initialization"
STAGE_BY_STAGE = "stage × stage"
ALONG_TRAINING = "along training"
ACROSS_ARCHITECTURES = "across architectures"

OF_EVERY_STAGE_WITH_EVERY = (STAGE_BY_STAGE, ACROSS_ARCHITECTURES)
SERIES = "step-"
TOP_TWO = "top two"
"""The mean over the last two backbone stages, as in Transfusion's figure 2."""

INITIAL, FINAL = "initial", "final"


@dataclass(frozen=True)
class Side:
    """One network of a comparison: a checkpoint of a trial."""

    trial_id: str
    init: str
    seed: int
    checkpoint: str


@dataclass(frozen=True)
class Comparison:
    """Two networks to compare.

    Attributes:
        setting: of both; of two architectures, that of each.
    """

    kind: str
    setting: str
    architecture: str
    dataset: str
    x: Side
    y: Side


def plan_comparisons(
    finished: pd.DataFrame, records: "Mapping[str, TrialRecord] | None" = None
) -> list[Comparison]:
    """Decide what to compare, from the rows of finished trials; settings stay together.

    Only networks that were trained as a whole: what is frozen stays as it was, and trees have no stages.

    Args:
        records: by trial id; those with checkpoints along their training are compared along it.
    """
    finished = finished[finished["protocol"] == FULL_TRAINING]
    planned = [
        Comparison(kind, str(setting), rows["architecture"].iloc[0], rows["dataset"].iloc[0], x, y)
        for setting, rows in finished.groupby("setting", sort=False)
        for kind, x, y in _of_setting(rows, records or {})
    ]
    return planned + list(_across_architectures(finished))


def _of_setting(rows: pd.DataFrame, records: "Mapping[str, TrialRecord]") -> Iterator[tuple[str, Side, Side]]:
    trials = rows.to_dict("records")
    for trial in trials:
        yield BEFORE_AFTER, _side(trial, INITIAL), _side(trial, FINAL)
    pairs = list(_pairs(trials))
    yield from pairs
    for kind, x, y in pairs:
        yield kind + AT_START, replace(x, checkpoint=INITIAL), replace(y, checkpoint=INITIAL)
    first_of_kind = {kind: (x, y) for kind, x, y in reversed(pairs)}
    for x, y in first_of_kind.values():
        yield STAGE_BY_STAGE, x, y
    for trial in trials:
        # The two ends of every transfusion; what lies between would take most of the time and show little.
        ends = trial["init_kind"] in ("random", "pretrained")
        record = records.get(trial["trial_id"]) if ends else None
        for name in sorted(record.checkpoints if record else ()):
            if name.startswith(SERIES):
                yield ALONG_TRAINING, _side(trial, name), _side(trial, FINAL)


def _pairs(trials: list[dict[Any, Any]]) -> Iterator[tuple[str, Side, Side]]:
    random = {t["seed"]: _side(t, FINAL) for t in trials if t["init_kind"] == "random"}
    seeds = sorted(random)
    neighbours = list(pairwise(seeds))
    if len(seeds) > 2:
        neighbours.append((seeds[-1], seeds[0]))
    for trial in trials:
        others = [seed for seed in seeds if seed > trial["seed"]] or [s for s in seeds if s != trial["seed"]]
        if trial["init_kind"] == "pretrained" and others:
            yield PRETRAINED_RANDOM, _side(trial, FINAL), random[others[0]]
    for first, second in neighbours:
        yield RANDOM_RANDOM, random[first], random[second]


def _across_architectures(finished: pd.DataFrame) -> Iterator[Comparison]:
    """Pair the settings that share a dataset and differ in architecture, per initialization at both ends."""
    ends = finished[finished["init_kind"].isin(["random", "pretrained"])]
    for (dataset, _init), rows in ends.groupby(["dataset", "init"], sort=False):
        firsts = rows.sort_values("seed").drop_duplicates("setting").to_dict("records")
        for x, y in combinations(firsts, 2):
            if x["architecture"] != y["architecture"]:
                yield Comparison(
                    ACROSS_ARCHITECTURES,
                    f"{x['setting']} – {y['setting']}",
                    f"{x['architecture']} – {y['architecture']}",
                    str(dataset),
                    _side(x, FINAL),
                    _side(y, FINAL),
                )


def _side(trial: dict[Any, Any], checkpoint: str) -> Side:
    return Side(trial["trial_id"], trial["init"], int(trial["seed"]), checkpoint)
