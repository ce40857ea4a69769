"""From the records of a study to plain tables.

A *setting* is everything a trial states but its initialization, what of the network learns, and its seed:
usually an architecture on a dataset. Initializations are compared within a setting (`pretrained`, or
`pretrained · trains head`); a cell is one initialization of one setting. What a search chose for a cell is no
part of either: cells that are each at their own best learning rate are compared with each other.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.searches import Searches, SearchFacts
from trainables.architectures.reshaping import architecture_of
from trainables.architectures.spec import ArchitectureSpec
from trainables.identity import flatten, trial_id
from trainables.labels import distinct_labels
from trainables.spec import InitSpec, TrialSpec

if TYPE_CHECKING:
    from trainables.record import RecordReader, TrialRecord

HISTORY_METRICS = (
    "val_auroc", "val_auprc", "val_accuracy", "val_f1", "val_kappa", "val_loss", "train_loss", "images_seen",
    "train_seconds",
)  # fmt: skip

TRIAL_COLUMNS = (
    "trial_id", "cell_id", "label", "setting", "architecture", "family", "whole", "is_truncated", "dataset",
    "init",
    "init_kind", "protocol", "depth", "n_stages", "rest", "source", "seed", "status", "cause", "is_source",
    "seconds",
)  # fmt: skip

FULL_TRAINING = "trains all"

ALWAYS_THERE = ("test_auroc", "n_params")

_KIND_ORDER = {"random": 0, "mean_var": 1, "gabor": 2, "transfusion": 3, "pretrained": 4, "fitted": 5}


@dataclass(frozen=True)
class StudyTrials:
    """The trials of a study.

    Attributes:
        table: one row per trial with TRIAL_COLUMNS and one column per scalar metric. `family` is what the
            architecture's name begins with, `whole` the network that a slim or truncated one is a part of
            ("" for whole networks). `depth` is the number
            of stages with pretrained weights (0 for random, all for pretrained, NaN for the others, and where
            not all stages learn). `protocol` says what learns (FULL_TRAINING, …).
            `is_source` marks trials that only serve as a pretraining.
        records: by trial_id.
        searches: of the cells whose settings were searched.
    """

    table: pd.DataFrame
    records: Mapping[str, "TrialRecord"]
    searches: Searches = field(default_factory=dict)

    @property
    def finished(self) -> pd.DataFrame:
        """The rows that tables and figures are made of: finished, and asked for by the study itself."""
        return self.table[(self.table["status"] == "finished") & ~self.table["is_source"]]

    @property
    def inits(self) -> tuple[str, ...]:
        """The initializations of the finished trials, from random over transfusions to pretrained."""
        return tuple(_ordered(self.finished.drop_duplicates("init"), by=())["init"])


def load_trials(
    reader: "RecordReader",
    study: str,
    *,
    trial_ids: Mapping[str, bool] | None = None,
    searches: Sequence[SearchFacts] = (),
) -> StudyTrials:
    """Read the trials of a study; settings and cells get labels that tell them apart.

    Args:
        trial_ids: of the trials the study file names now, with whether each is only there because another
            starts from it; None takes every trial that was ever part of the study.
        searches: of its cells; the trials that a search tried settings with are not to be read.
    """
    records = {r.trial_id: r for r in reader.trials(study) if trial_ids is None or r.trial_id in trial_ids}
    specs = {key: record.spec for key, record in records.items()}
    # A result belongs to its cell, whatever the search has chosen for it; a cell may have no result yet.
    bases = {key: search.base for search in searches for key in (search.label, *search.result_ids)}
    searched = {name for search in searches for name in search.fields}
    settings, inits = _cell_names({**specs, **bases}, searched)
    sources = {k for k in specs if trial_ids[k]} if trial_ids is not None else _source_only(specs, settings)
    rows = [
        _row(record, settings[key], inits[key], is_source=key in sources) for key, record in records.items()
    ]
    table = pd.DataFrame(rows, columns=None if rows else list(TRIAL_COLUMNS))
    table["is_source"] = table["is_source"].astype(bool)
    # What no trial has recorded is known to be unknown, so that nobody needs to ask whether it is there.
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *ALWAYS_THERE])))
    by_cell = {(settings[search.label], inits[search.label]): search for search in searches}
    return StudyTrials(_ordered(table), records, by_cell)


def _cell_names(
    specs: Mapping[str, TrialSpec], searched: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the setting and the initialization of each spec."""
    settings = distinct_labels(
        {key: f"{spec.architecture.label} · {spec.dataset.label}" for key, spec in specs.items()},
        _setting_contents(specs, searched),
    )
    # Within a setting two initializations of one name differ in their source.
    named = distinct_labels(
        {key: (settings[key], _init_label(spec)) for key, spec in specs.items()},
        {key: {**_only(flatten(spec), "init"), "protocol": protocol(spec)} for key, spec in specs.items()},
    )
    return settings, {key: label[len(settings[key]) + 3 :] for key, label in named.items()}


