"""From a study to its trials: axes are crossed, equal trainings merged, sources put before their users."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from study.axes import DEPTH, Assignment, Scalar, Value
from study.blocks import Blocks
from study.combinations import combinations, included, n_combinations
from study.cost.counts import OperationCounts
from study.cost.sharing import gpu_share
from study.exclusion import Exclusion
from study.search.section import SearchSection, Setting
from study.sections import Study
from trainables.errors import SpecError, StudyFileError, WeightsError
from trainables.identity import cell_id, trial_id
from trainables.resolution import file_digest, n_transfused, with_seed
from trainables.spec import TrialSpec
from trainables.validation import Problem, dotted

MAX_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Resources:
    """What one trial gets.

    Attributes:
        cpu: cores.
        gpu: GPUs; below 1, trials share one. Where the file says `auto` and the memory of a GPU is not known
            yet, a whole one.
        is_compiled: its network is to be compiled.
        is_deterministic: a GPU uses only kernels that give the same bits every time.
    """

    cpu: float
    gpu: float
    is_compiled: bool = False
    is_deterministic: bool = False

    @property
    def processes(self) -> int:
        """How many share its batches: one per GPU."""
        return max(1, int(self.gpu))

    @property
    def threads(self) -> int:
        """Threads of each of its processes, which share its cores."""
        return max(1, int(self.cpu / self.processes))

    @property
    def gpu_share(self) -> float:
        """The part of each of its GPUs that it gets; 1 without any."""
        return min(1.0, self.gpu) if self.gpu else 1.0


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a study.

    Attributes:
        spec: resolved.
        axes: the values of what the study varies, seed included; empty for a mere source.
        parent_ids: the trials it needs: whose weights it starts from, whose predictions weight its classes.
        is_source: it is there only because another trial needs it.
        setting: what it tries, of a search; None of all others.
    """

    spec: TrialSpec
    trial_id: str
    axes: Mapping[str, Scalar]
    parent_ids: tuple[str, ...]
    is_source: bool
    resources: Resources
    setting: Setting | None = None

    @property
    def is_result(self) -> bool:
        """Whether tables are made of it: it is no mere source, and tries nothing."""
        return not self.is_source and self.setting is None

    def reseeded(self, spec: TrialSpec) -> "PlannedTrial":
        """Return the trial of another seed of its cell, whose spec is given."""
        return replace(self, spec=spec, trial_id=trial_id(spec), axes={**self.axes, "seed": spec.seed})


@dataclass(frozen=True)
class SearchedCell:
    """A cell whose settings are searched.

    Attributes:
        key: its identity, whatever the file says of the fields that are searched.
        base: its trial with what the file says of the fields that are searched, seed 0.
        axes: its values, without the seed.
        seeds: with which its best setting is trained.
        parent_ids: the trials it needs.
    """

    key: str
    base: TrialSpec
    axes: Mapping[str, Scalar]
    seeds: tuple[int, ...]
    parent_ids: tuple[str, ...]
    _build: Callable[[Setting], TrialSpec]
    _plan: Callable[[TrialSpec, Mapping[str, Scalar]], PlannedTrial]

    def trial_of(self, setting: Setting, *, seed: int) -> PlannedTrial:
        """Return the trial that tries a setting.

        Raises:
            SpecError: its fields do not fit each other.
        """
        spec = self._build(setting).model_copy(update={"purpose": "search"})
        return replace(self._plan(with_seed(spec, seed), self.axes), setting=setting)

    def result_of(self, setting: Setting, seed: int) -> PlannedTrial:
        """Return the trial that a setting is compared by."""
        return self._plan(with_seed(self._build(setting), seed), {**self.axes, "seed": seed})

    def as_written(self) -> PlannedTrial:
        """Return a trial with what the file says of the searched fields, for those that are not drawn yet."""
        return self.result_of({}, self.seeds[0])


@dataclass(frozen=True)
class Excluded:
    """A combination that the study file drops.

    Attributes:
        axes: its values; the seed only if it is dropped for some seeds.
        n_trials: how many trainings that saves.
    """

    axes: Mapping[str, Scalar]
    reason: str
    n_trials: int


@dataclass(frozen=True)
class Expansion:
    """All trials of a study.

    Attributes:
        trials: sources before the trials that start from them.
        merged: how many combinations are the same training as an earlier one.
        searched: the cells, if their settings are searched; then `trials` has only sources.
    """

    trials: list[PlannedTrial] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)
    merged: int = 0
    searched: list[SearchedCell] = field(default_factory=list)


