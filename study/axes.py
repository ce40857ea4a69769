"""What a grid varies: axes, their values, and how a person names both."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from trainables.errors import suggestion
from trainables.validation import FieldPath, Problem, dotted

DEPTH = "transfusion_depth"
EVERY = "every"
ROOTS = ("architecture", "init", "dataset", "training", "source")

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Value:
    """One value of an axis.

    Attributes:
        raw: as it was written.
        path: where it was written.
    """

    raw: Any
    path: FieldPath

    @cached_property
    def key(self) -> Hashable:
        """Equal for equal values; `1` and `1.0` are, `1` and `true` are not."""
        return _key(self.raw)

    @cached_property
    def label(self) -> Scalar:
        """The value in one word or a few, for tables."""
        return label(self.raw)


@dataclass(frozen=True)
class Axis:
    """One thing the grid varies.

    Attributes:
        name: `architecture`, `init`, `dataset`, `source`, `transfusion_depth`, or a dotted field.
        values: all different; none for a depth axis with `every`, which each architecture fills.
    """

    name: str
    values: tuple[Value, ...]
    path: FieldPath

    @property
    def is_every_depth(self) -> bool:
        return self.name == DEPTH and not self.values


Assignment: TypeAlias = Mapping[str, Value]


def field_of(axis: str) -> tuple[str, ...]:
    """Return the field that an axis sets."""
    return ("init", "depth") if axis == DEPTH else tuple(axis.split("."))


def read_axis(name: str, written: Any, path: FieldPath, problems: list[Problem]) -> Axis | None:
    """Read one axis and its values, or add what is wrong with it and return None."""
    wrong = wrong_axis_name(name, dotted(path)) or _wrong_list(name, written, path)
    if wrong is not None:
        problems.append(Problem(path, wrong))
    if name == DEPTH and (wrong is not None or written == EVERY):
        return Axis(name, (), path)
    if wrong is not None:
        return None
    return Axis(name, tuple(Value(raw, (*path, index)) for index, raw in enumerate(written)), path)


def check_distinct(rows: Iterable[tuple[Value, ...]], problems: list[Problem]) -> None:
    """Add a problem for each row of values, of an axis or of several that move together, given before."""
    seen: set[Hashable] = set()
    for row in rows:
        key = tuple(value.key for value in row)
        if key in seen:
            words = " with ".join(repr(value.label) for value in row)
            problems.append(Problem(row[0].path, f"{dotted(row[0].path)} repeats {words}"))
        seen.add(key)


def _wrong_list(name: str, written: Any, path: FieldPath) -> str | None:
    if name == DEPTH and written == EVERY:
        return (
            None
            if path[0] == "grid"
            else f"{dotted(path)} must be a list of depths; {EVERY} is for grid only"
        )
    if isinstance(written, list) and written:
        return None
    likely = suggestion(written, [EVERY]) if name == DEPTH else ""
    write = f"; write [{written}]" if isinstance(written, (str, int, float)) and not likely else ""
    return f"{dotted(path)} must be a list of values with at least one, got {written!r}{likely}{write}"


def wrong_axis_name(name: str, where: str) -> str | None:
    """Say what is wrong with the name of an axis, or return None."""
    if name == "seed":
        return f"{where}: the seeds of a study are listed in its section seeds, not on an axis"
    if name in ("init.source", "init.depth") or name.startswith("init.source."):
        meant = DEPTH if name == "init.depth" else name.removeprefix("init.")
        return f"{where} must be written {meant}"
    if name != DEPTH and name.split(".")[0] not in ROOTS:
        known = (*ROOTS, DEPTH)
        likely = suggestion(name.split(".")[0], known)
        return f"{where} is no axis{likely} (axes: {', '.join(known)}, or a field: training.batch_size)"
    return None


def matches(value: Value, wanted: Any) -> bool:
    """Say whether a person names this value: in full, by its label, or a mapping by its kind or name."""
    if _key(wanted) in (value.key, _key(value.label)):
        return True
    return isinstance(wanted, str) and isinstance(value.raw, dict) and wanted in _names(value.raw)


def label(raw: Any) -> Scalar:
    """Write a value in one word or a few: `adam lr=0.001` for `{kind: adam, lr: 0.001}`."""
    if isinstance(raw, dict):
        names = _names(raw)
        rest = [f"{key}={label(value)}" for key, value in raw.items() if value not in names]
        return " ".join([*names, *rest])
    if isinstance(raw, (list, tuple)):
        return ", ".join(str(label(item)) for item in raw)
    return raw


def _names(raw: Mapping[str, Any]) -> list[str]:
    named = (raw.get(key) for key in ("kind", "name", "from", "weights", "file"))
    return [name for name in named if isinstance(name, str)]


def _key(raw: Any) -> Hashable:
    if isinstance(raw, dict):
        return ("mapping", frozenset((key, _key(value)) for key, value in raw.items()))
    if isinstance(raw, (list, tuple)):
        return ("list", tuple(_key(item) for item in raw))
    return (isinstance(raw, bool), raw)
