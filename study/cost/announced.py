"""The trials that searches will draw: how many are certain, which they will be is not."""

from collections.abc import Iterator

from study.cost.estimate import Announced, announced_ids
from study.plan import Plan
from study.search.cell import CellSearch


def announced_by(plan: Plan) -> list[Announced]:
    """Return the settings still to be drawn in each cell, and the trainings with its best setting.

    Each is taken to be as long as the cell's base; what pruning saves is left out.
    """
    groups: list[Announced] = []
    for search in plan.searches:
        groups += _of_cell(search, first_number=len(groups))
    return groups


def _of_cell(search: CellSearch, *, first_number: int) -> Iterator[Announced]:
    if search.is_decided:
        return
    cell = search.cell
    tried = [one.trial for one in search.tried]
    resources = (tried[0] if tried else cell.as_written()).resources
    setting = cell.base.model_copy(update={"purpose": "search"})
    yield Announced(setting, resources, cell.axes, search.n_left, cell.parent_ids)
    waits_for = (*(trial.trial_id for trial in tried), *announced_ids(first_number, search.n_left))
    for seed in cell.seeds:
        yield Announced(cell.base, resources, {**cell.axes, "seed": seed}, 1, waits_for)
