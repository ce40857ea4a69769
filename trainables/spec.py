"""What one trial is, and its identity.

A `TrialSpec` is data only; `trainables.identity` brings it to its normal form and hashes that. What cannot
change a result (device, threads, which checkpoints are kept) is in `RunOptions` and has no part in the
identity.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from trainables.architectures.architecture import HEAD
from trainables.architectures.reshaping import architecture_of
from trainables.architectures.spec import ArchitectureSpec
from trainables.datasets.spec import DataPath, DatasetSpec
from trainables.errors import SpecError, unknown_choice
from trainables.fields import (
    Fraction,
    ListAsTuple,
    NonNegative,
    Positive,
    Sha256,
    SpecModel,
    WholeNumber,
    kind_or,
    named,
)
from trainables.validation import describe

SPEC_VERSION: Final = 3


class Sgd(SpecModel):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> "Sgd":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(SpecModel):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    kind: Literal["adam"] = "adam"
    lr: Positive = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


class ConstantSchedule(SpecModel):
    """One learning rate, after an optional linear warm-up."""

    kind: Literal["constant"] = "constant"
    warmup_epochs: NonNegative = 0.0


class StepSchedule(SpecModel):
    """Linear warm-up, then the rate is multiplied by `factor` at each milestone (in epochs)."""

    kind: Literal["step"] = "step"
    warmup_epochs: NonNegative = 0.0
    milestones_epochs: Annotated[tuple[Positive, ...], ListAsTuple] = (30.0, 60.0, 90.0)
    factor: Positive = 0.1


class CosineSchedule(SpecModel):
    """Linear warm-up, then half a cosine down to zero, which the step after the last would have."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 0.0


class EvaluationSpec(SpecModel):
    """The optimizer steps after which the validation split is scored: 0, the last, and `points` between.

    Attributes:
        spacing: `log` puts most points early, where initializations differ.
        points: number of steps after 0, the last one included; duplicates are merged.
    """

    spacing: Literal["log", "linear"] = "log"
    points: Annotated[int, Field(ge=1, le=10_000)] = 12


class EarlyStopping(SpecModel):
    """Stop when the selection metric has not improved by `min_delta` for `patience` evaluations."""

    patience: Annotated[int, Field(ge=1)]
    min_delta: NonNegative = 0.0


Range = Annotated[tuple[Positive, Positive], ListAsTuple]


class AugmentSpec(SpecModel):
    """Random changes of the training images, drawn for every image and step, in this order.

    Attributes:
        crop_area: range of the share of the image's area that is cut out and resized to the whole; aspect
            ratios from 3/4 to 4/3, log-uniform, as in torchvision's RandomResizedCrop.
        horizontal_flip, vertical_flip: with probability 1/2.
        rotation_degrees: greatest angle, either way.
        scale: range of magnification.
        shift_px: greatest shift, either way; what a change uncovers is filled by reflection.
        brightness, contrast, saturation: greatest relative change, as in torchvision's ColorJitter.
    """

    crop_area: Range = (1.0, 1.0)
    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Range = (1.0, 1.0)
    shift_px: Annotated[int, Field(ge=0)] = 0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0

    @model_validator(mode="after")
    def _check(self) -> "AugmentSpec":
        for name, (least, greatest) in (("crop_area", self.crop_area), ("scale", self.scale)):
            if least > greatest:
                raise ValueError(f"{name} must be a range from small to great, got [{least}, {greatest}]")
        if self.crop_area[1] > 1:
            raise ValueError(f"crop_area must be at most 1, got {self.crop_area[1]}")
        return self


_TRAINABLE = {
    "all": {},
    "head": {"first": 0, "last": 0},
    "first": {"first": 1, "last": 0},
    "last": {"first": 0, "last": 1},
    "first_last": {"first": 1, "last": 1},
}


