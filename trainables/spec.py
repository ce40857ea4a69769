"""What one trial is, and its identity.

A `TrialSpec` is data only; `trainables.identity` brings it to its normal form and hashes that. What cannot
change a result (device, threads, which checkpoints are kept) is in `RunOptions` and has no part in the
identity.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from trainables.architectures.catalog import find_architecture
from trainables.datasets.spec import DataPath, DatasetSpec
from trainables.errors import SpecError
from trainables.fields import (
    Fraction,
    ListAsTuple,
    NonNegative,
    Positive,
    SpecModel,
    WholeNumber,
    kind_or,
    named,
)
from trainables.validation import describe

SPEC_VERSION: Final = 1
HEAD = "head"


class ArchitectureSpec(SpecModel):
    """A network of the catalog."""

    name: str


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
    """Linear warm-up, then half a cosine down to zero at the last step."""

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


class AugmentSpec(SpecModel):
    """Random changes of the training images, drawn for every image and step."""

    horizontal_flip: bool = False
    shift_px: Annotated[int, Field(ge=0)] = 0


SelectionMetric = Literal["val_auroc", "val_auprc", "val_accuracy", "val_f1", "val_loss"]


class TrainingSpec(SpecModel):
    """How a network is trained; its length is either `steps` or `epochs`.

    Attributes:
        steps: optimizer steps; 0 scores the network at initialization.
        epochs: passes over the training split.
        selection_metric: of which the best evaluation gives the `best` checkpoint and the test scores.
        label_smoothing: of the cross-entropy; no part in binary cross-entropy.
    """

    steps: Annotated[int, Field(ge=0)] | None = None
    epochs: Positive | None = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    optimizer: Annotated[Sgd | Adam, Field(discriminator="kind"), kind_or("sgd")] = Sgd()
    schedule: Annotated[
        ConstantSchedule | StepSchedule | CosineSchedule, Field(discriminator="kind"), kind_or("constant")
    ] = ConstantSchedule()
    evaluation: EvaluationSpec = EvaluationSpec()
    early_stopping: EarlyStopping | None = None
    selection_metric: SelectionMetric = "val_auroc"
    augment: AugmentSpec = AugmentSpec()
    label_smoothing: Fraction = 0.0

    @model_validator(mode="after")
    def _check(self) -> "TrainingSpec":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the training either as steps or as epochs")
        return self


def _hex_digest(value: str) -> str:
    digest = value.lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"must be the 64 hex digits of a SHA-256, got {value!r}")
    return digest


Sha256 = Annotated[str, AfterValidator(_hex_digest)]


class SourceSpec(SpecModel):
    """Where pretrained weights come from: exactly one of published weights, a file, or another trial.

    Attributes:
        weights: a published entry, `torchvision/ResNet18_Weights.IMAGENET1K_V1`.
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
            return self.trial.dataset.label
        return self.weights or Path(self.file or "").name


class InitSpec(SpecModel):
    """The weights a training starts from. The head is always drawn afresh.

    Attributes:
        kind: `random` (the framework's own), `pretrained` (every stage but the head), `mean_var` (scalar
            mean and variance per pretrained conv and linear weight tensor), or `transfusion`.
        depth: of a transfusion: how many stages, from the input, get pretrained weights; a number, the
            name of the last such stage, or `all`.
        rest: of a transfusion: what the other stages get.
        source: of everything but `random`.
    """

    kind: Literal["random", "pretrained", "mean_var", "transfusion"] = "random"
    depth: Annotated[int, Field(ge=0)] | str | None = None
    rest: Literal["random", "mean_var"] | None = None
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
        return self


class TrialSpec(SpecModel):
    """One training: one network, one initialization, one dataset, one seed."""

    spec_version: Annotated[Literal[1], WholeNumber] = SPEC_VERSION
    architecture: Annotated[ArchitectureSpec, named("name")]
    init: Annotated[InitSpec, named("kind")] = Field(default_factory=lambda: InitSpec())
    dataset: DatasetSpec
    training: TrainingSpec
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def label(self) -> str:
        """The run's name for people: `resnet18 · transfusion 2/5 · pneumoniamnist · seed 1`."""
        return f"{self.cell_label} · seed {self.seed}"

    @property
    def cell_label(self) -> str:
        """`label` without the seed."""
        return f"{self.architecture.name} · {self.init_label} · {self.dataset.label}"

    @property
    def transfused_stages(self) -> int:
        """How many stages, from the input, start from pretrained weights (of a resolved spec)."""
        if self.init.kind == "pretrained":
            return len(find_architecture(self.architecture.name).backbone)
        return self.init.depth if isinstance(self.init.depth, int) else 0

    @property
    def init_label(self) -> str:
        """`random`, `pretrained`, `transfusion 2/5`, `transfusion 2/5 + mean_var`, …"""
        if self.init.kind != "transfusion":
            return self.init.kind
        n_stages = len(find_architecture(self.architecture.name).backbone)
        rest = " + mean_var" if self.init.rest == "mean_var" else ""
        return f"transfusion {self.init.depth}/{n_stages}{rest}"


# They were defined before TrialSpec, which a source can contain.
SourceSpec.model_rebuild()
InitSpec.model_rebuild()


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


class RunOptions(CheckpointOptions):
    """How a trial is run. Changes nothing about its result, so no part of its identity.

    Attributes:
        device: `auto` takes the GPU when the trial was given one.
        threads: CPU threads of torch.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] = 1


def parse_trial(content: Mapping[str, Any]) -> TrialSpec:
    """Validate a mapping as a trial.

    Raises:
        SpecError: one line per mistake, each starting with its field.
    """
    try:
        return TrialSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError("\n".join(p.message for p in describe(error, TrialSpec))) from None
