"""The section `search` of a study file."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from study.axes import label
from trainables.fields import ListAsTuple, SpecModel, kind_or
from trainables.seeding import derive_seed

Setting = Mapping[str, Any]
"""Values by dotted field."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Pair = Annotated[tuple[_Number, _Number], ListAsTuple]
_WholePair = Annotated[tuple[int, int], ListAsTuple]
_Whole = Annotated[int, Field(ge=1)]
KINDS = ("uniform", "log_uniform", "int", "choice")
# What decides how a trial is compared, and not how well it is trained.
NOT_SEARCHED = ("training.method", "training.selection_metric", "training.evaluation", "training.precision")
SEED_LIMIT = 2**31
GRID_POINTS = 5
DEFAULT_SETTINGS = 16


class Dimension(SpecModel):
    """Where the values of one field lie: one kind of range.

    Attributes:
        uniform, log_uniform: least and greatest number.
        int: least and greatest whole number.
        choice: the values.
        step: between whole numbers.
        points: of a grid: how many values of `uniform` and `log_uniform`, the ends included.
    """

    uniform: _Pair | None = None
    log_uniform: _Pair | None = None
    int: _WholePair | None = None
    choice: Annotated[Annotated[tuple[Any, ...], Field(min_length=1)] | None, ListAsTuple] = None
    step: _Whole | None = None
    points: _Whole | None = None

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(KINDS)} must be given, got {' and '.join(given) or 'none'}"
            )
        if self.choice is None:
            least, greatest = self.uniform or self.log_uniform or self.int or (0, 0)
            if least >= greatest:
                raise ValueError(f"{given[0]} must go from small to great, got [{least}, {greatest}]")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform must be above 0, got [{self.log_uniform[0]:g}, …]")
        if self.step is not None and self.int is None:
            raise ValueError("step belongs to int")
        if self.points is not None and self.uniform is None and self.log_uniform is None:
            raise ValueError("points belongs to uniform and log_uniform")
        repeated = self.choice is not None and len({str(label(v)) for v in self.choice}) < len(self.choice)
        if repeated:
            raise ValueError("choice must have values that are all different")
        return self

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values, where they are finitely many."""
        if self.int is not None:
            return tuple(range(self.int[0], self.int[1] + 1, self.step or 1))
        return self.choice

    @property
    def grid(self) -> tuple[Any, ...]:
        """The values of a grid."""
        if (values := self.values) is not None:
            return values
        low, high = self.uniform or self.log_uniform or (0.0, 0.0)
        n_points = self.points or GRID_POINTS
        shares = [k / max(1, n_points - 1) for k in range(n_points)]
        if self.uniform is not None:
            points = [low + (high - low) * share for share in shares]
        else:
            points = [low * math.exp(math.log(high / low) * share) for share in shares]
        # Computed, an end may lie outside by a rounding.
        return (low, *points[1:-1], high) if n_points > 1 else (low,)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values by which one sees whether a field takes such values."""
        return self.choice if self.choice is not None else (self.grid[0], self.grid[-1])

    def contains(self, value: Any) -> bool:
        """Say whether a value may be tried."""
        if self.values is not None:
            return any(value == known and type(value) is type(known) for known in self.values)
        low, high = self.uniform or self.log_uniform or (0.0, 0.0)
        return isinstance(value, float) and low <= value <= high


class PruningSection(SpecModel):
    """When a setting is stopped early, by how it stands at rungs.

    Rungs are `first_images`, and `factor` times as many each time. `median`: it goes on if it is at least as
    good as the median of the others that got there. `asha` (Li et al. 2020): it goes on if it is among the
    best 1/`factor` of all that got there. One that was stopped goes on when it would not be stopped any more.

    Attributes:
        others: as many must have reached a rung before `median` stops any there.
    """

    kind: Literal["median", "asha"]
    first_images: _Whole
    factor: Annotated[int, Field(ge=2)] = 3
    others: _Whole = 4


class WarmStartSection(SpecModel):
    """Begin with what was best in another cell.

    Attributes:
        cell: values of axes; the other cell is the one that differs from a cell in these axes only.
        best: how many of its settings are tried first.
    """

    cell: Annotated[dict[str, Any], Field(min_length=1)]
    best: _Whole = 1


def _training_fields(space: dict[str, Dimension]) -> dict[str, Dimension]:
    for name in space:
        if not name.startswith("training.") or any(
            name == fixed or name.startswith(f"{fixed}.") for fixed in NOT_SEARCHED
        ):
            raise ValueError(
                f"{name} cannot be searched; name fields of training other than "
                f"{', '.join(field.removeprefix('training.') for field in NOT_SEARCHED)}"
            )
    return space


def _no_pruning(value: object) -> object:
    return None if value == "none" else value


class SearchSection(SpecModel):
    """What is tried in every cell before it is compared at its best.

    Settings are compared on the validation split, by the trial's selection metric; their test scores are
    never computed. The best of each cell is trained anew with the seeds of the study.

    Attributes:
        space: by dotted field of the training.
        settings: how many are tried in a cell; default 16, or the whole grid.
        sampler: of Optuna; `grid` goes through all combinations.
        seed: of the sampler, and of the training of all settings.
        pruning: which settings are stopped early.
        warm_start: whose best settings come first.
        at_once: how many settings of one cell may be trained at once; None leaves it to the slots. With more
            the sampler knows less.
    """

    space: Annotated[dict[str, Dimension], Field(min_length=1), AfterValidator(_training_fields)]
    settings: Annotated[int, Field(ge=1, le=10_000)] | None = None
    sampler: Literal["tpe", "random", "grid", "cmaes"] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 0
    pruning: Annotated[PruningSection | None, BeforeValidator(_no_pruning), kind_or("median")] = None
    warm_start: WarmStartSection | None = None
    at_once: _Whole | None = None

    @model_validator(mode="after")
    def _check(self) -> "SearchSection":
        choices = [name for name, dimension in self.space.items() if dimension.choice is not None]
        if self.sampler == "cmaes" and choices:
            raise ValueError(f"sampler cmaes is for numbers, and {choices[0]} is a choice; use tpe")
        points = [name for name, dimension in self.space.items() if dimension.points is not None]
        if self.sampler != "grid" and points:
            raise ValueError(f"points belongs to sampler grid, got it in {points[0]}")
        return self

    @property
    def n_settings(self) -> int:
        """How many settings are tried in a cell, if there are so many."""
        if self.settings is not None:
            return self.settings
        return int(self.n_possible) if self.sampler == "grid" else DEFAULT_SETTINGS

    @property
    def training_seed(self) -> int:
        """The seed with which settings are trained: none that a person would list."""
        return derive_seed(self.seed, "settings of a search") % SEED_LIMIT

    def contains(self, setting: Setting) -> bool:
        """Say whether a setting may be tried."""
        return setting.keys() == self.space.keys() and all(
            self.space[name].contains(value) for name, value in setting.items()
        )

    @property
    def n_possible(self) -> float:
        """How many settings there are; infinite if a number can be any."""
        lists = [d.grid if self.sampler == "grid" else d.values for d in self.space.values()]
        return math.prod(len(values) if values is not None else math.inf for values in lists)

    def grid(self) -> Iterator[Setting]:
        """Yield all combinations of a grid; the last field changes fastest."""
        lists: Sequence[Sequence[Any]] = [dimension.grid for dimension in self.space.values()]
        for values in itertools.product(*lists):
            yield dict(zip(self.space, values, strict=True))
