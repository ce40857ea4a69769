"""The kinds of fields that specifications are made of: strict, and with one form for one value."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
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


Fraction = Annotated[float, Field(ge=0, lt=1), AfterValidator(_positive_zero)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_positive_zero)]
WholeNumber = BeforeValidator(_whole_number)
Channels: TypeAlias = Annotated[Literal[1, 3], WholeNumber]
ListAsTuple = BeforeValidator(_as_tuple)
