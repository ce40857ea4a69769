"""What people call trials, where several of a study would have one name."""

from collections.abc import Mapping
from typing import Any


def distinct_labels(
    names: Mapping[str, str | tuple[str, str]], contents: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Give equal contents equal labels and different contents different ones.

    Contents that share a name get the fields in which they differ: `resnet18 · digits (lr=0.1)`.

    Args:
        names: what people call each, alone or below a heading.
        contents: of each the fields that tell it apart, as `trainables.identity.flatten` writes them.
    """
    by_name: dict[str | tuple[str, str], dict[tuple[Any, ...], Mapping[str, Any]]] = {}
    for key, content in contents.items():
        by_name.setdefault(names[key], {})[tuple(sorted(content.items()))] = content
    labels = {}
    for key, content in contents.items():
        name, rivals = names[key], list(by_name[names[key]].values())
        text = name if isinstance(name, str) else " · ".join(name)
        fields = sorted({field for rival in rivals for field in rival})
        differing = [f for f in fields if len({rival.get(f) for rival in rivals}) > 1]
        telling = [f for f in differing if not f.endswith("trial_id")] or differing
        # A label must stay unambiguous even where the readable fields agree on two rivals.
        if len({tuple(rival.get(f) for f in telling) for rival in rivals}) < len(rivals):
            telling = differing
        shown = ", ".join(f"{_short(f)}={content.get(f, 'none')}" for f in telling)
        labels[key] = f"{text} ({shown})" if shown else text
    return labels


def _short(field: str) -> str:
    """`training.optimizer.lr` is known as `lr`, `init.source.name` as `source`."""
    return field.removesuffix(".name").rsplit(".", 1)[-1]
