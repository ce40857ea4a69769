"""Reads a study file, and reports all its mistakes at once, each with its line."""

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.axes import DEPTH, Axis, check_distinct, matches, read_axis, wrong_axis_name
from study.content import dataset_content, named_datasets
from study.grid import check_grid
from study.search.section import SearchSection
from study.sections import Study, StudyFile, TrialSection
from study.yaml_lines import Document, NotReadableError, read_yaml
from trainables.datasets.catalog import normalize_dataset
from trainables.errors import SpecError, StudyFileError, unknown_choice
from trainables.spec import DatasetSpec, TrialSpec, parse_trial
from trainables.validation import FieldPath, Problem, describe, dotted

# PyYAML reads 150 KB a second, and the studies we know have 5.
MAX_KIB = 128
# A message can quote what was written, and there can be one for every line.
SHOWN_CHARACTERS = 1000
SHOWN_PROBLEMS = 50

__all__ = ["Study", "load_study", "load_trial", "parse_study"]

# What stands in for a mistaken section, so that the others can be looked at all the same.
_STAND_INS: dict[str, Any] = {
    "name": "unnamed",
    "trial": {},
    "source": {"file": "unnamed", "sha256": "0" * 64},
}


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyFileError: the file is mistaken; the message lists every mistake with its line.
    """
    return parse_study(_text(path), path=str(path))


def parse_study(text: str, *, path: str = "study.yaml") -> Study:
    """Read the text of a study file.

    Args:
        path: what to call the file in messages.

    Raises:
        StudyFileError: the text is mistaken; the message lists every mistake with its line.
    """
    document = _document(text, path)
    problems = list(document.problems)
    file = _sections(document.content, problems)
    study = _study(file, text, document, problems)
    specs, more = check_grid(study)
    # What follows from a mistake above is no mistake of its own.
    problems += [problem for problem in more if not any(_is_around(problem, other) for other in problems)]
    if not problems:
        study = _with_labels(study, specs, problems)
    if problems:
        raise StudyFileError(path, _lines(document, problems))
    return study


def load_trial(path: Path) -> TrialSpec:
    """Read the description of one trial, YAML or JSON; datasets can be named as in a study.

    Raises:
        StudyFileError: the file is mistaken; the message lists every mistake with its line.
        SpecError: as above, for a JSON file.
    """
    text = _text(path)
    if path.suffix == ".json":
        return parse_trial(_json(text, path))
    document = _document(text, str(path))
    problems = list(document.problems)
    content = _with_datasets(document.content, (), problems)
    try:
        spec = TrialSpec.model_validate(content)
    except ValidationError as error:
        problems += describe(error, TrialSpec)
    if problems:
        raise StudyFileError(str(path), _lines(document, problems))
    return spec


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StudyFileError(str(path), [f"line {error.lineno}: not JSON: {error.msg}"]) from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of 5,000 digits
        raise StudyFileError(str(path), [f"line 1: not JSON: {error}"]) from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_KIB * 1024 + 1)
        if len(content) > MAX_KIB * 1024:
            raise StudyFileError(str(path), [f"the file is larger than {MAX_KIB} KiB; is it the right one?"])
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise StudyFileError(str(path), [f"line {line}: not UTF-8 text; save the file as UTF-8"]) from None
    except OSError as error:
        raise StudyFileError(str(path), [f"the file cannot be read: {error.strerror}"]) from None


def _document(text: str, path: str) -> Document:
    try:
        return read_yaml(text)
    except NotReadableError as error:
        raise StudyFileError(path, [f"line {error.line}: {error}"]) from None


def _lines(document: Document, problems: Iterable[Problem]) -> list[str]:
    """Put problems in the order of their lines; what YAML misread is not reported again as a wrong value."""
    misread = {problem.path for problem in document.problems}
    numbered = {
        (document.line(problem.path), problem.message): None
        for problem in problems
        if problem in document.problems or problem.path not in misread
    }
    lines = [
        f"line {line}: {_shortened(message)}" for line, message in sorted(numbered, key=lambda item: item[0])
    ]
    n_more = len(lines) - SHOWN_PROBLEMS
    return [*lines[:SHOWN_PROBLEMS], f"and {n_more} more"] if n_more > 0 else lines


def _shortened(message: str) -> str:
    """Leave out the middle of a message that quotes a long text."""
    n_left = SHOWN_CHARACTERS // 2
    return message if len(message) <= SHOWN_CHARACTERS else f"{message[:n_left]} … {message[-n_left:]}"


def _is_around(problem: Problem, other: Problem) -> bool:
    """Say whether one problem's field contains the other's, or is the same."""
    return all(mine == theirs for mine, theirs in zip(problem.path, other.path, strict=False))


def _sections(content: dict[str, Any], problems: list[Problem]) -> StudyFile:
    """Validate the sections; what is mistaken is left out, for the rest is to be looked at too."""
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        found = describe(error, StudyFile, whole="a study")
    problems += [new for new in found if not any(_is_around(new, old) for old in problems)]
    mistaken = {problem.path[0] for problem in found}
    kept = {name: value for name, value in content.items() if name not in mistaken}
    kept |= {name: value for name, value in _STAND_INS.items() if name in mistaken}
    if "trial" in mistaken and isinstance(content.get("trial"), dict):
        kept["trial"] = {key: content["trial"].get(key) for key in TrialSection.model_fields}
    if "exclude" in mistaken and isinstance(content["exclude"], list):
        kept["exclude"] = [_stand_in_rule(rule) for rule in content["exclude"]]
    return StudyFile.model_validate(kept)


def _stand_in_rule(rule: object) -> dict[str, Any]:
    """Keep what a mistaken rule excludes, or the combinations it means would be checked."""
    where = rule.get("where") if isinstance(rule, dict) else None
    return {"where": where if isinstance(where, dict) and where else {"seed": []}, "reason": "mistaken"}


def _study(file: StudyFile, text: str, document: Document, problems: list[Problem]) -> Study:
    axes, *groups = _distinct(
        [_read_axes(file.grid, ("grid",), problems), *_groups(file, problems)], problems
    )
    for axis in axes:
        check_distinct(((value,) for value in axis.values), problems)
    depths = [axis for axis in axes if axis.name == DEPTH]
    _check_includes(file, problems)
    if file.search is not None:
        _check_search(file.search, [*axes, *(axis for group in groups for axis in group)], problems)
    return Study(
        name=file.name,
        question=file.question,
        seeds=file.seeds,
        datasets={name: _dataset(name, raw, problems) for name, raw in file.datasets.items()},
        trial={name: value for name, value in file.trial.model_dump().items() if value is not None},
        source=file.source,
        grid=tuple(axis for axis in axes if axis not in depths),
        depths=depths[0] if depths else None,
        groups=tuple(tuple(group) for group in groups if group),
        exclude=file.exclude,
        include=file.include,
        search=file.search,
        budget=file.budget,
        price=file.price,
        resources=file.resources,
        checkpoints=file.checkpoints,
        failures=file.failures,
        analysis=file.analysis,
        text=text,
        document=document,
    )


def _read_axes(written: Mapping[str, Any], path: FieldPath, problems: list[Problem]) -> list[Axis]:
    axes = [read_axis(name, values, (*path, name), problems) for name, values in written.items()]
    return [axis for axis in axes if axis is not None]


def _groups(file: StudyFile, problems: list[Problem]) -> list[list[Axis]]:
    groups = [_read_axes(group, ("zip", index), problems) for index, group in enumerate(file.zip)]
    for index, group in enumerate(groups):
        groups[index] = group = [axis for axis in group if axis.values]
        sizes = {axis.name: len(axis.values) for axis in group}
        if len(set(sizes.values())) > 1:
            came = ", ".join(f"{name} {size}" for name, size in sizes.items())
            message = f"zip[{index}] must have lists of one length, got {came}"
            problems.append(Problem(("zip", index), message))
            shortest = min(sizes.values())
            groups[index] = group = [replace(axis, values=axis.values[:shortest]) for axis in group]
        check_distinct(zip(*(axis.values for axis in group), strict=True), problems)
    return groups


def _distinct(groups: list[list[Axis]], problems: list[Problem]) -> list[list[Axis]]:
    """Drop axes that an earlier section has already."""
    first: dict[str, Axis] = {}
    for axis in (axis for group in groups for axis in group):
        if first.setdefault(axis.name, axis) is not axis:
            message = f"{dotted(axis.path)} is an axis already: {dotted(first[axis.name].path)}"
            problems.append(Problem(axis.path, message))
    return [[axis for axis in group if first[axis.name] is axis] for group in groups]


def _check_includes(file: StudyFile, problems: list[Problem]) -> None:
    for index, include in enumerate(file.include):
        for name in include.set:
            path = ("include", index, "set", name)
            wrong = wrong_axis_name(name, dotted(path))
            if wrong is not None:
                problems.append(Problem(path, wrong))


def _check_search(search: SearchSection, axes: list[Axis], problems: list[Problem]) -> None:
    """Add what does not fit the axes: a field that is one, a cell to begin with that none has."""
    by_name = {axis.name: axis for axis in axes}
    for name in search.space.keys() & by_name.keys():
        at_field = ("search", "space", name)
        problems.append(Problem(at_field, f"{name} is an axis already: {dotted(by_name[name].path)}"))
    for name, wanted in (search.warm_start.cell if search.warm_start else {}).items():
        path = ("search", "warm_start", "cell", name)
        if name not in by_name:
            message = unknown_choice("search.warm_start.cell: an axis", name, by_name)
            problems.append(Problem(path, message))
        elif not any(matches(value, wanted) for value in by_name[name].values):
            labels = [str(value.label) for value in by_name[name].values]
            problems.append(Problem(path, unknown_choice(dotted(path), str(wanted), labels)))


def _dataset(name: str, raw: dict[str, Any], problems: list[Problem]) -> DatasetSpec | None:
    path = ("datasets", name)
    try:
        content = dataset_content(raw, {}, where=f"{dotted(path)}.from")
        spec = DatasetSpec.model_validate(content)
        normalize_dataset(spec)
    except SpecError as error:
        message = str(error)
        field = re.match(r"dataset\.(\w+)", message)
        at = (*path, field[1] if field else "from")
        problems.append(Problem(at, re.sub(r"^dataset\.", f"{dotted(path)}.", message)))
    except ValidationError as error:
        problems += describe(error, DatasetSpec, prefix=path)
    else:
        return spec
    return None


def _with_labels(study: Study, specs: list[TrialSpec], problems: list[Problem]) -> Study:
    """Check what the section `analysis` names, and name datasets by their labels there."""
    labels = {spec.dataset.label for spec in specs}
    names = {
        name: spec.label for name, spec in named_datasets(study.datasets).items() if spec.label in labels
    }
    thresholds = {}
    for name, value in study.analysis.thresholds.items():
        if name not in labels | set(names):
            message = unknown_choice("analysis.thresholds: a dataset", name, labels | set(names))
            problems.append(Problem(("analysis", "thresholds", name), message))
        thresholds[names.get(name, name)] = value
    inits = {label for spec in specs for label in (spec.init.kind, spec.init_label)}
    baseline = study.analysis.baseline
    if "baseline" in study.analysis.model_fields_set and baseline not in inits:
        message = unknown_choice("analysis.baseline", baseline, inits)
        problems.append(Problem(("analysis", "baseline"), message))
    return replace(study, analysis=study.analysis.model_copy(update={"thresholds": thresholds}))


def _with_datasets(content: Any, path: FieldPath, problems: list[Problem]) -> Any:
    """Replace names of datasets in a trial, and in the pretrainings inside it, by their fields."""
    if not isinstance(content, dict):
        return content
    changed = {**content}
    for name in ("dataset", "target"):
        if isinstance(content.get(name), (str, dict)):
            at = (*path, name)
            try:
                changed[name] = dataset_content(content[name], {}, where=dotted(at))
            except SpecError as error:
                problems.append(Problem(at, str(error)))
                changed[name] = dataset_content("digits", {}, where=dotted(at))
    for name in ("init", "source", "trial", "importance", "classifier"):
        if isinstance(content.get(name), dict):
            changed[name] = _with_datasets(content[name], (*path, name), problems)
    return changed
