"""The section `exclude`: combinations that are not trained, and why."""

from typing import Any

from study.axes import DEPTH, Assignment, Value, matches
from study.sections import Exclude, Study
from trainables.architectures.spec import ArchitectureSpec
from trainables.errors import SpecError, unknown_choice
from trainables.resolution import n_transfused
from trainables.validation import FieldPath, Problem, dotted


class Exclusion:
    """Applies the rules of a study, and remembers which were of use.

    Attributes:
        problems: rules that name what the grid does not have.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._rules: dict[int, Exclude] = {}
        self._used: set[int] = set()
        self.problems: list[Problem] = []
        for index, rule in enumerate(study.exclude):
            wrong = _unknown_names(rule, ("exclude", index, "where"), study)
            self.problems += wrong
            if not wrong:
                self._rules[index] = rule

    def dropped_seeds(self, assignment: Assignment, architecture: ArchitectureSpec | None) -> dict[int, str]:
        """Return the seeds for which a combination is not trained, each with the first rule's reason."""
        dropped: dict[int, str] = {}
        for index, rule in self._rules.items():
            if not _is_hit(rule, assignment, architecture):
                continue
            wanted = _as_list(rule.where.get("seed", list(self._study.seeds)))
            self._used.add(index)
            for seed in wanted:
                dropped.setdefault(seed, rule.reason)
        return dropped

    def unused(self) -> list[Problem]:
        """Return the rules that no combination met, if all axes are there to be met."""
        if self._study.has_mistaken_axes:
            return []
        return [
            Problem(("exclude", index), f"exclude[{index}].where matches no combination of the grid")
            for index in self._rules
            if index not in self._used
        ]


def _is_hit(rule: Exclude, assignment: Assignment, architecture: ArchitectureSpec | None) -> bool:
    return all(
        axis == "seed" or (axis in assignment and _is_one_of(axis, assignment[axis], wanted, architecture))
        for axis, wanted in rule.where.items()
    )


def _is_one_of(axis: str, value: Value, wanted: Any, architecture: ArchitectureSpec | None) -> bool:
    if axis == DEPTH:
        value = Value(_depth(value.raw, architecture), value.path)
        return any(matches(value, _depth(each, architecture)) for each in _as_list(wanted))
    return any(matches(value, each) for each in _wanted(value, wanted))


def _wanted(value: Value, wanted: Any) -> list[Any]:
    """Take a list as alternatives, unless it is itself the value of an axis of lists."""
    return [wanted] if matches(value, wanted) else _as_list(wanted)


def _depth(depth: Any, architecture: ArchitectureSpec | None) -> Any:
    """Return a depth as a number where it is one of this architecture's, so that `block1` matches 2."""
    if architecture is None or not isinstance(depth, (int, str)):
        return depth
    try:
        return n_transfused(depth, architecture)
    except SpecError:
        return depth


def _unknown_names(rule: Exclude, path: FieldPath, study: Study) -> list[Problem]:
    problems = []
    axes = study.axes
    for name, wanted in rule.where.items():
        at = (*path, name)
        if name == "seed":
            unknown = [seed for seed in _as_list(wanted) if isinstance(seed, bool) or seed not in study.seeds]
            known: list[str] = [str(seed) for seed in study.seeds]
        elif name not in axes and study.has_mistaken_axes:
            continue  # it may be meant by one of these
        elif name not in axes:
            problems.append(Problem(at, unknown_choice(f"{dotted(path)}: an axis", name, [*axes, "seed"])))
            continue
        elif name == DEPTH:
            continue  # a stage or a number may be meant; a rule without a match is reported anyway
        else:
            values = axes[name].values
            is_known = any(matches(value, wanted) for value in values)
            unknown = [
                each
                for each in _as_list(wanted)
                if not is_known and not any(matches(v, each) for v in values)
            ]
            known = [str(value.label) for value in values]
        problems += [Problem(at, unknown_choice(dotted(at), each, known)) for each in unknown]
    return problems


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
