"""The normal form of a specification: every default written out, and one form for equal trainings."""

import hashlib
from pathlib import Path

from trainables.architectures.architecture import Architecture
from trainables.architectures.catalog import published_name
from trainables.architectures.reshaping import architecture_of, normal_architecture
from trainables.architectures.spec import ArchitectureSpec
from trainables.datasets.catalog import expected_task, normalize_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError, SpecError, UserError, WeightsError, unknown_choice
from trainables.spec import ImportanceSpec, InitSpec, SourceSpec, TrainableSpec, TrainingSpec, TrialSpec


def resolve(spec: TrialSpec, data_root: Path | None = None) -> TrialSpec:
    """Return the normal form of a spec: equal trainings give equal results.

    Transfusing no stage is `random` (or `mean_var`), transfusing every stage is `pretrained`; a depth
    is a number; a file is known by its digest; what has no effect is at its default.

    Args:
        data_root: where weight files and files of superclasses are looked up; needed only if the spec names
            one without its digest.

    Raises:
        SpecError: the parts do not fit each other: unknown architecture, stage, reader or class, a depth
            beyond the network, images too small for it, a source with other channels or another network, …
            The message starts with the field.
        WeightsError, DataError: a file is missing.
    """
    architecture = architecture_of(spec.architecture)
    dataset = _resolve_dataset(_expected_pixels(spec, architecture), data_root)
    spec = spec.model_copy(
        update={"architecture": normal_architecture(spec.architecture), "dataset": dataset}
    )
    _check_size(spec, architecture)
    spec = spec.model_copy(update={"training": _resolve_training(spec, architecture)})
    spec = spec.model_copy(update={"init": _resolve_init(spec, architecture, data_root)})
    spec = spec.model_copy(update={"importance": _resolve_importance(spec, data_root)})
    return with_seed(spec, spec.seed)


def with_seed(spec: TrialSpec, seed: int) -> TrialSpec:
    """Return a resolved spec with another seed; 0 where nothing is drawn.

    The features of a linear probe of pretrained weights are those of the source, and its fit is one solution.
    """
    is_drawn = spec.training.method != "linear_probe" or spec.init.kind != "pretrained"
    return spec.model_copy(update={"seed": seed if is_drawn else 0})


def _expected_pixels(spec: TrialSpec, architecture: Architecture) -> DatasetSpec:
    """Write out how pixels are normalized where the network says; trees see them as they are."""
    if not architecture.is_network:
        return spec.dataset.model_copy(update={"normalize": "train"})
    if spec.dataset.normalize != "published":
        return spec.dataset
    if architecture.normalize is None:
        raise SpecError(
            f"dataset.normalize cannot be 'published' for {spec.architecture.name}, whose weights expect "
            "pixels of neither kind; give train, imagenet or unit"
        )
    return spec.dataset.model_copy(update={"normalize": architecture.normalize})


def _check_size(spec: TrialSpec, architecture: Architecture) -> None:
    if architecture.is_fixed_size and spec.dataset.size_px != architecture.smallest_px:
        raise SpecError(
            f"dataset.size_px must be {architecture.smallest_px} for {spec.architecture.label}, which takes "
            f"no other, got {spec.dataset.size_px}"
        )
    if spec.dataset.size_px < architecture.smallest_px:
        raise SpecError(
            f"dataset.size_px must be at least {architecture.smallest_px} for {spec.architecture.label}, "
            f"got {spec.dataset.size_px}"
        )
    if spec.training.augment.shift_px >= spec.dataset.size_px:
        raise SpecError(
            f"training.augment.shift_px must be below dataset.size_px={spec.dataset.size_px}, "
            f"got {spec.training.augment.shift_px}"
        )


def _resolve_dataset(spec: DatasetSpec, data_root: Path | None) -> DatasetSpec:
    if isinstance(spec.superclasses, str) and spec.superclasses_sha256 is None:
        if data_root is None:
            raise DataError(
                f"dataset.superclasses {spec.superclasses}: set TRANSFUSION_DATA to the folder that holds it"
            )
        digest = file_digest(data_root / spec.superclasses, field="dataset.superclasses", error=DataError)
        spec = spec.model_copy(update={"superclasses_sha256": digest})
    return normalize_dataset(spec)