def expand(study: Study, *, data_root: Path | None = None) -> Expansion:
    """Return the trials of a study, in the order of its file.

    Args:
        data_root: where weight files are looked up; default: the environment's TRANSFUSION_DATA.

    Raises:
        StudyFileError: the study was not made by `load_study` and is mistaken.
        WeightsError: a weight file without a `sha256` in the study file is missing.
    """
    memory = study.resources.gpu_memory_gb
    share = partial(gpu_share, memory_gb=memory, counts=OperationCounts()) if memory else _whole_gpu
    expander = _Expander(
        study, digest=cache(lambda file, field: _digest(file, field, data_root)), share=share
    )
    expansion = expander.run()
    if expander.problems:
        raise StudyFileError(study.name, [problem.message for problem in expander.problems])
    return expansion


def check_grid(study: Study) -> tuple[list[TrialSpec], list[Problem]]:
    """Expand a study without looking at weight files.

    Returns:
        The specs of its trials, and every mistake that shows when combinations are made.
    """
    expander = _Expander(study, digest=lambda _file, _field: "0" * 64, share=_whole_gpu)
    expansion = expander.run()
    specs = [trial.spec for trial in expansion.trials] + [cell.base for cell in expansion.searched]
    return specs, expander.problems


def _digest(file: str, field: str, data_root: Path | None) -> str:
    root = data_root or os.environ.get("TRANSFUSION_DATA")
    if not root:
        raise WeightsError(f"{field} {file}: set TRANSFUSION_DATA to the folder that holds it")
    return file_digest(Path(root) / file, field=field)


def _whole_gpu(_spec: TrialSpec) -> float:
    return 1.0


