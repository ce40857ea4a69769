"""What searches found, for those who come after: plain data for the analysis, a file for Optuna's tools."""

import math
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.axes import label
from study.search.cell import CellSearch, Tried
from study.search.sampling import as_optuna_study
from study.search.section import Dimension

OPTUNA_FILE = "searches.db"
# Of fewer the forest that importances are read off says nothing.
FEWEST_FOR_IMPORTANCE = 8
FOREST_SEED = 0


def search_facts(search: CellSearch) -> dict[str, Any]:
    """Return what the search of a cell has found: the content of `analysis.searches.SearchFacts`."""
    best, pruned = search.best, search.pruned()
    return {
        "label": search.label,
        "base": search.cell.base,
        "metric": search.metric,
        "rises": search.rises,
        "fields": {name: _field(dimension) for name, dimension in search.section.space.items()},
        "tried": [_row(search, one, is_pruned=one.trial_id in pruned) for one in search.tried],
        "n_left": search.n_left,
        "best": None if best is None else best.number,
        "importances": importances(search),
        "result_ids": tuple(trial.trial_id for trial in search.results()),
    }


def _field(dimension: Dimension) -> dict[str, Any]:
    if dimension.choice is not None:
        return {"choices": tuple(map(_word, dimension.choice))}
    low, high = dimension.uniform or dimension.log_uniform or dimension.int or (math.nan, math.nan)
    return {
        "low": low,
        "high": high,
        "is_log": dimension.log_uniform is not None,
        "is_whole": dimension.int is not None,
    }


def _row(search: CellSearch, one: Tried, *, is_pruned: bool) -> dict[str, Any]:
    rung = max(one.at_rungs, default=None)
    return {
        "number": one.number,
        "state": "pruned" if is_pruned else str(one.state),
        "value": math.nan if one.value is None else one.value,
        "rung": math.nan if rung is None else rung,
        "rung_value": math.nan if rung is None else one.at_rungs[rung],
        **{
            name: one.setting[name] if dimension.choice is None else _word(one.setting[name])
            for name, dimension in search.section.space.items()
        },
    }


def _word(choice: Any) -> str:
    word = label(choice)
    return "none" if word in ("", None) else f"{word:g}" if isinstance(word, float) else str(word)


def importances(search: CellSearch) -> dict[str, float]:
    """Return the share of each field in the variation of the value over the space, the greatest first.

    Functional ANOVA (Hutter et al. 2014) on the settings that are done. Fields that are searched on a
    logarithmic axis count on it: Optuna's own evaluator would take their raw values, among which a few large
    ones fill most of the range.

    Returns:
        Shares that add up to 1; empty if fewer than FEWEST_FOR_IMPORTANCE settings are done, fewer than two
        fields vary, or all values are alike.
    """
    study = optuna.create_study()
    for trial in as_optuna_study(search).get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        study.add_trial(_on_its_axes(trial))
    n_varied = sum(not distribution.single() for distribution in _distributions(study).values())
    if len(study.trials) < FEWEST_FOR_IMPORTANCE or n_varied < 2:
        return {}
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=FOREST_SEED))
    except RuntimeError:  # no variation at all
        return {}
    return {name: float(share) for name, share in found.items()}


def _distributions(study: optuna.Study) -> Mapping[str, BaseDistribution]:
    return study.trials[0].distributions if study.trials else {}


def _on_its_axes(trial: FrozenTrial) -> FrozenTrial:
    logarithmic = {
        name: FloatDistribution(math.log(distribution.low), math.log(distribution.high))
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, FloatDistribution) and distribution.log
    }
    return create_trial(
        value=trial.value,
        params={**trial.params, **{name: math.log(trial.params[name]) for name in logarithmic}},
        distributions={**trial.distributions, **logarithmic},
    )


def write_optuna_studies(searches: Sequence[CellSearch], file: Path) -> None:
    """Write an SQLite file with an Optuna study per cell, named by its label, in the place of any older one.

    Without searches there is no file.
    """
    if not searches:
        file.unlink(missing_ok=True)
        return
    # In memory first: Optuna waits for the disk after every trial.
    storage = optuna.storages.RDBStorage("sqlite://")
    for search in searches:
        as_optuna_study(search, storage=storage, study_name=search.label)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with closing(sqlite3.connect(new)) as on_disk, closing(storage.engine.raw_connection()) as made:
            made.driver_connection.backup(on_disk)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
        storage.remove_session()
        storage.engine.dispose()