def _resolve_training(spec: TrialSpec, architecture: Architecture) -> TrainingSpec:
    training = spec.training
    if not architecture.is_network:
        return TrainingSpec(method="fit", class_weights=training.class_weights)
    if training.method == "fit":
        raise SpecError(
            f"training.method fit belongs to decision trees and forests, not to {spec.architecture.name}; "
            "leave it out"
        )
    task = expected_task(spec.dataset)
    if training.selection_metric == "val_kappa" and task != "ordinal":
        raise SpecError(
            f"training.selection_metric val_kappa is of grades, and {spec.dataset.label} has none; take "
            "another, or say with dataset.referable_grade that its classes are grades"
        )
    if training.method == "linear_probe":
        _check_linear_head(spec, architecture)
        return TrainingSpec(method="linear_probe", selection_metric=training.selection_metric)
    if training.label_smoothing and task == "multilabel":
        raise SpecError(
            f"training.label_smoothing must be 0 for {spec.dataset.label}, of which an image can have "
            f"several labels, got {training.label_smoothing}"
        )
    if training.class_weights != "none" and spec.importance is not None:
        raise SpecError(
            "training.class_weights must be none beside importance, which draws the classes in other shares "
            "than they have"
        )
    changes: dict[str, object] = {"trainable": _resolve_trainable(training.trainable, spec, architecture)}
    if training.micro_batch_size is not None and training.micro_batch_size >= training.batch_size:
        changes["micro_batch_size"] = None
    if spec.dataset.channels == 1:
        changes["augment"] = training.augment.model_copy(update={"saturation": 0.0})
    return training.model_copy(update=changes)


def _check_linear_head(spec: TrialSpec, architecture: Architecture) -> None:
    if architecture.has_linear_head:
        return
    advice = (
        "set architecture.auxiliary: false"
        if architecture.auxiliary_weight
        else f"set architecture.truncate_after: {architecture.backbone[-1]}, which gives it such a head"
    )
    raise SpecError(
        f"training.method linear_probe needs a head of one linear layer, which {spec.architecture.label} has "
        f"not; {advice}"
    )


def _resolve_trainable(
    trainable: TrainableSpec, spec: TrialSpec, architecture: Architecture
) -> TrainableSpec:
    """Say `all` where the first and the last stages meet."""
    n_stages = len(architecture.backbone)
    if trainable.first is None or trainable.last is None:
        return TrainableSpec()
    for name, count in (("first", trainable.first), ("last", trainable.last)):
        if count > n_stages:
            raise SpecError(
                f"training.trainable.{name} must be at most {n_stages} for {spec.architecture.label} "
                f"(stages {', '.join(architecture.backbone)}), got {count}"
            )
    return TrainableSpec() if trainable.first + trainable.last >= n_stages else trainable


def _resolve_init(spec: TrialSpec, architecture: Architecture, data_root: Path | None) -> InitSpec:
    init = spec.init
    if not architecture.is_network and init.kind != "random":
        raise SpecError(
            f"init.kind must be 'random' for {spec.architecture.name}, which has no weights, "
            f"got {init.kind!r}; add it under include, or exclude the combination"
        )
    source = _resolve_source(spec, data_root)
    if init.kind != "transfusion" or init.depth is None:
        resolved = _without_depth(init, source)
    else:
        resolved = _transfusion(init, source, spec.architecture)
    _check_copied(resolved, spec.architecture, architecture)
    return resolved


def _without_depth(init: InitSpec, source: SourceSpec | None) -> InitSpec:
    if init.kind == "mean_var":
        return InitSpec(kind="mean_var", norm=init.norm or "reset", source=source)
    return InitSpec(kind=init.kind, source=None if init.kind == "random" else source)


def _transfusion(init: InitSpec, source: SourceSpec | None, spec: ArchitectureSpec) -> InitSpec:
    assert init.depth is not None, "a transfusion has a depth"
    depth = n_transfused(init.depth, spec)
    rest = init.rest or "random"
    norm = (init.norm or "reset") if rest == "mean_var" else None
    if depth == 0 and rest == "random":
        return InitSpec(kind="random")
    if source is None:
        raise SpecError("init: transfusion needs a source of pretrained weights")
    if depth == 0:
        return InitSpec(kind="mean_var", norm=norm, source=source)
    if depth == n_transfused("all", spec):
        return InitSpec(kind="pretrained", source=source)
    return InitSpec(kind="transfusion", depth=depth, rest=rest, norm=norm, source=source)


def n_transfused(depth: int | str, spec: ArchitectureSpec) -> int:
    """Return a depth as a number of stages: `all` and names of stages stand for one.

    Raises:
        SpecError: no such stage, or a depth beyond the network.
    """
    backbone = architecture_of(spec).backbone
    if depth == "all":
        return len(backbone)
    if isinstance(depth, int):
        if depth > len(backbone):
            raise SpecError(
                f"init.depth must be at most {len(backbone)} for {spec.label} "
                f"(stages {', '.join(backbone)}), got {depth}"
            )
        return depth
    if depth in backbone:
        return backbone.index(depth) + 1
    raise SpecError(
        f"{unknown_choice('init.depth', depth, (*backbone, 'all'))} ({spec.label}; or a number of stages)"
    )