def protocol(spec: TrialSpec) -> str:
    """Say what of a network learns, and how: `trains all`, `trains head`, `linear probe`, `fitted`."""
    if spec.training.method == "gradient":
        return f"trains {spec.training.trainable.label}"
    return {"linear_probe": "linear probe", "fit": "fitted"}[spec.training.method]


def _init_label(spec: TrialSpec) -> str:
    how = protocol(spec)
    return (
        spec.init_label
        if how == FULL_TRAINING or spec.training.method == "fit"
        else f"{spec.init_label} · {how}"
    )


def _setting_contents(
    specs: Mapping[str, TrialSpec], searched: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return what makes the setting of each trial: no fields that are searched, and nothing below them.

    A linear probe has no steps and no optimizer. It stands beside the trained networks of its architecture
    and dataset, if these have one setting only.
    """
    contents = {key: _without(flatten(spec), "init", "seed") for key, spec in specs.items()}
    for content in contents.values():
        for name in [name for name in content if _is_below(name, ("training.trainable", *searched))]:
            del content[name]
    for key, spec in specs.items():
        if spec.training.method == "linear_probe":
            alike = [k for k, other in specs.items() if _is_trained_like(other, spec)]
            rivals = {tuple(sorted(contents[k].items())) for k in alike}
            if len(rivals) == 1:
                contents[key] = contents[alike[0]]
    return contents


def _is_trained_like(other: TrialSpec, probe: TrialSpec) -> bool:
    return (
        other.training.method == "gradient"
        and other.architecture == probe.architecture
        and other.dataset == probe.dataset
        and other.importance is None
    )


def load_histories(
    reader: "RecordReader", records: Iterable["TrialRecord"], metrics: Sequence[str] = HISTORY_METRICS
) -> pd.DataFrame:
    """Return the metrics over training, long: trial_id, metric, step, value."""
    return reader.histories(list(records), metrics)


def _row(record: "TrialRecord", setting: str, init: str, *, is_source: bool) -> dict[str, Any]:
    spec = record.spec
    n_stages = len(architecture_of(spec.architecture).backbone)
    learns = protocol(spec)
    whole = ArchitectureSpec(name=spec.architecture.name)
    return {
        "trial_id": record.trial_id,
        "cell_id": record.cell_id,
        "label": spec.label,
        "setting": setting,
        "architecture": spec.architecture.label,
        "family": _family(spec.architecture.name),
        "whole": "" if spec.architecture == whole else whole.label,
        "is_truncated": spec.architecture.truncate_after is not None,
        "dataset": spec.dataset.label,
        "init": init,
        "init_kind": "fitted" if spec.training.method == "fit" else spec.init.kind,
        "protocol": learns,
        "depth": _depth(spec.init, n_stages) if learns == FULL_TRAINING else float("nan"),
        "n_stages": n_stages,
        "rest": spec.init.rest or "random",
        "source": spec.init.source.label if spec.init.source else "",
        "seed": spec.seed,
        "status": record.status,
        "cause": record.cause or "",
        "is_source": is_source,
        "seconds": record.seconds,
        **record.metrics,
    }


def _family(name: str) -> str:
    """Return the letters a network's name begins with: resnet of resnet18, mobilenet of mobilenet_v2."""
    letters = re.match(r"[a-z]+", name.rpartition("/")[2])
    return letters.group() if letters else name


def _depth(init: InitSpec, n_stages: int) -> float:
    nothing = float("nan")
    fixed = {"random": 0.0, "pretrained": float(n_stages), "mean_var": nothing, "gabor": nothing}
    return fixed[init.kind] if init.kind in fixed else float(init.depth or 0)


def _source_only(specs: Mapping[str, TrialSpec], settings: Mapping[str, str]) -> set[str]:
    """Return the trials that serve as a source, in settings where no other trial was asked for."""
    parents = {trial_id(parent) for spec in specs.values() for parent in spec.parents}
    asked_for = {settings[key] for key in specs if key not in parents}
    return {key for key in specs if key in parents and settings[key] not in asked_for}


def _is_below(name: str, fields: Iterable[str]) -> bool:
    return any(name == outer or name.startswith(f"{outer}.") for outer in fields)


def _without(flat: Mapping[str, Any], *prefixes: str) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key.split(".")[0] not in prefixes}


def _only(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key.split(".")[0] == prefix}


def _ordered(table: pd.DataFrame, *, by: Sequence[str] = ("setting",)) -> pd.DataFrame:
    """Sort by some columns, then from random over deeper transfusions to pretrained, then by seed."""
    order = table.assign(_kind=table["init_kind"].map(_KIND_ORDER))
    order = order.sort_values([*by, "_kind", "protocol", "depth", "init", "seed"], kind="stable")
    return order.drop(columns="_kind").reset_index(drop=True)
