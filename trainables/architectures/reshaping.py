"""Networks that are slimmed, truncated, or without their auxiliary heads: the stages they then have."""

from dataclasses import replace

from trainables.architectures.architecture import HEAD, Architecture, Stage
from trainables.architectures.catalog import ARCHITECTURES, find_architecture
from trainables.architectures.spec import ArchitectureSpec, SlimSpec
from trainables.errors import SpecError, unknown_choice


def architecture_of(spec: ArchitectureSpec) -> Architecture:
    """Return the catalog entry of a network as the spec reshapes it: the stages it then has.

    Raises:
        SpecError: no such entry, or a change that it does not allow. The message starts with the field.
    """
    entry = find_architecture(spec.name)
    if spec.head_width is not None and not entry.dense_width:
        raise SpecError(
            f"architecture.head_width must be left out for {spec.name}, which has no dense layers before its "
            "outputs"
        )
    if spec.slim is not None:
        _check_slim(spec.name, spec.slim, entry)
    has_auxiliary = entry.auxiliary_weight > 0 and spec.auxiliary and spec.truncate_after is None
    smallest_px = max(entry.smallest_px, entry.smallest_px_with_auxiliary if has_auxiliary else 0)
    entry = replace(
        entry, smallest_px=smallest_px, auxiliary_weight=entry.auxiliary_weight if has_auxiliary else 0.0
    )
    if spec.truncate_after is None:
        is_without = find_architecture(spec.name).auxiliary_weight > 0 and not has_auxiliary
        return replace(entry, stages=_without_auxiliary(entry.stages)) if is_without else entry
    return _truncated(spec.name, spec.truncate_after, entry)


def _without_auxiliary(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Leave out modules of a head that only an auxiliary head has; the first is the main one."""
    return (*stages[:-1], replace(stages[-1], modules=stages[-1].modules[:1]))


def _check_slim(name: str, slim: SlimSpec, entry: Architecture) -> None:
    if not entry.widths:
        able = ", ".join(known for known, other in ARCHITECTURES.items() if other.widths)
        raise SpecError(f"architecture.slim is not known for {name}, only for {able}")
    if slim.from_stage not in entry.widths:
        raise SpecError(unknown_choice("architecture.slim.from_stage", slim.from_stage, entry.widths))
    names = list(entry.widths)
    for stage in names[names.index(slim.from_stage) :]:
        if entry.widths[stage] % slim.factor:
            raise SpecError(
                f"architecture.slim.factor must divide the channels of every stage, got {slim.factor} for "
                f"the {entry.widths[stage]} of {stage} ({name})"
            )


def _truncated(name: str, last: str, entry: Architecture) -> Architecture:
    if not entry.chain:
        raise SpecError(f"architecture.truncate_after is not known for {name}, whose modules are no chain")
    if last not in entry.backbone:
        raise SpecError(unknown_choice("architecture.truncate_after", last, entry.backbone))
    kept = entry.stages[: entry.backbone.index(last) + 1]
    return replace(entry, stages=(*kept, Stage(HEAD, (HEAD,), HEAD)), dense_width=0, has_deep_head=False)


def normal_architecture(spec: ArchitectureSpec) -> ArchitectureSpec:
    """Return the spec with every field that has no effect at its default."""
    entry = find_architecture(spec.name)
    has_no_effect = entry.auxiliary_weight == 0 or spec.truncate_after is not None
    changes: dict[str, object] = {"auxiliary": True} if has_no_effect else {}
    if spec.truncate_after is not None or spec.head_width == entry.dense_width:
        changes["head_width"] = None
    if spec.slim is not None and spec.truncate_after is not None:
        names = entry.backbone
        if names.index(spec.slim.from_stage) > names.index(spec.truncate_after):
            changes["slim"] = None  # nothing of what is slimmed is left
    return spec.model_copy(update=changes)
