"""The trial of one combination: what the file says, and over it what the axes set.

Combinations share their blocks (architecture, init, dataset, training, source), so each distinct block is
validated once, whatever the size of the grid.
"""

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from study.axes import DEPTH, Assignment, field_of
from study.content import dataset_content, holds, merged_training, with_field, written_out
from study.sections import PretrainingSection, Study, WeightsSection
from trainables.architectures.reshaping import architecture_of
from trainables.errors import SpecError
from trainables.fields import SpecModel
from trainables.resolution import n_transfused, resolve
from trainables.spec import (
    ArchitectureSpec,
    DatasetSpec,
    ImportanceSpec,
    InitSpec,
    SourceSpec,
    TrainingSpec,
    TrialSpec,
)
from trainables.validation import FieldPath, Problem, describe, dotted

_Model = TypeVar("_Model", bound=SpecModel)
_WITH_DEPTH = "{kind: transfusion, depth: 2}"
# Stands in while an init is checked on its own; never part of a trial.
_ANY_SOURCE = SourceSpec(weights="any")


class Blocks:
    """Builds trials, and collects what is wrong with them.

    Args:
        digest: gives the SHA-256 of a file below the data root; the field is for messages.

    Attributes:
        problems: the first of each value in the file, by its path.
    """

    def __init__(self, study: Study, *, digest: Callable[[str, str], str]) -> None:
        self.problems: dict[FieldPath, Problem] = {}
        self._study = study
        self._digest = digest
        self._built: dict[Hashable, Any] = {}

    def trial(self, assignment: Assignment) -> TrialSpec | None:
        """Return the resolved trial of a combination, with seed 0, or None if something is wrong with it."""
        # All blocks are built before any is missed: all mistakes are reported at once.
        architecture = self._once("architecture", assignment, self._architecture)
        init = self._once("init", assignment, self._init)
        dataset = self._once("dataset", assignment, self._dataset)
        training = self._once("training", assignment, self._training)
        if architecture is not None and init is not None and init.depth is not None:
            self._check_depth(init.depth, architecture, assignment)
        if init is not None and init.kind != "random":
            source = self._once("source", assignment, self._source, "architecture", "dataset")
            init = init.model_copy(update={"source": source}) if source is not None else None
        if architecture is None or init is None or dataset is None or training is None:
            return None
        try:
            return resolve(
                TrialSpec(architecture=architecture, init=init, dataset=dataset, training=training)
            )
        except SpecError as error:
            self._add_spec_error(error, assignment)
            return None

    def architecture(self, assignment: Assignment) -> ArchitectureSpec | None:
        """Return the combination's architecture, or None if it has no valid one."""
        architecture: ArchitectureSpec | None = self._once("architecture", assignment, self._architecture)
        return architecture

    def is_transfusion(self, assignment: Assignment) -> bool:
        """Say whether a combination's initialization has a depth."""
        return written_out(self._raw("init", assignment), "init").get("kind") == "transfusion"

    def _check_depth(self, depth: int | str, architecture: ArchitectureSpec, assignment: Assignment) -> None:
        try:
            n_transfused(depth, architecture)
        except SpecError as error:
            self._add_spec_error(error, assignment)

    def _once(self, root: str, assignment: Assignment, build: Callable[[Assignment], Any], *more: str) -> Any:
        key = (root, *((n, v.key) for n, v in assignment.items() if field_of(n)[0] in (root, *more)))
        if key not in self._built:
            self._built[key] = build(assignment)
        return self._built[key]

    def _raw(self, root: str, assignment: Assignment) -> Any:
        """Return what the file says of a block, with what the axes set; outer fields are set first."""
        raw = self._study.source if root == "source" else self._study.trial.get(root)
        names = [name for name in assignment if field_of(name)[0] == root]
        for name in sorted(names, key=lambda name: len(field_of(name))):
            raw = with_field(raw, field_of(name), assignment[name].raw)
        return raw

    def _required(self, root: str, assignment: Assignment) -> Any:
        raw = self._raw(root, assignment)
        if raw is None:
            self._add(
                (root,), f"{root} is required; give it in trial, or make it an axis of the grid", assignment
            )
        return raw

    def _architecture(self, assignment: Assignment) -> ArchitectureSpec | None:
        raw = self._required("architecture", assignment)
        if raw is None:
            return None
        content = {"name": raw} if isinstance(raw, str) else raw
        architecture = self._validated(ArchitectureSpec, content, ("architecture",), assignment)
        try:
            if architecture is not None:
                architecture_of(architecture)
        except SpecError as error:
            self._add_spec_error(error, assignment)
            return None
        return architecture

    def _init(self, assignment: Assignment) -> InitSpec | None:
        raw = self._raw("init", assignment)
        content = written_out(raw, "init") if raw is None or isinstance(raw, str) else raw
        if isinstance(content, dict) and "source" in content:
            self._add(
                ("init", "source"), "init.source is given in the section source of the file", assignment
            )
            return None
        if not isinstance(content, dict) or content.get("kind", "random") == "random":
            return self._validated(InitSpec, content, ("init",), assignment)
        if content.get("kind") == "transfusion" and content.get("depth") is None:
            message = f"init: transfusion needs a depth; make {DEPTH} an axis, or write {_WITH_DEPTH}"
            self._add(("init",), message, assignment)
            return None
        init = self._validated(InitSpec, {**content, "source": _ANY_SOURCE}, ("init",), assignment)
        if init is not None and self._raw("source", assignment) is None:
            message = (
                f"init: {init.kind} needs a source of pretrained weights; add a section source to the file"
            )
            # One mistake, however many initializations need the source.
            self.problems.setdefault(("source",), Problem(self._written_at(("init",), assignment), message))
            return None
        return init

    def _dataset(self, assignment: Assignment) -> DatasetSpec | None:
        raw = self._required("dataset", assignment)
        return None if raw is None else self._referenced(raw, ("dataset",), assignment)

    def _referenced(self, raw: Any, path: FieldPath, assignment: Assignment) -> DatasetSpec | None:
        try:
            content = dataset_content(raw, self._study.datasets, where=dotted(path))
        except SpecError as error:
            self._add(path, str(error), assignment)
            return None
        spec = None if content is None else self._validated(DatasetSpec, content, path, assignment)
        if spec is None or not isinstance(spec.superclasses, str) or spec.superclasses_sha256 is not None:
            return spec
        digest = self._digest(spec.superclasses, f"{dotted(path)}.superclasses")
        return spec.model_copy(update={"superclasses_sha256": digest})

    def _training(self, assignment: Assignment) -> TrainingSpec | None:
        raw = self._required("training", assignment)
        return None if raw is None else self._validated(TrainingSpec, raw, ("training",), assignment)

    def _source(self, assignment: Assignment) -> SourceSpec | None:
        return self._source_of(self._raw("source", assignment), ("source",), assignment)

    def _source_of(self, raw: Any, path: FieldPath, assignment: Assignment) -> SourceSpec | None:
        kinds = [kind for kind in ("weights", "file", "dataset") if isinstance(raw, dict) and kind in raw]
        if isinstance(raw, dict) and len(kinds) != 1:
            came = " and ".join(kinds) or "none of them"
            message = "must have exactly one of weights, file and dataset (a pretraining), got"
            self._add(path, f"{dotted(path)} {message} {came}", assignment)
            return None
        if kinds == ["dataset"]:
            return self._pretraining(raw, path, assignment)
        section = self._validated(WeightsSection, raw, path, assignment)
        if section is None:
            return None
        content = section.model_dump()
        if section.file is not None and section.sha256 is None:
            content["sha256"] = self._digest(section.file, f"{dotted(path)}.file")
        return self._validated(SourceSpec, content, path, assignment)

    def _pretraining(self, raw: Any, path: FieldPath, assignment: Assignment) -> SourceSpec | None:
        section = self._validated(PretrainingSection, raw, path, assignment)
        architecture = self._once("architecture", assignment, self._architecture)
        if section is None:
            return None
        dataset = self._referenced(section.dataset, (*path, "dataset"), assignment)
        training = self._pretraining_training(section.training, (*path, "training"), assignment)
        init = self._pretraining_init(section, path, assignment)
        if architecture is None or dataset is None or training is None or init is None:
            return None
        if section.architecture == "whole":
            architecture = architecture.model_copy(update={"slim": None, "truncate_after": None})
        trial = TrialSpec(
            architecture=architecture, init=init, dataset=dataset, training=training, seed=section.seed
        )
        if section.importance is not None:
            target = self._importance_target(dataset, assignment)
            if target is None:
                return None
            importance = ImportanceSpec(
                classifier=trial, target=target, temper=section.importance.temper, cap=section.importance.cap
            )
            trial = trial.model_copy(update={"importance": importance})
        try:
            return SourceSpec(trial=resolve(trial), checkpoint=section.checkpoint)
        except SpecError as error:
            self._add_spec_error(error, assignment, within=path)
            return None

    def _importance_target(self, source: DatasetSpec, assignment: Assignment) -> DatasetSpec | None:
        """Return the trial's dataset as the classifier of the source classes sees it."""
        dataset = self._once("dataset", assignment, self._dataset)
        if dataset is None:
            return None
        return dataset.model_copy(update={"size_px": source.size_px, "channels": source.channels})

    def _pretraining_training(
        self, changes: Mapping[str, Any], path: FieldPath, assignment: Assignment
    ) -> TrainingSpec | None:
        """Return the base trial's training with changes; no axis reaches it, so trials share a source."""
        base = self._study.trial.get("training")
        if base is None and not changes and self._raw("training", assignment) is None:
            return None  # that it is missing is reported for the trial
        content = merged_training(base if isinstance(base, dict) else {}, changes)
        try:
            return TrainingSpec.model_validate(content)
        except ValidationError as error:
            inherited = describe(error, TrainingSpec, prefix=("training",))
            for own, other in zip(describe(error, TrainingSpec, prefix=path), inherited, strict=True):
                field = own.path[len(path) :]
                is_inherited = holds(base, field) and not holds(changes, field) and bool(field)
                if is_inherited:
                    self._add_at(("trial", *other.path), other.message)
                else:
                    self._add(own.path, own.message, assignment)
            return None

    def _pretraining_init(
        self, section: PretrainingSection, path: FieldPath, assignment: Assignment
    ) -> InitSpec | None:
        at = (*path, "init")
        content = written_out(section.init or ("pretrained" if section.source else "random"), "init")
        if content.get("kind", "random") == "random":
            return self._validated(InitSpec, content, at, assignment)
        init = self._validated(InitSpec, {**content, "source": _ANY_SOURCE}, at, assignment)
        if init is None:
            return None
        if section.source is None:
            self._add(at, f"{dotted(at)}: {init.kind} needs a source inside the section source", assignment)
            return None
        source = self._source_of(section.source, (*path, "source"), assignment)
        return None if source is None else init.model_copy(update={"source": source})

    def _validated(
        self, model: type[_Model], content: Any, path: FieldPath, assignment: Assignment
    ) -> _Model | None:
        try:
            return model.model_validate(content)
        except ValidationError as error:
            for problem in describe(error, model, prefix=path):
                self._add(problem.path, problem.message, assignment)
            return None

    def _add_spec_error(self, error: SpecError, assignment: Assignment, *, within: FieldPath = ()) -> None:
        """Add a mistake that only the whole trial shows; its message starts with the field."""
        message = str(error)
        for source in ("init.source.trial.", "init.source."):
            while message.startswith(source):
                message, within = message.removeprefix(source), (*within, "source")
        field = re.match(r"[\w.]+", message)
        path = (*within, *(field[0].rstrip(".").split(".") if field else ()))
        self._add(path, f"{dotted(within)}.{message}" if within else message, assignment)

    def _add(self, path: FieldPath, message: str, assignment: Assignment) -> None:
        if path == ("init", "depth") and DEPTH in assignment:
            message = message.replace("init.depth", DEPTH, 1)
        at = self._written_at(path, assignment)
        self._add_at(at, message)

    def _add_at(self, path: FieldPath, message: str) -> None:
        self.problems.setdefault(path, Problem(path, message))

    def _written_at(self, path: FieldPath, assignment: Assignment) -> FieldPath:
        """Return where in the file a field got its value: on an axis, or in a section."""
        setters = [name for name in assignment if field_of(name) == path[: len(field_of(name))]]
        if setters:
            innermost = max(setters, key=lambda name: len(field_of(name)))
            return (*assignment[innermost].path, *path[len(field_of(innermost)) :])
        return path if path[:1] == ("source",) else ("trial", *path)
