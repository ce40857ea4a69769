"""The combinations of a study: axes crossed, zipped groups together, depths where they mean something."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from study.axes import DEPTH, EVERY, Assignment, Axis, Value, field_of
from study.blocks import Blocks
from study.sections import Study
from trainables.architectures.reshaping import architecture_of


def n_combinations(study: Study) -> int:
    """Return how many trainings the grid can give at most, without making them."""
    sizes = [len(axis.values) for axis in study.grid] + [len(group[0].values) for group in study.groups]
    n_depths = len(study.depths.values) if study.depths else 0
    return math.prod(sizes) * max(1, n_depths) * len(study.seeds)


def combinations(study: Study, blocks: Blocks) -> Iterator[Assignment]:
    """Yield the combinations of grid and zip, in the order of the file; the last axis changes fastest."""
    crossed = [[{axis.name: value} for value in axis.values] for axis in study.grid]
    zipped = [[dict(row) for row in _rows(group)] for group in study.groups]
    for parts in product(*crossed, *zipped):
        assignment: dict[str, Value] = {}
        for part in parts:
            assignment |= part
        yield from _with_depths(assignment, study.depths, blocks)


def included(study: Study, index: int, blocks: Blocks) -> Iterator[Assignment]:
    """Yield the combinations of one entry of `include`; axes it does not set have the base trial's value."""
    path = ("include", index, "set")
    chosen = study.include[index].set
    base = {name: _base_value(study, name) for name in study.axes if name != DEPTH}
    assignment = {name: value for name, value in base.items() if value is not None}
    assignment |= {name: Value(raw, (*path, name)) for name, raw in chosen.items() if name != DEPTH}
    depths = None
    if DEPTH in chosen:
        values = () if chosen[DEPTH] == EVERY else (Value(chosen[DEPTH], (*path, DEPTH)),)
        depths = Axis(DEPTH, values, (*path, DEPTH))
    yield from _with_depths(assignment, depths, blocks)


def _rows(group: tuple[Axis, ...]) -> Iterator[list[tuple[str, Value]]]:
    for values in zip(*(axis.values for axis in group), strict=True):
        yield list(zip((axis.name for axis in group), values, strict=True))


def _with_depths(
    assignment: dict[str, Value], depths: Axis | None, blocks: Blocks
) -> Iterator[dict[str, Value]]:
    """Cross a combination with the depths if it is a transfusion; else it has none."""
    if not blocks.is_transfusion(assignment):
        yield {name: value for name, value in assignment.items() if name != DEPTH}
    elif depths is None:
        yield assignment
    elif depths.is_every_depth:
        architecture = blocks.architecture(assignment)
        n_stages = len(architecture_of(architecture).backbone) if architecture else 2
        yield from ({**assignment, DEPTH: Value(depth, depths.path)} for depth in range(1, n_stages))
    else:
        yield from ({**assignment, DEPTH: value} for value in depths.values)


def _base_value(study: Study, axis: str) -> Value | None:
    """Return what the base trial, or the section source, has in the place of an axis."""
    field = field_of(axis)
    is_source = field[0] == "source"
    content: Any = {"source": study.source} if is_source else study.trial
    for part in field:
        if not isinstance(content, dict) or part not in content:
            return None
        content = content[part]
    return Value(content, field if is_source else ("trial", *field))
