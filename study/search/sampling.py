"""The next setting of a cell, by a sampler of Optuna.

A draw is a function of the section, the cell, the number of the setting and what is known of the others:
each has a sampler with a seed of its own, and the Optuna study is made anew from what was tried. So losing an
Optuna study loses nothing, and one slot draws the same settings however often it is interrupted.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from study.axes import label
from study.search.section import Dimension, SearchSection, Setting
from trainables.seeding import derive_seed

if TYPE_CHECKING:
    from study.search.cell import CellSearch, Tried

optuna.logging.set_verbosity(optuna.logging.WARNING)

# A sampler may draw what was tried, or what does not fit together; it is asked again with another seed.
MOST_DRAWS = 100
SAMPLER_SEEDS = 2**32


def next_setting(search: "CellSearch", *, number: int, first: Sequence[Setting] = ()) -> Setting | None:
    """Return a setting that was not tried yet; None if there is none.

    Args:
        first: settings to begin with, in this order.
    """
    return next((setting for setting in _candidates(search, number, first) if search.allows(setting)), None)


def _candidates(search: "CellSearch", number: int, first: Sequence[Setting]) -> Iterator[Setting]:
    section = search.section
    yield from (setting for setting in first if section.contains(setting))
    if section.sampler == "grid":
        yield from section.grid()
        return
    for draw in range(MOST_DRAWS):
        yield _drawn(search, _sampler(section, search.cell.key, number, draw))
    for draw in range(MOST_DRAWS):  # it insists on what does not fit together
        yield _drawn(search, RandomSampler(seed=_seed(section, search.cell.key, number, MOST_DRAWS + draw)))
    if section.n_possible < float("inf"):
        yield from section.grid()  # what is left of a small space, in its order


def _sampler(section: SearchSection, cell: str, number: int, draw: int) -> BaseSampler:
    seed = _seed(section, cell, number, draw)
    if section.sampler == "tpe":
        # Settings that are in training count as bad ones until more is known (constant liar).
        return TPESampler(seed=seed, constant_liar=True)
    if section.sampler == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)


def _seed(section: SearchSection, cell: str, number: int, draw: int) -> int:
    return derive_seed(section.seed, section.sampler, cell, number, draw) % SAMPLER_SEEDS


def _drawn(search: "CellSearch", sampler: BaseSampler) -> Setting:
    study = as_optuna_study(search, sampler=sampler)
    trial = study.ask(distributions(search.section))
    return {name: raw(dimension, trial.params[name]) for name, dimension in search.section.space.items()}


def as_optuna_study(
    search: "CellSearch", *, sampler: BaseSampler | None = None, **where: Any
) -> "optuna.Study":
    """Return what a search has tried as an Optuna study.

    Args:
        sampler: CMA-ES keeps its state in the trials, so with it they are drawn once more in their order.
        where: `storage` and `study_name` of `optuna.create_study`; default: in memory.
    """
    study = optuna.create_study(
        direction="maximize" if search.rises else "minimize", sampler=sampler, **where
    )
    pruned = search.pruned()
    for one in search.tried:
        state = TrialState.PRUNED if one.trial_id in pruned else _STATES[one.state]
        if isinstance(sampler, CmaEsSampler):
            _replay(study, search, one, state)
        else:
            study.add_trial(_frozen(search, one, state))
    return study


_STATES = {"open": TrialState.RUNNING, "done": TrialState.COMPLETE, "failed": TrialState.FAIL}


def _frozen(search: "CellSearch", one: "Tried", state: TrialState) -> "optuna.trial.FrozenTrial":
    at_rungs = {rung: value for rung, value in one.at_rungs.items() if value == value}
    if state == TrialState.PRUNED and not at_rungs:
        state = TrialState.FAIL  # it had no number to be compared by
    return create_trial(
        state=state,
        value=one.value if state == TrialState.COMPLETE else None,
        params=_params(search.section, one.setting),
        distributions=distributions(search.section),
        intermediate_values=at_rungs,
        user_attrs={"trial_id": one.trial.trial_id, "number": one.number},
    )


def _replay(study: "optuna.Study", search: "CellSearch", one: "Tried", state: TrialState) -> None:
    study.enqueue_trial(_params(search.section, one.setting))
    trial = study.ask(distributions(search.section))
    if state == TrialState.COMPLETE:
        study.tell(trial, one.value)
    elif state in (TrialState.FAIL, TrialState.PRUNED):
        study.tell(trial, state=TrialState.FAIL)


def distributions(section: SearchSection) -> dict[str, BaseDistribution]:
    """Return the space as Optuna names it."""
    return {name: _distribution(dimension) for name, dimension in section.space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choice is not None:
        return CategoricalDistribution([_choice(value) for value in dimension.choice])
    if dimension.int is not None:
        low, _ = dimension.int
        step = dimension.step or 1
        return IntDistribution(low, low + (len(dimension.values or ()) - 1) * step, step=step)
    low_number, high_number = dimension.uniform or dimension.log_uniform or (0.0, 0.0)
    return FloatDistribution(low_number, high_number, log=dimension.log_uniform is not None)


def raw(dimension: Dimension, drawn: Any) -> Any:
    """Return the value as a study file has it: Optuna knows lists and mappings by their words only."""
    if dimension.choice is None:
        return drawn
    return next(value for value in dimension.choice if _choice(value) == drawn)


def _params(section: SearchSection, setting: Setting) -> dict[str, Any]:
    return {
        name: _choice(setting[name]) if dimension.choice is not None else setting[name]
        for name, dimension in section.space.items()
    }


def _choice(value: Any) -> Any:
    return label(value) if isinstance(value, (dict, list, tuple)) else value
