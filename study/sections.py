"""The sections of a study file, and the study they make, as data.

`trial`, `source` and `grid` are kept as they were written: what they mean is known for a combination of axes
only, and then `study.grid` makes trial specs of them.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from study.axes import Axis
from study.search.section import SearchSection
from study.yaml_lines import Document
from trainables.architectures.catalog import ARCHITECTURES
from trainables.datasets.spec import DataPath
from trainables.errors import unknown_choice
from trainables.fields import ListAsTuple, NonNegative, Positive, SpecModel
from trainables.spec import (
    CheckpointOptions,
    DatasetSpec,
    FailureOptions,
    RunOptions,
    SelectionMetric,
    Sha256,
)

NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_-.")
MOST_NAME_CHARACTERS = 100


def _seeds(value: object) -> object:
    """Let `seeds: 3` stand for `[0, 1, 2]`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= 10_000:
            raise ValueError(f"must be a list of seeds, or how many (1 to 10000), got {value}")
        return tuple(range(value))
    return tuple(value) if isinstance(value, list) else value


def _all_different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise ValueError(f"must be all different, got {', '.join(map(str, repeated))} more than once")
    return seeds


def _one_name(value: str) -> str:
    if not value or not set(value) <= NAME_CHARACTERS:
        raise ValueError(f"must consist of letters, digits and _ - . only, got {value!r}")
    # It names a folder, too.
    if value.startswith(".") or len(value) > MOST_NAME_CHARACTERS:
        raise ValueError(
            f"must not begin with a dot, and have at most {MOST_NAME_CHARACTERS} characters, "
            f"got {value[:40]!r}"
        )
    return value


def _whole_above_one(gpu: float) -> float:
    if gpu > 1 and gpu != int(gpu):
        raise ValueError(f"must be a fraction below 1 or a whole number, got {gpu}")
    return gpu