def _check_copied(init: InitSpec, spec: ArchitectureSpec, architecture: Architecture) -> None:
    """Refuse to copy stages that are slimmer than those of the source."""
    if spec.slim is None or init.source is None or init.source.file is not None:
        return  # a file may hold the weights of a slim network: its shapes are compared when it is read
    of_source = init.source.trial.architecture.slim if init.source.trial is not None else None
    n_copied = {"pretrained": len(architecture.backbone), "transfusion": init.depth}.get(init.kind, 0)
    n_equal = architecture.backbone.index(spec.slim.from_stage)
    if of_source != spec.slim and isinstance(n_copied, int) and n_copied > n_equal:
        wanted = f"depth {n_copied}" if init.kind == "transfusion" else "pretrained, which is all stages"
        raise SpecError(
            f"init must copy at most {n_equal} stages for {spec.label}: from {spec.slim.from_stage} on it "
            f"has fewer channels than its source, got {wanted}; use a transfusion of the stages before, or "
            "pretrain the slim network too (source: {architecture: same})"
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
        digest = file_digest(data_root / source.file, field="source.file")
        source = source.model_copy(update={"sha256": digest})
    if source.weights is not None:
        name = published_name(source.weights, spec.architecture.name)
        if spec.dataset.channels != 3:
            raise SpecError(
                f"dataset.channels must be 3 for published weights, which are of RGB images, got "
                f"{spec.dataset.channels}; grey images are repeated"
            )
        source = source.model_copy(update={"weights": name})
    return source.model_copy(update={"checkpoint": "best"})  # published weights and files have no other


def _resolve_parent(spec: TrialSpec, parent: TrialSpec, data_root: Path | None) -> TrialSpec:
    target, source = spec.architecture, parent.architecture
    if source.name != target.name:
        raise SpecError(
            f"init.source.trial.architecture must be {target.name!r}, the network it initializes, "
            f"got {source.name!r}"
        )
    for change in ("slim", "truncate_after"):
        if getattr(source, change) not in (None, getattr(target, change)):
            raise SpecError(
                f"init.source.trial.architecture.{change} must be that of the network it initializes, or "
                f"none: {target.label!r} cannot start from {source.label!r}"
            )
    if parent.dataset.channels != spec.dataset.channels:
        raise SpecError(
            f"init.source.trial.dataset.channels must be {spec.dataset.channels} as in the target "
            f"{spec.dataset.label}, got {parent.dataset.channels} ({parent.dataset.label}); "
            "give both datasets the same channels"
        )
    return _resolved_within("init.source.trial", parent, data_root)


def _resolve_importance(spec: TrialSpec, data_root: Path | None) -> ImportanceSpec | None:
    importance = spec.importance
    if importance is None:
        return None
    if spec.training.method != "gradient":
        raise SpecError(
            f"importance needs a training by gradient, got training.method {spec.training.method!r}"
        )
    classifier = _resolved_within("importance.classifier", importance.classifier, data_root)
    if not architecture_of(classifier.architecture).is_network:
        raise SpecError(
            f"importance.classifier.architecture must be a network, got {classifier.architecture.name}"
        )
    if expected_task(spec.dataset) == "multilabel":
        raise SpecError(
            f"importance needs one class an image, and {spec.dataset.label} can have several; leave it out"
        )
    # Of the target the training images are looked at, as pixels of the trial's own dataset, and classified.
    unused = {"normalize": "train", "referable_grade": "none"}
    target = _resolve_dataset(importance.target.model_copy(update=unused), data_root)
    if classifier.dataset != spec.dataset:
        raise SpecError(
            f"importance.classifier.dataset must be that of the trial, {spec.dataset.label}: it predicts the "
            f"classes that are weighted, got {classifier.dataset.label}"
        )
    for name in ("channels", "size_px"):
        expected, got = getattr(spec.dataset, name), getattr(target, name)
        if expected != got:
            raise SpecError(
                f"importance.target.{name} must be {expected}, as the images of {spec.dataset.label}, "
                f"got {got}"
            )
    return importance.model_copy(update={"classifier": classifier, "target": target})


def _resolved_within(where: str, trial: TrialSpec, data_root: Path | None) -> TrialSpec:
    try:
        return resolve(trial, data_root)
    except SpecError as error:
        raise SpecError("\n".join(f"{where}.{line}" for line in str(error).splitlines())) from None


def file_digest(path: Path, *, field: str = "source.file", error: type[UserError] = WeightsError) -> str:
    """Return the SHA-256 of a file, in hex.

    Args:
        field: that names the file, for the message.

    Raises:
        WeightsError: (or `error`) there is no such file.
    """
    if not path.is_file():
        raise error(f"{field}: no file at {path}; put it there or mend the path")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
