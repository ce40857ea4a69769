"""What was searched in each cell, and what came out of it."""

import math
from typing import Any

import pandas as pd

from analysis.searches import DONE, FAILED, OPEN, PRUNED, Searches, SearchFacts
from analysis.tables.table import ABSENT, Table, metric_name, number

SEARCH_COLUMNS = (
    "setting", "init", "metric", "n_tried", "n_done", "n_pruned", "n_failed", "n_open", "n_left",
    "best_number", "best_value", "best_setting",
)  # fmt: skip


def searches_table(searches: Searches, *, optuna_file: str = "") -> Table:
    """List the search of every cell: how many settings it tried, how they ended, and the best.

    Args:
        searches: of one study, so all of the same fields.
        optuna_file: see `analysis.results.StudyFacts`.
    """
    fields = list(next(iter(searches.values())).fields) if searches else []
    data = [_row(setting, init, facts) for (setting, init), facts in searches.items()]
    metrics = " or ".join(dict.fromkeys(metric_name(facts.metric) for facts in searches.values()))
    lines = [_line(setting, init, facts) for (setting, init), facts in searches.items()]
    columns = [
        "setting", "initialization", "tried", "finished", "stopped early", "failed", "open",
        f"best {metrics}", "best setting", "most important field",
    ]  # fmt: skip
    display = pd.DataFrame(lines, columns=columns)
    if not any(facts.count(OPEN) for facts in searches.values()):
        display = display.drop(columns="open")
    frame = pd.DataFrame(data, columns=[*SEARCH_COLUMNS, *fields, *map(_importance, fields)])
    return Table("searches", "Searches", _note(metrics, optuna_file), frame, display)


def _note(metrics: str, optuna_file: str) -> str:
    opened = (
        f" {optuna_file} beside the report holds an Optuna study per cell. To open it, in its folder: "
        f"optuna-dashboard sqlite:///{optuna_file}"
        if optuna_file
        else ""
    )
    return (
        f"Settings are compared by {metrics}; their test scores were never computed. The best of each cell "
        "is trained anew with the seeds of the study, and only those trainings are in the other tables: the "
        "best value here is the best of many, and so optimistic. The most important field has the largest "
        "share (functional ANOVA) in the variation of the value over the space; it is told from eight "
        f"finished settings and two fields on.{opened}"
    )


def _row(setting: str, init: str, facts: SearchFacts) -> dict[str, Any]:
    best = facts.best_row or {}
    return {
        "setting": setting,
        "init": init,
        "metric": facts.metric,
        "n_tried": len(facts.tried),
        "n_done": facts.count(DONE),
        "n_pruned": facts.count(PRUNED),
        "n_failed": facts.count(FAILED),
        "n_open": facts.count(OPEN),
        "n_left": facts.n_left,
        "best_number": best.get("number", math.nan),
        "best_value": best.get("value", math.nan),
        "best_setting": facts.best_in_words,
        **{name: best.get(name, math.nan) for name in facts.fields},
        **{_importance(name): facts.importances.get(name, math.nan) for name in facts.fields},
    }


def _importance(name: str) -> str:
    return f"importance/{name}"


def _line(setting: str, init: str, facts: SearchFacts) -> tuple[str, ...]:
    row, leading = facts.best_row, facts.most_important
    return (
        setting,
        init,
        str(len(facts.tried)),
        *(str(facts.count(state)) for state in (DONE, PRUNED, FAILED, OPEN)),
        number(math.nan if row is None else row["value"]),
        facts.best_in_words or ABSENT,
        ABSENT if leading is None else f"{facts.names[leading]} ({facts.importances[leading]:.2f})",
    )
