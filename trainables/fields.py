"""The kinds of fields that specifications are made of: strict, and with one form for one value."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_core import PydanticKnownError


class SpecModel(BaseModel):
    """Frozen data; an unknown key is an error, text is no number and a boolean is none either."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 equals 0.0 but is written, and so hashed, otherwise


def _whole_number(value: object) -> object:
    # A Literal compares, and True and 1.0 equal 1.
    if isinstance(value, (bool, float)):
        raise PydanticKnownError("int_type")
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def named(key: str) -> BeforeValidator:
    """Let `architecture: resnet18` stand for `architecture: {name: resnet18}`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


def kind_or(default: str) -> BeforeValidator:
    """Let `adam` stand for `{kind: adam}`, and a mapping without `kind` for the default kind."""

    def with_kind(value: object) -> object:
        if isinstance(value, str):
            return {"kind": value}
        return {"kind": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(with_kind)


def _hex_digest(value: str) -> str:
    digest = value.lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"must be the 64 hex digits of a SHA-256, got {value!r}")
    return digest


Sha256 = Annotated[str, AfterValidator(_hex_digest)]
Fraction = Annotated[float, Field(ge=0, lt=1), AfterValidator(_positive_zero)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_positive_zero)]
WholeNumber = BeforeValidator(_whole_number)
Channels: TypeAlias = Annotated[Literal[1, 3], WholeNumber]
ListAsTuple = BeforeValidator(_as_tuple)


def _as_pairs(value: object) -> object:
    """Bring a mapping, at any depth, to sorted pairs: equal contents are equal and can be hashed."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("must have text for keys; put numbers in quotes")
        return Pairs((key, _as_pairs(inner)) for key, inner in sorted(value.items()))
    return tuple(_as_pairs(item) for item in value) if isinstance(value, list) else value


class Pairs(tuple[tuple[str, Any], ...]):
    """A mapping that can be hashed."""

    def as_dict(self) -> dict[str, Any]:
        """Return the mapping, inner ones and lists included."""
        return {key: _plain(value) for key, value in self}


def _plain(value: object) -> Any:
    if isinstance(value, Pairs):
        return value.as_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _is_mapping(value: object) -> Pairs:
    if not isinstance(value, Pairs):
        raise PydanticKnownError("dict_type")
    return value


# A mapping whose content is checked by those who know it (the options of a reader).
FrozenMapping = Annotated[
    Any,
    BeforeValidator(_as_pairs),
    AfterValidator(_is_mapping),
    PlainSerializer(lambda pairs: pairs.as_dict()),
]
