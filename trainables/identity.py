"""The identity of a trial: what its specification comes down to, and the hash of that.

`resolve` writes out every default and brings a spec to its normal form, so that equal trainings have
equal specs; `trial_id` hashes that form.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from trainables.architectures.catalog import find_architecture
from trainables.datasets.catalog import normalize_dataset
from trainables.errors import SpecError, WeightsError, unknown_choice
from trainables.spec import InitSpec, SourceSpec, TrialSpec


def resolve(spec: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """Return the normal form of a spec: equal trainings give equal results.

    Transfusing no stage is `random` (or `mean_var`), transfusing every stage is `pretrained`; a depth
    is a number; a weight file is known by its digest; what a dataset does not use is at its default.

    Args:
        data_root: where a weight file is looked up; needed only if the lineage names a file without digest.

    Raises:
        SpecError: unknown architecture, stage, reader or class, a depth beyond the network, images too small
            for it, or a source whose images have other channels or whose network is another. The message
            starts with the field.
        WeightsError: a weight file is missing.
    """
    architecture = find_architecture(spec.architecture.name)
    if spec.dataset.size_px < architecture.smallest_px:
        raise SpecError(
            f"dataset.size_px must be at least {architecture.smallest_px} for {spec.architecture.name}, "
            f"got {spec.dataset.size_px}"
        )
    if spec.training.augment.shift_px >= spec.dataset.size_px:
        raise SpecError(
            f"training.augment.shift_px must be below dataset.size_px={spec.dataset.size_px}, "
            f"got {spec.training.augment.shift_px}"
        )
    source = _resolve_source(spec, data_root)
    init = _normal_init(spec.init, source, architecture=spec.architecture.name)
    return spec.model_copy(update={"dataset": normalize_dataset(spec.dataset), "init": init})


def _normal_init(init: InitSpec, source: SourceSpec | None, *, architecture: str) -> InitSpec:
    if init.kind != "transfusion" or init.depth is None:
        return InitSpec(kind=init.kind, source=None if init.kind == "random" else source)
    depth = n_transfused(init.depth, architecture)
    rest = init.rest or "random"
    if depth == 0 and rest == "random":
        return InitSpec(kind="random")
    if source is None:
        raise SpecError("init: transfusion needs a source of pretrained weights")
    if depth == 0:
        return InitSpec(kind="mean_var", source=source)
    if depth == n_transfused("all", architecture):
        return InitSpec(kind="pretrained", source=source)
    return InitSpec(kind="transfusion", depth=depth, rest=rest, source=source)


def n_transfused(depth: int | str, architecture: str) -> int:
    """Return a depth as a number of stages: `all` and names of stages stand for one.

    Raises:
        SpecError: no such stage, or a depth beyond the network.
    """
    backbone = find_architecture(architecture).backbone
    if depth == "all":
        return len(backbone)
    if isinstance(depth, int):
        if depth > len(backbone):
            raise SpecError(
                f"init.depth must be at most {len(backbone)} for {architecture} "
                f"(stages {', '.join(backbone)}), got {depth}"
            )
        return depth
    if depth in backbone:
        return backbone.index(depth) + 1
    raise SpecError(
        f"{unknown_choice('init.depth', depth, (*backbone, 'all'))} ({architecture}; or a number of stages)"
    )


def _resolve_source(spec: TrialSpec, data_root: Path | None) -> SourceSpec | None:
    source = spec.init.source
    if source is None or spec.init.kind == "random":
        return None
    if source.trial is not None:
        return source.model_copy(update={"trial": _resolve_parent(spec, source.trial, data_root)})
    if source.file is not None and source.sha256 is None:
        if data_root is None:
            raise WeightsError(f"source.file {source.file}: set TRANSFUSION_DATA to the folder that holds it")
        source = source.model_copy(update={"sha256": file_digest(data_root / source.file)})
    return source.model_copy(update={"checkpoint": "best"})  # published weights and files have no other


def _resolve_parent(spec: TrialSpec, parent: TrialSpec, data_root: Path | None) -> TrialSpec:
    if parent.architecture != spec.architecture:
        raise SpecError(
            f"init.source.trial.architecture must be {spec.architecture.name!r}, the network it initializes, "
            f"got {parent.architecture.name!r}"
        )
    if parent.dataset.channels != spec.dataset.channels:
        raise SpecError(
            f"init.source.trial.dataset.channels must be {spec.dataset.channels} as in the target "
            f"{spec.dataset.label}, got {parent.dataset.channels} ({parent.dataset.label}); "
            "give both datasets the same channels"
        )
    try:
        return resolve(parent, data_root)
    except SpecError as error:
        raise SpecError(f"init.source.trial.{error}") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        WeightsError: there is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"source.file: no file at {path}; put the weights there or mend the path")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical(spec: TrialSpec) -> dict[str, Any]:
    """Return the content that is hashed, of a resolved spec: every field written out, files by digest."""
    content = spec.model_dump(mode="json")
    source = content["init"]["source"]
    if source is not None:
        source.pop("file")
        if spec.init.source is not None and spec.init.source.trial is not None:
            source["trial"] = canonical(spec.init.source.trial)
    return content


def trial_id(spec: TrialSpec) -> str:
    """Return the identity of a resolved spec: 16 hex digits of the SHA-256 of its canonical JSON."""
    return _digest(canonical(spec))


def cell_id(spec: TrialSpec) -> str:
    """Return the identity of the spec without its seed: equal for the trials that tables average."""
    content = canonical(spec)
    content.pop("seed")
    return _digest(content)


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(spec: TrialSpec) -> dict[str, Any]:
    """Return every field of a resolved spec under its dotted name, the source's trial by its id."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        elif value is not None:
            flat[prefix] = ",".join(map(str, value)) if isinstance(value, list) else value

    content = spec.model_dump(mode="json")
    source = spec.init.source
    if source is not None:
        content["init"]["source"] = {"name": source.label, "checkpoint": source.checkpoint}
        if source.sha256 is not None:
            content["init"]["source"]["sha256"] = source.sha256
        if source.trial is not None:
            content["init"]["source"]["trial_id"] = trial_id(source.trial)
    visit("", content)
    return flat
