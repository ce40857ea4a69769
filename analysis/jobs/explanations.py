"""Where networks look, and whether the methods that say so depend on what was learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.jobs.bench import Bench
from analysis.jobs.job import Job, Outcome, Weights
from analysis.load import FULL_TRAINING, StudyTrials
from analysis.networks.class_scores import Score
from analysis.networks.explanations import METHODS, ExplainedImages
from analysis.networks.perturbation import perturb
from analysis.networks.probe import ProbeSet
from analysis.networks.randomisation import RANDOMISATION_COLUMNS, random_network, randomisation_check
from analysis.networks.stage_maps import stage_activations
from trainables.datasets.loading import Dataset
from trainables.datasets.table import UNKNOWN

EXPLANATIONS, RANDOMISATION = "explanations", "randomised explanations"
BEST = "best"
SHOWN_METHODS = ("gradient", "smooth_grad", "integrated_gradients", "grad_cam")
PERTURBATION = "Meaningful perturbation"
FIRST_LAYER = "first layer"
IMAGES_OF_A_CHECK = 16


@dataclass(frozen=True)
class Explained:
    """The explanations of one setting.

    Attributes:
        images: with the maps of every network shown.
        first_layer: activations of the first stage, (n, channels, h, w), by initialization.
    """

    setting: str
    images: ExplainedImages
    first_layer: dict[str, np.ndarray]


def explained_trials(finished: pd.DataFrame) -> pd.DataFrame:
    """Return the networks to explain: the first seed of each random and pretrained cell.

    Settings without either give the first seed of their first two cells.
    """
    rows = finished[finished["protocol"] == FULL_TRAINING].sort_values("seed", kind="stable")
    firsts = rows.drop_duplicates(["setting", "init"]).sort_index()
    ends = firsts[firsts["init_kind"].isin(["random", "pretrained"])]
    others = firsts[~firsts["setting"].isin(set(ends["setting"]))].groupby("setting", sort=False).head(2)
    return pd.concat([ends, others]).sort_index()


def explanation_jobs(rows: pd.DataFrame, trials: StudyTrials, *, n_images: int) -> list[Job]:
    """Return the job that explains each network; `rows` are those of `explained_trials`."""
    return [
        Job(EXPLANATIONS, (Weights(trials.records[key], BEST),), {"n_images": n_images})
        for key in rows["trial_id"]
    ]


def randomisation_jobs(rows: pd.DataFrame, trials: StudyTrials) -> list[Job]:
    """Return the job that checks the methods on each network."""
    return [
        Job(
            RANDOMISATION,
            (Weights(trials.records[key], BEST),),
            # Another seed than the trial's own, whose random weights it may have kept.
            {"n_images": IMAGES_OF_A_CHECK, "seed": int(seed) + 1},
        )
        for key, seed in zip(rows["trial_id"], rows["seed"], strict=True)
    ]


def explain_network(job: Job, bench: Bench) -> Outcome:
    """Return maps by method, the images, and one row per image: sample_id, label, predicted."""
    [weights] = job.inputs
    dataset, probe = bench.dataset(weights), bench.probe(weights, n_images=job.settings["n_images"], seed=0)
    network = bench.network(weights, n_outputs=dataset.n_outputs)
    images, targets = _pixels(probe, bench.device), _targets(dataset, probe).to(bench.device)
    with torch.inference_mode():
        predicted = network.module(images).argmax(dim=1).tolist()
    arrays = {
        f"map-{name}": METHODS[name].explain(network, images.clone(), targets) for name in SHOWN_METHODS
    }
    score: Score = "sigmoid" if dataset.task == "multilabel" else "softmax"
    arrays[f"map-{PERTURBATION}"] = 1 - perturb(network.module, images, targets, score=score).masks
    if not all(np.isfinite(maps).all() for maps in arrays.values()):
        raise ValueError("the maps are not finite: the network has diverged")
    arrays |= {"images": probe.images, FIRST_LAYER: stage_activations(network, images)}
    rows = [
        {
            "sample_id": str(sample),
            "label": _label(dataset, label),
            "predicted": dataset.classes[guess],
        }
        for sample, label, guess in zip(probe.sample_ids, probe.labels, predicted, strict=True)
    ]
    return Outcome(rows, arrays)


def check_methods(job: Job, bench: Bench) -> Outcome:
    """Return the rows of the randomisation check of one network."""
    [weights] = job.inputs
    dataset, probe = bench.dataset(weights), bench.probe(weights, n_images=job.settings["n_images"], seed=0)
    network = bench.network(weights, n_outputs=dataset.n_outputs)
    spec = weights.record.spec
    random = random_network(
        spec.architecture,
        n_outputs=dataset.n_outputs,
        channels=spec.dataset.channels,
        seed=job.settings["seed"],
    )
    random.module.to(bench.device).eval()
    check = randomisation_check(
        network,
        random,
        _pixels(probe, bench.device),
        _targets(dataset, probe).to(bench.device),
        methods={name: METHODS[name] for name in SHOWN_METHODS},
    )
    return Outcome([_plain(row) for row in check.to_dict("records")])


def explained_settings(rows: pd.DataFrame, outcomes: Sequence[Outcome]) -> list[Explained]:
    """Put the networks of each setting side by side; those without an outcome are left out."""
    known = [(row, o) for row, o in zip(rows.to_dict("records"), outcomes, strict=True) if not o.reason]
    settings: dict[str, dict[str, Outcome]] = {}
    for row, outcome in known:
        settings.setdefault(row["setting"], {})[row["init"]] = outcome
    return [_side_by_side(setting, by_init) for setting, by_init in settings.items()]


def _side_by_side(setting: str, by_init: dict[str, Outcome]) -> Explained:
    first = next(iter(by_init.values()))
    methods = [name.removeprefix("map-") for name in first.arrays if name.startswith("map-")]
    images = ExplainedImages(
        first.arrays["images"],
        [row["label"] for row in first.rows],
        {init: [row["predicted"] for row in outcome.rows] for init, outcome in by_init.items()},
        {
            method: {init: outcome.arrays[f"map-{method}"] for init, outcome in by_init.items()}
            for method in methods
        },
    )
    return Explained(setting, images, {init: o.arrays[FIRST_LAYER] for init, o in by_init.items()})


def randomisation_rows(rows: pd.DataFrame, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return RANDOMISATION_COLUMNS with the setting and initialization of each network in front."""
    found = [
        {"setting": row["setting"], "init": row["init"], **check}
        for row, outcome in zip(rows.to_dict("records"), outcomes, strict=True)
        for check in outcome.rows
    ]
    return pd.DataFrame(found, columns=["setting", "init", *RANDOMISATION_COLUMNS])


def _pixels(probe: ProbeSet, device: torch.device) -> Tensor:
    return torch.cat(list(probe.batches(64, device)))


def _targets(dataset: Dataset, probe: ProbeSet) -> Tensor:
    """Return the class whose score is explained: the label; of several labels the first that holds.

    An image for which no label holds is explained by its first label, whose absence is then the answer.
    """
    if dataset.task != "multilabel":
        return torch.from_numpy(np.array(probe.labels)).long()
    holds = np.where(probe.labels == UNKNOWN, 0, probe.labels)
    return torch.from_numpy(holds.argmax(axis=1)).long()


def _label(dataset: Dataset, label: np.ndarray) -> str:
    if dataset.task != "multilabel":
        return dataset.classes[int(label)]
    return ", ".join(name for name, mark in zip(dataset.classes, label, strict=True) if mark == 1) or "none"


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()
    }