class _Expander:
    def __init__(
        self,
        study: Study,
        *,
        digest: Callable[[str, str], str],
        share: Callable[[TrialSpec], float],
    ) -> None:
        self._study, self._share = study, share
        self._blocks = Blocks(study, digest=digest)
        self._exclusion = Exclusion(study)
        self._trials: dict[str, PlannedTrial] = {}
        self._searched: dict[str, SearchedCell] = {}
        self._excluded: list[Excluded] = []
        self._n_merged = 0
        self._n_added = 0
        self._n_left = 0  # by the rules of exclude
        self._problems: list[Problem] = []

    @property
    def problems(self) -> list[Problem]:
        return [*self._blocks.problems.values(), *self._exclusion.problems, *self._problems]

    def run(self) -> Expansion:
        n_trainings = n_combinations(self._study)
        if n_trainings > MAX_COMBINATIONS:
            message = f"grid gives {n_trainings} trainings; at most {MAX_COMBINATIONS} are allowed"
            self._problems.append(Problem(("grid",), message))
            return Expansion()
        self._cross()
        for index in range(len(self._study.include)):
            self._include(index)
        n_excluded = sum(excluded.n_trials for excluded in self._excluded)
        if n_excluded and not self._n_left:
            message = f"exclude drops all {n_excluded} trainings; nothing is left to do"
            self._problems.append(Problem(("exclude",), message))
        searched = list(self._searched.values())
        return Expansion(list(self._trials.values()), self._excluded, self._n_merged, searched)

    def _cross(self) -> None:
        seen: set[str] = set()
        for assignment in combinations(self._study, self._blocks):
            seen.update(assignment)
            architecture = self._blocks.architecture(assignment)
            dropped = self._exclusion.dropped_seeds(assignment, architecture)
            self._add_cell(assignment, dropped)
        self._problems += self._exclusion.unused()
        depths = self._study.axes.get(DEPTH)
        if depths is not None and DEPTH not in seen:
            message = f"{dotted(depths.path)} has no effect, for no combination has init: transfusion"
            self._problems.append(Problem(depths.path, message))

    def _include(self, index: int) -> None:
        n_added, are_valid = self._n_added, True
        for assignment in included(self._study, index, self._blocks):
            if DEPTH in self._study.include[index].set and DEPTH not in assignment:
                path = ("include", index, "set", DEPTH)
                message = f"{dotted(path)} has no effect without init: transfusion"
                self._problems.append(Problem(path, message))
                are_valid = False
            are_valid &= self._add_cell(assignment, {})
        if self._n_added == n_added and are_valid:
            message = f"include[{index}] adds nothing: the study has these trials already"
            self._problems.append(Problem(("include", index), message))

    def _add_cell(self, assignment: Assignment, dropped: Mapping[int, str]) -> bool:
        """Add the trials of a combination, one for each seed that is left; return whether it is valid."""
        axes = self._axes(assignment)
        if dropped:
            self._excluded += _excluded(axes, dropped, self._study.seeds)
        seeds = [seed for seed in self._study.seeds if seed not in dropped]
        if not seeds:
            return True
        self._n_left += len(seeds)
        first = self._blocks.trial(assignment)
        if first is None:
            return False
        if self._study.search is not None:
            return self._add_searched(self._study.search, first, assignment, axes, tuple(seeds))
        for seed in seeds:
            self._add(with_seed(first, seed), {**axes, "seed": seed})
        return True

    def _add_searched(
        self,
        search: SearchSection,
        first: TrialSpec,
        assignment: Assignment,
        axes: Mapping[str, Scalar],
        seeds: tuple[int, ...],
    ) -> bool:
        """Add a cell whose settings are searched, and what it needs; return whether it is valid."""
        if first.training.method != "gradient":
            message = f"search is for trainings by gradient, and {first.cell_label} is none"
            self._problems.append(Problem(("search",), message))
            return False
        at_ends = [
            self._blocks.trial({**assignment, name: Value(raw, ("search", "space", name))})
            for name, dimension in search.space.items()
            for raw in dimension.ends
        ]
        key = cell_id(first, but=search.space)
        if key in self._searched:
            known = self._searched[key]
            self._n_merged += len(set(seeds) & set(known.seeds))
            every = tuple(dict.fromkeys([*known.seeds, *seeds]))
            self._n_added += len(every) - len(known.seeds)
            self._searched[key] = replace(known, seeds=every)
            return True
        self._n_added += 1
        parent_ids = self._planned(first, trial_id(first), {}, is_source=True).parent_ids
        build = partial(self._with_setting, assignment)
        self._searched[key] = SearchedCell(key, first, axes, seeds, parent_ids, build, self._planned_result)
        return all(spec is not None for spec in at_ends)

    def _with_setting(self, assignment: Assignment, setting: Setting) -> TrialSpec:
        values = {name: Value(raw, ("search", "space", name)) for name, raw in setting.items()}
        n_known = len(self._blocks.problems)
        spec = self._blocks.trial({**assignment, **values})
        if spec is None:
            new = list(self._blocks.problems.values())[n_known:]
            raise SpecError("; ".join(problem.message for problem in new) or f"{dict(setting)} does not fit")
        return spec

    def _planned_result(self, spec: TrialSpec, axes: Mapping[str, Scalar]) -> PlannedTrial:
        return self._planned(spec, trial_id(spec), axes, is_source=False)

    def _axes(self, assignment: Assignment) -> dict[str, Scalar]:
        """Name the values of a combination; a depth as a number of stages, whatever was written."""
        axes = {name: value.label for name, value in assignment.items()}
        architecture = self._blocks.architecture(assignment)
        if DEPTH in axes and architecture is not None:
            with suppress(SpecError):  # reported when the trial is built
                axes[DEPTH] = n_transfused(assignment[DEPTH].raw, architecture)
        return axes

    def _add(self, spec: TrialSpec, axes: dict[str, Scalar]) -> None:
        identity = trial_id(spec)
        known = self._trials.get(identity)
        if known is not None and not known.is_source:
            self._n_merged += 1
            return
        self._n_added += 1
        if known is None:
            self._trials[identity] = self._planned(spec, identity, axes, is_source=False)
        else:
            self._trials[identity] = replace(known, axes=axes, is_source=False)

    def _planned(
        self, spec: TrialSpec, identity: str, axes: Mapping[str, Scalar], *, is_source: bool
    ) -> PlannedTrial:
        parents = {trial_id(parent): parent for parent in spec.parents}
        for parent_id, parent in parents.items():
            if parent_id not in self._trials:
                self._trials[parent_id] = self._planned(parent, parent_id, {}, is_source=True)
        return PlannedTrial(spec, identity, axes, tuple(parents), is_source, self._resources(spec))

    def _resources(self, spec: TrialSpec) -> Resources:
        given = self._study.resources.given_to(spec.architecture.name)
        gpu = self._share(spec) if given.gpu == "auto" else given.gpu
        return Resources(given.cpu, gpu, is_compiled=given.compile, is_deterministic=given.deterministic)


def _excluded(
    axes: Mapping[str, Scalar], dropped: Mapping[int, str], seeds: tuple[int, ...]
) -> list[Excluded]:
    """Note a combination once if all its seeds are dropped for one reason, else seed by seed."""
    reasons = set(dropped.values())
    if len(reasons) == 1 and set(dropped) == set(seeds):
        return [Excluded(axes, reasons.pop(), len(seeds))]
    return [Excluded({**axes, "seed": seed}, reason, 1) for seed, reason in dropped.items()]
