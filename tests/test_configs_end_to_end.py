"""Every configuration, from its study file to its report, on a miniature of the data it is for.

The images are few and small, in the format of the real ones; the networks see two steps. What is published
and needs a network, pretrained weights, is drawn at random under the published names. From each grid so many
trials are taken that every value of every axis occurs, with all that they start from.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from analysis.networks import explanations
from analysis.networks.perturbation import PerturbationSettings
from analysis.pipeline import analyze
from analysis.results import Options, StudyFacts
from study.config import parse_study
from study.plan import Plan, PlanEntry, State, make_plan, read_plan
from study.search.live import LiveSearches
from tests.miniatures import folders, tables
from trainables.architectures.catalog import ARCHITECTURES
from trainables.architectures.reshaping import architecture_of
from trainables.architectures.spec import ArchitectureSpec
from trainables.architectures.stages import build_network
from trainables.datasets.loading import cached_dataset
from trainables.record import RecordReader, Store, TrialRecord
from trainables.spec import RunOptions, SourceSpec
from trainables.trial import run_trial

pytestmark = pytest.mark.configs

ROOT = Path(__file__).parent.parent
STUDIES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if "clusters" not in p.parts)

# What writes the miniature of a dataset, by its name in the catalog.
WRITERS: dict[str, Callable[[Path], object]] = {
    "chest_xray": lambda root: folders.write_kermany(root, n_persons=30),
    "chexpert_small": lambda root: tables.write_chexpert(root, n_patients=40),
    "cifar10": lambda root: folders.write_image_folder(root / "cifar10"),
    "cifar10_batches": folders.write_cifar10_batches,
    "cifar100": folders.write_cifar100,
    "cifar100_coarse": folders.write_cifar100,
    "eyepacs": tables.write_eyepacs,
    "ham10000": tables.write_ham10000,
    "imagenet": lambda root: folders.write_imagenet(root, n_classes=6, per_class=12),
}
EMBEDDED = ("digits", "synthetic")
# Dense layers of their full width would be all that the test does.
DENSE = ("alexnet", "vgg16", "vgg16_bn")
SMALL_ANALYSIS: dict[str, Any] = {"probe_images": 8, "explained_images": 1, "thresholds": {}}
# Which needs sixteen times the pixels that the rest of the network does.
WITH_AUXILIARY_HEAD = ("inception_v3",)


def write_miniature(name: str, root: Path) -> None:
    if name.endswith("mnist"):
        folders.write_medmnist(root, name, n=60)
    elif not name.startswith(EMBEDDED):
        WRITERS[name](root)


class Miniature:
    """A study file made small: the same questions, axes and sources."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.datasets: set[str] = set()
        self._size_px = max([32, *(_smallest_px(shape) for shape in _architectures(content))])
        self._counts = {
            field: sorted(set(_values_of(content, field))) for field in ("n_classes", "train_per_class")
        }
        self.content = {
            **self._small(dict(content)),
            "seeds": [0, 1],
            "analysis": {**content.get("analysis", {}), **SMALL_ANALYSIS},
            "resources": {"cpu": 1},
        }
        if "search" in self.content:
            self.content["search"] = {"settings": 2, "space": content["search"]["space"]}

    def _small(self, content: Any, *, at: str = "") -> Any:
        """Walk through the file and make small what has a size, wherever it stands."""
        name = at.rpartition(".")[2]
        if isinstance(content, list) and not at.endswith((".thresholds", "range")):
            return [self._small(item, at=at) for item in content]
        if name == "dataset" and isinstance(content, (str, dict)):
            return self._dataset(content)
        if name == "architecture" and isinstance(content, (str, dict)) and at != "source.architecture":
            return _architecture(content)
        if name == "training" and isinstance(content, dict):
            return _training(content)
        if at.endswith("dataset.train_fraction"):
            return 0.5 + content / 2
        if at.endswith("training.steps"):
            return content // 1000 + 2
        if isinstance(content, dict):
            return {key: self._small(value, at=key) for key, value in content.items()}
        return content

    def _dataset(self, content: str | dict[str, Any]) -> dict[str, Any]:
        dataset = {"from": content} if isinstance(content, str) else dict(content)
        self.datasets.add(dataset["from"])
        dataset |= {"partial": True, "size_px": self._size_px}
        for field, counts in self._counts.items():
            if field in dataset:
                dataset[field] = 2 + counts.index(dataset[field])
        if "validation_fraction" in dataset:
            dataset["validation_fraction"] = max(0.2, dataset["validation_fraction"])
        return dataset