def _named_parts(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value not in _TRAINABLE:
        raise ValueError(unknown_choice("", value, _TRAINABLE).lstrip())
    return _TRAINABLE[value]


class TrainableSpec(SpecModel):
    """Which stages learn; the head always does.

    A study file can write `all`, `head`, `first`, `last` or `first_last`: named, as in the freeze study of
    Patel 2019, by what is trainable and not by what is frozen.

    Attributes:
        first: how many stages of the backbone, from the input, learn; None (with `last`) lets all learn.
        last: how many stages before the head learn.
        frozen_statistics: of the batch norms of stages that do not learn: `fixed` (evaluation mode), or
            `updated` by the batches like those of the others.
    """

    first: Annotated[int, Field(ge=0)] | None = None
    last: Annotated[int, Field(ge=0)] | None = None
    frozen_statistics: Literal["fixed", "updated"] = "fixed"

    @model_validator(mode="after")
    def _check(self) -> "TrainableSpec":
        if (self.first is None) != (self.last is None):
            raise ValueError("give both first and last, or neither")
        return self

    @property
    def is_all(self) -> bool:
        """Whether every stage learns (of a resolved spec)."""
        return self.first is None

    @property
    def label(self) -> str:
        """`all`, `head`, `first 1`, `last 2`, `first 1 + last 1`, …"""
        if self.is_all:
            return "all"
        parts = [f"{name} {n}" for name, n in (("first", self.first), ("last", self.last)) if n]
        updated = ", statistics updated" if self.frozen_statistics == "updated" else ""
        return (" + ".join(parts) or HEAD) + updated


Precision = Literal["float32", "tf32", "bfloat16"]
SelectionMetric = Literal["val_auroc", "val_auprc", "val_accuracy", "val_f1", "val_kappa", "val_loss"]


class TrainingSpec(SpecModel):
    """How a network is trained; the length of a `gradient` training is either `steps` or `epochs`.

    Attributes:
        method: `gradient`, or `linear_probe`: the backbone stays as it was initialized and the head is an
            L2-regularized logistic regression on its features (Kornblith et al. 2019), which uses nothing
            else that stands here but `selection_metric`.
        steps: optimizer steps; 0 scores the network at initialization.
        epochs: passes over the training split.
        batch_size: samples of one optimizer step.
        micro_batch_size: samples that go through the network at once; their gradients add up to the step's.
            Batch norm sees the micro-batch. None is the whole batch.
        trainable: the stages that learn.
        selection_metric: of which the best evaluation gives the `best` checkpoint and the test scores.
        label_smoothing: of the cross-entropy; no part in binary cross-entropy.
        class_weights: `balanced` weights a class (or the positives of a label) by the inverse of its
            frequency in the training split.
        gradient_clip: greatest L2 norm of the gradient; None leaves it.
        batch_norm_momentum: share of the old running statistics that is kept, as Kornblith et al. write it
            (torch's `momentum` is 1 minus this); None is the architecture's own.
        precision: of the forward and backward passes (`trainables.precision`); weights stay float32.
    """

    method: Literal["gradient", "linear_probe", "fit"] = "gradient"
    steps: Annotated[int, Field(ge=0)] | None = None
    epochs: Positive | None = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    trainable: Annotated[TrainableSpec, BeforeValidator(_named_parts)] = TrainableSpec()
    optimizer: Annotated[Sgd | Adam, Field(discriminator="kind"), kind_or("sgd")] = Sgd()
    schedule: Annotated[
        ConstantSchedule | StepSchedule | CosineSchedule, Field(discriminator="kind"), kind_or("constant")
    ] = ConstantSchedule()
    evaluation: EvaluationSpec = EvaluationSpec()
    early_stopping: EarlyStopping | None = None
    selection_metric: SelectionMetric = "val_auroc"
    augment: AugmentSpec = AugmentSpec()
    label_smoothing: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    gradient_clip: Positive | None = None
    batch_norm_momentum: Fraction | None = None
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _check(self) -> "TrainingSpec":
        if self.method == "gradient" and (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the training either as steps or as epochs")
        return self


class SourceSpec(SpecModel):
    """Where pretrained weights come from: exactly one of published weights, a file, or another trial.

    Attributes:
        weights: a published entry, `torchvision/ResNet18_Weights.IMAGENET1K_V1` or `timm/resnet18.a1_in1k`;
            `imagenet` stands for the first one that the catalog lists for the architecture.
        file: .safetensors or .pth below the data root; `sha256` is filled in when the spec is resolved.
        trial: the pretraining, a trial like any other.
        checkpoint: which weights of that trial.
    """

    weights: str | None = None
    file: DataPath | None = None
    sha256: Sha256 | None = None
    trial: "TrialSpec | None" = None
    checkpoint: Literal["best", "final"] = "best"

    @model_validator(mode="after")
    def _check(self) -> "SourceSpec":
        if sum(given is not None for given in (self.weights, self.file, self.trial)) != 1:
            raise ValueError("exactly one of weights, file and trial must be given")
        if self.sha256 is not None and self.file is None:
            raise ValueError("sha256 belongs to file")
        return self

    @property
    def label(self) -> str:
        """What people call it."""
        if self.trial is not None:
            before, importance = self.trial.init.source, self.trial.importance
            start = f" from {before.label}" if before is not None else ""
            drawn = f" as {importance.label}" if importance is not None else ""
            return f"{self.trial.dataset.label}{start}{drawn}"
        return self.weights or Path(self.file or "").name


class InitSpec(SpecModel):
    """The weights a training starts from. The head is always drawn afresh.

    Attributes:
        kind: `random` (the framework's own), `pretrained` (every stage but the head), `mean_var` (scalar
            mean and variance per pretrained conv and linear weight tensor), `transfusion`, or `gabor` (the
            first convolution is a bank of Gabor filters, the rest random).
        depth: of a transfusion: how many stages, from the input, get pretrained weights; a number, the
            name of the last such stage, or `all`.
        rest: of a transfusion: what the other stages get.
        norm: under mean_var: the scale and shift of norm layers are `reset` to 1 and 0, or drawn by
            `mean_var` like the weights. Running statistics are 0 and 1 either way.
        source: of everything but `random`; a Gabor bank takes its scale from it, if there is one.
    """

    kind: Literal["random", "pretrained", "mean_var", "transfusion", "gabor"] = "random"
    depth: Annotated[int, Field(ge=0)] | str | None = None
    rest: Literal["random", "mean_var"] | None = None
    norm: Literal["reset", "mean_var"] | None = None
    source: SourceSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> "InitSpec":
        if self.kind == "transfusion":
            if self.depth is None:
                raise ValueError("transfusion needs a depth (a number of stages, a stage, or 'all')")
        elif self.depth is not None or self.rest is not None:
            raise ValueError(f"depth and rest belong to transfusion, not to {self.kind}")
        if self.kind in ("pretrained", "mean_var") and self.source is None:
            raise ValueError(f"{self.kind} needs a source of pretrained weights")
        if self.norm is not None and "mean_var" not in (self.kind, self.rest):
            raise ValueError("norm belongs to mean_var, or to a transfusion whose rest is mean_var")
        return self


class ImportanceSpec(SpecModel):
    """Class weights P_t(y)/P_s(y) by which training images are drawn (Ngiam et al. 2018).

    P_s is the share of the class in the training split; P_t the mean prediction, over the target's training
    images, of a classifier trained on the same classes. Images are drawn with replacement.

    Attributes:
        classifier: the trial whose predictions are used; its checkpoint is the best.
        target: the dataset whose training images it is applied to, as pixels of the trial's own dataset.
        temper: exponent of the weights; 0 draws every image as often as the others.
        cap: greatest weight, relative to the mean over the training images; None leaves them.
    """

    classifier: "TrialSpec"
    target: DatasetSpec
    temper: Annotated[float, Field(ge=0, le=1)] = 1.0
    cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None

    @property
    def label(self) -> str:
        """The target, and how the weights are softened: `chest_xray, temper 0.5, cap 10`."""
        temper = f", temper {self.temper:g}" if self.temper != 1 else ""
        cap = f", cap {self.cap:g}" if self.cap is not None else ""
        return f"{self.target.label}{temper}{cap}"


class TrialSpec(SpecModel):
    """One training: one network, one initialization, one dataset, one seed.

    Attributes:
        purpose: a trial of a `search` compares settings: it is scored on the validation split alone, and no
            weights are kept of it.
    """

    spec_version: Annotated[Literal[3], WholeNumber] = SPEC_VERSION
    architecture: Annotated[ArchitectureSpec, named("name")]
    init: Annotated[InitSpec, named("kind")] = Field(default_factory=lambda: InitSpec())
    dataset: DatasetSpec
    importance: ImportanceSpec | None = None
    training: TrainingSpec
    purpose: Literal["result", "search"] = "result"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def label(self) -> str:
        """The run's name for people: `resnet18 · transfusion 2/5 · pneumoniamnist · seed 1`."""
        return f"{self.cell_label} · seed {self.seed}"

    @property
    def cell_label(self) -> str:
        """`label` without the seed."""
        parts = [self.architecture.label, self.init_label, self.dataset.label]
        if self.importance is not None:
            parts.append(f"as {self.importance.label}")
        if self.training.method == "linear_probe":
            parts.append("linear probe")
        elif not self.training.trainable.is_all:
            parts.append(f"trains {self.training.trainable.label}")
        if self.purpose == "search":
            parts.append("search")
        return " · ".join(parts)

    @property
    def transfused_stages(self) -> int:
        """How many stages, from the input, start from pretrained weights (of a resolved spec)."""
        if self.init.kind == "pretrained":
            return len(architecture_of(self.architecture).backbone)
        return self.init.depth if isinstance(self.init.depth, int) else 0

    @property
    def init_label(self) -> str:
        """`random`, `pretrained`, `transfusion 2/5`, `transfusion 2/5 + mean_var`, `fitted` (of trees), …"""
        if self.training.method == "fit":
            return "fitted"
        norm = " norm too" if self.init.norm == "mean_var" else ""
        if self.init.kind != "transfusion":
            return f"{self.init.kind}{norm}"
        n_stages = len(architecture_of(self.architecture).backbone)
        rest = f" + mean_var{norm}" if self.init.rest == "mean_var" else ""
        return f"transfusion {self.init.depth}/{n_stages}{rest}"

    @property
    def parents(self) -> "tuple[TrialSpec, ...]":
        """The trials that must be finished before this one can begin."""
        source = self.init.source
        of_weights = (source.trial,) if source is not None and source.trial is not None else ()
        classifier = self.importance.classifier if self.importance is not None else None
        return of_weights if classifier is None or classifier in of_weights else (*of_weights, classifier)


# They were defined before TrialSpec, which they can contain.
SourceSpec.model_rebuild()
InitSpec.model_rebuild()
ImportanceSpec.model_rebuild()


class CheckpointOptions(SpecModel):
    """Which weights of a trial are kept, and how often its state is saved.

    Attributes:
        keep: checkpoints that are logged to MLflow.
        series_points: further checkpoints, log-spaced in steps (0: none).
        state_every_s: seconds between resumable states (0: at every evaluation).
    """

    keep: Annotated[tuple[Literal["initial", "best", "final"], ...], ListAsTuple] = (
        "initial",
        "best",
        "final",
    )
    series_points: Annotated[int, Field(ge=0)] = 0
    state_every_s: NonNegative = 30.0


class FailureOptions(SpecModel):
    """What is done about what goes wrong, by its cause.

    Attributes:
        out_of_memory: `halve` the micro-batch and accumulate gradients, or `fail` the trial.
        lost_workers: how often in a row a trial may lose its worker without getting further; a node that is
            lost is not counted.
        wait_for_mlflow_min: minutes for which a trial goes on, or waits at its end, while MLflow is away.
        wait_for_disk_min: minutes for which a trial pauses while a disk is full.
    """

    out_of_memory: Literal["halve", "fail"] = "halve"
    lost_workers: Annotated[int, Field(ge=0)] = 2
    wait_for_mlflow_min: Annotated[NonNegative, Field(allow_inf_nan=False)] = 240.0
    wait_for_disk_min: Annotated[NonNegative, Field(allow_inf_nan=False)] = 60.0


class RunOptions(CheckpointOptions):
    """How a trial is run. Changes nothing about its result, so no part of its identity.

    Attributes:
        device: `auto` takes the GPU when the trial was given one.
        threads: CPU threads of torch.
        processes: that share every batch of a trial, one per GPU.
        gpu_share: the part of each GPU that is meant for the trial; images take no more than theirs of it.
        is_compiled: the passes of the training are compiled, if they can be.
        is_deterministic: only kernels that give the same bits every time are used.
        rungs: images seen; the first evaluation at or after each is reported at once, its state committed,
            so that whoever waits can end the trial there.
        failures: what is done about what goes wrong.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] = 1
    processes: Annotated[int, Field(ge=1)] = 1
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    is_compiled: bool = False
    is_deterministic: bool = False
    rungs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], ListAsTuple] = ()
    failures: FailureOptions = FailureOptions()


def parse_trial(content: Mapping[str, Any]) -> TrialSpec:
    """Validate a mapping as a trial.

    Raises:
        SpecError: one line per mistake, each starting with its field.
    """
    try:
        return TrialSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError("\n".join(p.message for p in describe(error, TrialSpec))) from None
