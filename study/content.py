"""What a study file means, before anything is validated: names, overrides, shorthands."""

from collections.abc import Mapping
from typing import Any

from trainables.datasets.catalog import DATASETS
from trainables.errors import SpecError, unknown_choice
from trainables.spec import DatasetSpec
from trainables.validation import FieldPath

# What a shorthand stands for: `resnet18` is `{name: resnet18}`; elsewhere a name is a kind.
_SHORTHAND = {"architecture": "name", "dataset": "from"}
_DEFAULT_KINDS = {"optimizer": "sgd", "schedule": "constant"}


def written_out(raw: Any, field: str) -> dict[str, Any]:
    """Write a shorthand out as a mapping; what is neither text nor a mapping has nothing to keep."""
    if isinstance(raw, str):
        return {_SHORTHAND.get(field, "kind"): raw}
    return dict(raw) if isinstance(raw, dict) else {}


def with_field(raw: Any, field: tuple[str, ...], value: Any) -> Any:
    """Return a copy of the block `field[0]` in which the inner field has another value."""
    if len(field) == 1:
        return value
    content = written_out(raw, field[0])
    return {**content, field[1]: with_field(content.get(field[1]), field[1:], value)}


def holds(content: Any, path: FieldPath) -> bool:
    """Say whether a mapping has a field."""
    for part in path:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def merged_training(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over a training: field by field, but another kind of optimizer or schedule as a whole."""
    merged = {**base}
    if ("steps" in changes) != ("epochs" in changes):  # the length is one thing with two names
        merged.pop("steps" if "epochs" in changes else "epochs", None)
    for name, value in changes.items():
        before, after = (_with_kind(each, name) for each in (merged.get(name), value))
        is_inside = isinstance(before, dict) and isinstance(after, dict)
        if is_inside and before.get("kind") == after.get("kind"):
            merged[name] = {**before, **after}
        else:
            merged[name] = after
    return merged


def _with_kind(value: Any, name: str) -> Any:
    if name not in _DEFAULT_KINDS or not isinstance(value, (str, dict)):
        return value
    return {"kind": _DEFAULT_KINDS[name], **written_out(value, name)}


def dataset_content(
    raw: Any, named: Mapping[str, DatasetSpec | None], *, where: str
) -> dict[str, Any] | None:
    """Return the fields of a dataset: from a name, a name with overrides (`from: cifar10`), or as written.

    Overrides replace fields; of `options` they replace those that they name.

    Args:
        named: the study's own datasets, which go before those of the catalog.
        where: the field, for messages.

    Returns:
        None if the name stands for a dataset of the study that is itself mistaken.

    Raises:
        SpecError: the name is unknown, or there is neither a name nor a mapping.
    """
    if not isinstance(raw, (str, dict)):
        raise SpecError(f"{where} must be the name of a dataset or a mapping, got {raw!r}")
    content = written_out(raw, "dataset")
    if "from" not in content:
        return content
    known: dict[str, Any] = {**DATASETS, **named}
    name = content.pop("from")
    if not isinstance(name, str) or name not in known:
        raise SpecError(unknown_choice(where, name, known))
    base = known[name]
    if base is None:
        return None
    fields = base.model_dump() if isinstance(base, DatasetSpec) else base
    options, inherited = content.get("options"), fields.get("options")
    has_same_reader = content.get("reader", fields["reader"]) == fields["reader"]
    if has_same_reader and isinstance(options, dict) and isinstance(inherited, dict):
        content["options"] = {**inherited, **options}
    return {**fields, **content}


def named_datasets(own: Mapping[str, DatasetSpec | None]) -> dict[str, DatasetSpec]:
    """Return every dataset a study can name: the catalog's, and its own before them."""
    catalog = {name: DatasetSpec.model_validate(fields) for name, fields in DATASETS.items()}
    return {**catalog, **{name: spec for name, spec in own.items() if spec is not None}}