Gpus = Annotated[NonNegative, AfterValidator(_whole_above_one)] | Literal["auto"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ArchitectureResources(SpecModel):
    """What the trials of one architecture get instead of the study's default."""

    cpu: Positive | None = None
    gpu: Gpus | None = None
    compile: bool | None = None
    deterministic: bool | None = None


class GivenResources(NamedTuple):
    """What the trials of one architecture get, as the file has it."""

    cpu: float
    gpu: float | Literal["auto"]
    compile: bool
    deterministic: bool


def _known_architectures(table: dict[str, ArchitectureResources]) -> dict[str, ArchitectureResources]:
    for name in table:
        if name not in ARCHITECTURES and "/" not in name:
            raise ValueError(unknown_choice("a key", name, ARCHITECTURES))
    return table


class ResourcesSection(SpecModel):
    """What a trial gets.

    Attributes:
        cpu: cores; below 1, trials share a core.
        gpu: GPUs; a fraction lets trials share one, `auto` chooses it by the memory that a trial needs.
        slots: how many trials, or stacks of them, may run at once; None leaves it to the resources.
        stack: how many trials that differ in their seed, initialization or rates a worker may train together,
            with the resources of one: a GPU that a small network leaves idle does more. `auto` takes the
            number that `transfusion probe` measured to be fastest, 1 before anything was measured.
        compile: whether torch.compile is to make the kernels of a trial's network, which takes it a while.
        deterministic: whether GPUs are to use only kernels that give the same bits every time, as processors
            do anyway; they are slower.
        by_architecture: exceptions.
        gpu_memory_gb: of one GPU, 10^9 bytes, for `auto`; None takes what a record or a probe says.
    """

    cpu: Positive = 1.0
    gpu: Gpus = 0.0
    slots: Annotated[int, Field(ge=1)] | None = None
    stack: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = 1
    compile: bool = False
    deterministic: bool = False
    by_architecture: Annotated[dict[str, ArchitectureResources], AfterValidator(_known_architectures)] = (
        Field(default_factory=dict)
    )
    gpu_memory_gb: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> "ResourcesSection":
        if self.stack != 1 and self.is_share_chosen:
            raise ValueError(
                "gpu: auto is the share that one trial needs, and a stack needs that of all its members; "
                "give gpu as a number, or leave out stack"
            )
        given = [self.given_to(name) for name in ("", *self.by_architecture)]
        compiled = [one for one in given if one.compile]
        is_shared = any(one.gpu != "auto" and one.gpu > 1 for one in compiled)
        if is_shared or (compiled and self.stack != 1):
            raise ValueError(
                "compile is for trials that are trained one by one, on one GPU or none; "
                "leave it out, or stack and gpu: 2 and more"
            )
        return self

    def given_to(self, architecture: str) -> "GivenResources":
        """Return what the trials of an architecture get, its exceptions included."""
        own = self.by_architecture.get(architecture, ArchitectureResources())
        return GivenResources(
            cpu=self.cpu if own.cpu is None else own.cpu,
            gpu=self.gpu if own.gpu is None else own.gpu,
            compile=self.compile if own.compile is None else own.compile,
            deterministic=self.deterministic if own.deterministic is None else own.deterministic,
        )

    @property
    def wants_shares(self) -> bool:
        """Whether GPUs are to be shared by a memory that the file does not say."""
        return self.is_share_chosen and self.gpu_memory_gb is None

    @property
    def is_share_chosen(self) -> bool:
        """Whether the file says `auto` of any GPUs."""
        return "auto" in (self.gpu, *(own.gpu for own in self.by_architecture.values()))


class PriceSection(SpecModel):
    """What machines cost, for the estimate of `transfusion plan`. None is left out of the sum."""

    gpu_hour: NonNegative | None = None
    cpu_hour: NonNegative | None = None
    currency: Annotated[str, Field(min_length=1, max_length=10)] = "USD"

    @property
    def is_given(self) -> bool:
        """Whether there is any price."""
        return self.gpu_hour is not None or self.cpu_hour is not None

    def of(self, *, gpu_hours: float, cpu_hours: float) -> float:
        """Return what such a use costs."""
        return gpu_hours * (self.gpu_hour or 0.0) + cpu_hours * (self.cpu_hour or 0.0)


class BudgetSection(SpecModel):
    """What a study may use, all its runs together; then no new trial is begun. None is no limit.

    Attributes:
        gpu_hours: hours that trials hold × their GPUs.
        cpu_hours: hours that trials hold × their cores.
    """

    gpu_hours: Positive | None = None
    cpu_hours: Positive | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is any limit."""
        return self.gpu_hours is not None or self.cpu_hours is not None


class AnalysisSection(SpecModel):
    """What `transfusion analyze` compares.

    Attributes:
        baseline: initialization against which differences are taken (`random`, `mean_var`, …).
        threshold_metric: whose convergence is timed.
        thresholds: by dataset, the value that counts as converged.
        probe_images: images on which networks are compared.
        samples: of feature maps: `positions` of each image, positions of maps `interpolated` to one size, or
            the `average` of each map.
        positions_per_image: positions drawn from each activation map.
        variance_fraction: of SVCCA.
        variance_reading: what SVCCA takes for variance: `squares` of singular values, or, as some public
            implementations, plain `singular_values`.
        bootstrap_replicates: of the intervals over patients.
        explained_images: test images whose explanations are drawn.
    """

    baseline: str = "random"
    threshold_metric: SelectionMetric = "val_auroc"
    thresholds: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    probe_images: Annotated[int, Field(ge=1)] = 512
    samples: Literal["positions", "interpolated", "average"] = "positions"
    positions_per_image: Annotated[int, Field(ge=1)] = 8
    variance_fraction: Annotated[float, Field(gt=0, le=1)] = 0.99
    variance_reading: Literal["squares", "singular_values"] = "squares"
    bootstrap_replicates: Annotated[int, Field(ge=100, le=100_000)] = 1000
    explained_images: Annotated[int, Field(ge=0, le=64)] = 4


class Exclude(SpecModel):
    """Combinations that are not trained, and why."""

    where: Annotated[dict[str, Any], Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]


class Include(SpecModel):
    """A combination that the grid does not give."""

    set: Annotated[dict[str, Any], Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)] | None = None


class TrialSection(SpecModel):
    """What every trial has unless an axis says otherwise; the content is checked with the axes."""

    architecture: Any = None
    init: Any = None
    dataset: Any = None
    training: Any = None


class WeightsSection(SpecModel):
    """A source that is published, or a file below the data root."""

    weights: str | None = None
    file: DataPath | None = None
    sha256: Sha256 | None = None


class ImportanceSection(SpecModel):
    """Draw the source's images by how much they resemble the target's (Ngiam et al. 2018).

    The classifier whose predictions are used is the same pretraining without importance.
    """

    temper: Annotated[float, Field(ge=0, le=1)] = 1.0
    cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None


def _importance(value: object) -> object:
    """Let `none` and `target` stand for no weights and for those of the default settings."""
    meant: dict[str, object] = {"none": None, "target": {}}
    if isinstance(value, str) and value not in meant:
        raise ValueError(f"must be 'none', 'target' or its settings (temper, cap), got {value!r}")
    return meant[value] if isinstance(value, str) else value


class PretrainingSection(SpecModel):
    """A source that is trained first.

    Attributes:
        architecture: of a slim or truncated network: the `whole` network is pretrained, or the `same`.
        importance: `target` (or its settings) weights the classes by their likeness to the trial's dataset.
        training: laid over the training of the section `trial`.
        init: `random`, or `pretrained` if it has a source itself.
    """

    dataset: Any
    architecture: Literal["whole", "same"] = "whole"
    importance: Annotated[ImportanceSection | None, BeforeValidator(_importance)] = None
    training: dict[str, Any] = Field(default_factory=dict)
    init: str | dict[str, Any] | None = None
    seed: Seed = 0
    checkpoint: Literal["best", "final"] = "best"
    source: dict[str, Any] | None = None


class StudyFile(SpecModel):
    """A study file; what the grid decides is checked later, value by value."""

    name: Annotated[str, AfterValidator(_one_name)]
    question: str | None = None
    seeds: Annotated[
        tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1), AfterValidator(_all_different)
    ] = (0,)
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    trial: TrialSection
    source: dict[str, Any] | None = None
    grid: dict[str, Any] = Field(default_factory=dict)
    zip: Annotated[tuple[dict[str, Any], ...], ListAsTuple] = ()
    exclude: Annotated[tuple[Exclude, ...], ListAsTuple] = ()
    include: Annotated[tuple[Include, ...], ListAsTuple] = ()
    search: SearchSection | None = None
    budget: BudgetSection = BudgetSection()
    price: PriceSection = PriceSection()
    resources: ResourcesSection = ResourcesSection()
    checkpoints: CheckpointOptions = CheckpointOptions()
    failures: FailureOptions = FailureOptions()
    analysis: AnalysisSection = AnalysisSection()


@dataclass(frozen=True)
class Study:
    """A study file that was read.

    Attributes:
        datasets: by the names the file gives them; None where the file is mistaken.
        trial, source: the sections as they were written.
        grid: axes that are crossed, the transfusion depth left out.
        depths: the axis `transfusion_depth` of the grid.
        groups: of the section `zip`: the axes of a group move together.
        text: the file itself.
        document: its values and their lines.
    """

    name: str
    question: str | None
    seeds: tuple[int, ...]
    datasets: Mapping[str, DatasetSpec | None]
    trial: Mapping[str, Any]
    source: Mapping[str, Any] | None
    grid: tuple[Axis, ...]
    depths: Axis | None
    groups: tuple[tuple[Axis, ...], ...]
    exclude: tuple[Exclude, ...]
    include: tuple[Include, ...]
    search: SearchSection | None
    budget: BudgetSection
    price: PriceSection
    resources: ResourcesSection
    checkpoints: CheckpointOptions
    failures: FailureOptions
    analysis: AnalysisSection
    text: str
    document: Document

    @property
    def options(self) -> RunOptions:
        """How trials are run, but for what depends on the machine."""
        return RunOptions(**self.checkpoints.model_dump(), failures=self.failures)

    @property
    def slots(self) -> int | None:
        """How many trials may run at once; None leaves it to the resources."""
        return self.resources.slots

    @property
    def axes(self) -> dict[str, Axis]:
        """Every axis of the grid and of its zipped groups, by name."""
        depths = (self.depths,) if self.depths else ()
        return {axis.name: axis for group in (self.grid, depths, *self.groups) for axis in group}

    @property
    def has_mistaken_axes(self) -> bool:
        """Whether the file has axes, under grid or zip, that could not be read."""
        sections = (self.document.content.get("grid"), *_as_list(self.document.content.get("zip")))
        declared = {name for section in sections if isinstance(section, dict) for name in section}
        return not declared <= set(self.axes)


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