def _architectures(content: Any) -> Iterator[Any]:
    """Yield every architecture a file names, with its shape."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "architecture":
                yield from value if isinstance(value, list) else [value]
            else:
                yield from _architectures(value)
    elif isinstance(content, list):
        for item in content:
            yield from _architectures(item)


def _smallest_px(shape: Any) -> int:
    if shape in ("whole", "same"):
        return 0
    fields = {"name": shape} if isinstance(shape := _architecture(shape), str) else shape
    return architecture_of(ArchitectureSpec.model_validate(fields)).smallest_px


def _values_of(content: Any, field: str) -> Iterator[Any]:
    if isinstance(content, dict):
        if field in content:
            yield content[field]
        for value in content.values():
            yield from _values_of(value, field)
    elif isinstance(content, list):
        for item in content:
            yield from _values_of(item, field)


def _architecture(content: str | dict[str, Any]) -> str | dict[str, Any]:
    fields = {"name": content} if isinstance(content, str) else content
    if fields["name"] in DENSE:
        return {**fields, "head_width": 8}
    if fields["name"] in WITH_AUXILIARY_HEAD:
        return {**fields, "auxiliary": False}
    return content


def _training(content: dict[str, Any]) -> dict[str, Any]:
    small = {key: value for key, value in content.items() if key != "epochs"}
    if "steps" in content or "epochs" in content:
        small["steps"] = 2
    if "batch_size" in content:
        small["batch_size"] = 4
    if "micro_batch_size" in content:
        small["micro_batch_size"] = 2
    if "evaluation" in content:
        small["evaluation"] = {**content["evaluation"], "points": 1}
    return small


def covering(plan: Plan) -> list[PlanEntry]:
    """Choose trials so that every value of every axis occurs, and with all that they start from."""
    wanted: set[tuple[str, str]] = set()
    chosen: list[PlanEntry] = []
    for entry in plan.entries:
        values = {(axis, str(value)) for axis, value in entry.trial.axes.items()}
        if not entry.trial.is_source and not values <= wanted:
            wanted |= values
            chosen.append(entry)
    by_id = {entry.trial_id: entry for entry in plan.entries}
    needed = {entry.trial_id for entry in chosen}
    waiting = list(needed)
    while waiting:
        for parent in by_id[waiting.pop()].trial.parent_ids:
            if parent not in needed:
                needed.add(parent)
                waiting.append(parent)
    return [entry for entry in plan.entries if entry.trial_id in needed]


def random_weights(source: SourceSpec, *, data_root: Path | None) -> dict[str, torch.Tensor]:
    """Stand in for what a publisher's file holds: the whole network, RGB, a thousand classes."""
    architecture = next(name for name, entry in ARCHITECTURES.items() if source.weights in entry.published)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(architecture, n_outputs=2, channels=3).module.state_dict()


@pytest.mark.parametrize("file", STUDIES, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_a_configuration_runs_from_its_study_file_to_its_report(
    file: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trainables.pretrained.load_weights", random_weights)
    monkeypatch.setattr("analysis.jobs.weights.line_alphas", lambda: (0.0, 0.5, 1.0))
    monkeypatch.setattr("analysis.jobs.explanations.IMAGES_OF_A_CHECK", 2)
    few = partial(PerturbationSettings, n_iterations=3)
    monkeypatch.setattr("analysis.networks.perturbation.PerturbationSettings", few)
    monkeypatch.setattr(explanations, "smooth_grad", partial(explanations.smooth_grad, n_draws=2))
    coarse = partial(explanations.integrated_gradients, n_steps=2)
    monkeypatch.setattr(explanations, "integrated_gradients", coarse)
    miniature = Miniature(yaml.safe_load(file.read_text()))
    for name in miniature.datasets:
        write_miniature(name, tmp_path / "data")
    study = parse_study(yaml.safe_dump(miniature.content, sort_keys=False), path=file.name)
    planned = make_plan(study, [])
    searches = LiveSearches(planned, lambda trial_id: _record(store, trial_id).metrics)
    # What a search will draw is not known yet; what all of it starts from is.
    chosen = [*planned.entries] if planned.searches else covering(planned)
    _run(chosen, store=store, searches=searches, data_root=tmp_path / "data")
    while (entry := searches.next(lambda _: True)) is not None:
        _run([entry], store=store, searches=searches, data_root=tmp_path / "data")
        searches.ended(entry, "finished", {})
        chosen.append(entry)
    decided = searches.released()
    _run(decided, store=store, searches=searches, data_root=tmp_path / "data")
    plan = read_plan(study, RecordReader(store))
    states = {entry.trial_id: (entry.state, entry.reason) for entry in plan.entries}
    chosen += decided
    assert [states[entry.trial_id] for entry in chosen] == [(State.DONE, "")] * len(chosen)
    named = [entry for entry in plan.entries if entry.trial.setting is None]
    report = analyze(
        RecordReader(store),
        StudyFacts(
            name=study.name,
            question=study.question or "",
            file=study.text,
            planned=named,
            trial_ids={entry.trial_id: entry.trial.is_source for entry in named},
        ),
        data_root=tmp_path / "data",
        output=tmp_path / "report",
        options=Options(**study.analysis.model_dump()),
    )
    assert report.stat().st_size > 10_000


def _record(store: Store, trial_id: str) -> TrialRecord:
    record = RecordReader(store).trial(trial_id)
    assert record is not None
    return record


def _run(entries: Sequence[PlanEntry], *, store: Store, searches: LiveSearches, data_root: Path) -> None:
    options = RunOptions(threads=2)
    for entry in entries:
        for progress in run_trial(
            entry.trial.spec,
            store=store,
            options=options,
            data_root=data_root,
            study=searches.plan.study,
            marks=searches.marks(entry.trial_id),
        ):
            assert progress.status in ("running", "finished", "reused"), f"{entry.label}: {progress.cause}"
    cached_dataset.cache_clear()
    gc.collect()
