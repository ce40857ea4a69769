"""Mistakes in data that people wrote, in the house's words.

pydantic finds the mistakes; here each becomes one sentence that starts with the field it is about, says what
was expected and what came, and, where a reason is known, what to write instead.
"""

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainables.errors import suggestion, unknown_choice

FieldPath: TypeAlias = tuple[str | int, ...]

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
# What YAML 1.1 leaves as text although it reads as a number: no point, or no sign in the exponent.
_EXPONENT = re.compile(r"([-+]?[\d_]*\.?[\d_]*)[eE]([-+]?)(\d+)")


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
        path: keys and list indices that lead to the field.
        message: the whole sentence; starts with the field.
    """

    path: FieldPath
    message: str

    @property
    def field(self) -> str:
        """The field as people write it: `training.optimizer.lr`, `exclude[0].reason`."""
        return dotted(self.path)


def dotted(path: FieldPath) -> str:
    """Write a path as people do: keys with points, list indices in brackets."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def describe(
    error: ValidationError, model: type[BaseModel], *, prefix: FieldPath = (), whole: str = "a trial"
) -> list[Problem]:
    """Turn a validation error into sentences, one for each field that is wrong.

    Args:
        model: the class that was being validated; its fields give the suggestions.
        prefix: where the validated mapping lies in what the person wrote.
        whole: what to call the mapping itself when it lies nowhere (`x is not a field of a trial`).
    """
    found: dict[FieldPath, list[tuple[ErrorDetails, list[Any]]]] = {}
    for detail in error.errors(include_url=False):
        path, owners = _locate(model, detail["loc"])
        found.setdefault(prefix + path, []).append((detail, owners))
    return [Problem(path, _sentence(path, details, whole)) for path, details in found.items()]


def number_hint(value: object, *, whole_number: bool) -> str:
    """Say why a text that looks like a number is none, or return an empty string."""
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    exponent = _EXPONENT.fullmatch(value.strip())
    if exponent is None:
        return "; remove the quotes"
    if whole_number and number.is_integer():
        return f" (YAML reads {value} as text; write {int(number)})"
    mantissa, sign, power = exponent.groups()
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f" (YAML reads {value} as text; write {mantissa}e{sign or '+'}{power})"


def _sentence(path: FieldPath, details: list[tuple[ErrorDetails, list[Any]]], whole: str) -> str:
    field = dotted(path) or whole
    detail, owners = details[0]  # the members of a union fail one by one, the likeliest first
    kind, got, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(path, owners, whole)
    if kind == "missing":
        return f"{field} is required"
    if kind == "value_error":
        text = str(context["error"])
        return f"{field} {text}" if text.startswith("must ") else f"{field}: {text}"
    if kind == "literal_error":
        return _wrong_choice(field, got, _choices(owners))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        got = got.get("kind") if isinstance(got, dict) else got
        tags = [_tag(owner) for owner in owners if _tag(owner)]
        return _wrong_choice(f"{field}.kind", got, tags)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{field} must be {words} {_plain(context[key])}, got {got!r}"
    if kind in ("too_short", "string_too_short"):
        return f"{field} must not be empty"
    if kind in _EXPECTED:
        return _wrong_type(field, got, [each for each, _ in details])
    return f"{field}: {detail['msg']}, got {got!r}"


def _wrong_type(field: str, got: object, details: list[ErrorDetails]) -> str:
    words = (_EXPECTED.get(each["type"]) or each.get("ctx", {}).get("expected") for each in details)
    expected = " or ".join(dict.fromkeys(str(word) for word in words if word))
    hint = number_hint(got, whole_number="whole" in expected) if "number" in expected else ""
    if expected == "text" and got is not None and not isinstance(got, (dict, list, tuple)):
        hint = "; put it in quotes"
    came = "nothing" if got is None else repr(got)
    return f"{field} must be {expected}, got {came}{hint}"


def _wrong_choice(field: str, got: object, known: list[Any]) -> str:
    if all(isinstance(choice, str) for choice in known):
        return unknown_choice(field, got, known)
    return (
        f"{field} must be {' or '.join(map(repr, known))}, got {got!r}{number_hint(got, whole_number=True)}"
    )


def _unknown_field(path: FieldPath, owners: list[Any], whole: str) -> str:
    fields = [name for owner in owners for name in owner.model_fields]
    name, parent = str(path[-1]), dotted(path[:-1])
    likely = suggestion(name, fields)
    deeper = [] if likely else [at for owner in owners for at in _deeper(owner, name)]
    if deeper:
        likely = f"; did you mean {dotted((*path[:-1], *deeper[0]))!r}?"
    return f"{dotted(path)} is not a field of {parent or whole}{likely} (fields: {', '.join(fields)})"


def _deeper(owner: type[BaseModel], name: str) -> Iterator[FieldPath]:
    """Find a field of that name one mapping further down: `lr` is meant as `optimizer.lr`."""
    for outer, info in owner.model_fields.items():
        for member in _members(info.annotation):
            if _is_model(member) and name in member.model_fields:
                yield (outer, name)


def _locate(model: type[BaseModel], location: FieldPath) -> tuple[FieldPath, list[Any]]:
    """Follow a pydantic location, leaving out the tags that it inserts for members of a union.

    Returns:
        The path a person wrote, and the types at its end (for an unknown key: at its parent).
    """
    path: FieldPath = ()
    owners: list[Any] = [model]
    for part in location:
        models = [owner for owner in owners if _is_model(owner)]
        holders = [owner for owner in models if part in owner.model_fields]
        tagged = [owner for owner in models if _tag(owner) == part] if len(models) > 1 else []
        contents = [argument for owner in owners for argument in _contents(owner, part)]
        if holders:
            owners = _members(holders[0].model_fields[part].annotation)
        elif tagged:
            owners = tagged
            continue
        elif contents:
            owners = contents
        elif not models:
            continue
        path += (part,)
    return path, owners


def _contents(owner: Any, part: str | int) -> list[Any]:
    """Return the types of the elements of a list or of the values of a mapping."""
    arguments = get_args(owner)
    if isinstance(part, int) and get_origin(owner) in (tuple, list):
        return _members(arguments[0])
    if isinstance(part, str) and get_origin(owner) is dict:
        return _members(arguments[1])
    return []


def _members(annotation: Any) -> list[Any]:
    """Take `Annotated` and unions apart."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]


def _is_model(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, BaseModel)


def _tag(owner: Any) -> str | None:
    kind = owner.model_fields.get("kind") if _is_model(owner) else None
    return get_args(kind.annotation)[0] if kind is not None else None


def _choices(owners: list[Any]) -> list[Any]:
    return [value for owner in owners if get_origin(owner) is Literal for value in get_args(owner)]


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)
