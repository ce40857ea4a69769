"""A study with a search, and trials that answer at once: for the tests of searches."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from study.config import parse_study
from study.dispatch import Dispatcher, Supply
from study.plan import Plan, PlanEntry, make_plan
from study.search.cell import CellSearch, Tried, Trying
from study.search.section import Setting
from study.sections import Study

SPACE = """
    training.optimizer.lr: {log_uniform: [0.001, 1.0]}
    training.optimizer.momentum: {uniform: [0.0, 0.9]}
"""


def search_study(search: str = "settings: 8", *, space: str = SPACE, more: str = "") -> Study:
    """Return a study of two cells; `search` and `more` are lines of YAML."""
    return parse_study(
        f"""
name: searched
seeds: 2
trial:
  architecture: cbr_tiny
  dataset: {{from: digits_5_9, size_px: 16}}
  training: {{steps: 40, batch_size: 10, optimizer: {{lr: 0.02}}, evaluation: {{points: 4}}}}
source:
  dataset: {{from: digits_0_4, size_px: 16}}
  training: {{steps: 5}}
grid:
  init: [random, pretrained]
search:
  {search}
  space:{space}
{more}
"""
    )


def score_of(setting: Setting) -> float:
    """Return a smooth score with one best setting, at a rate of 0.03."""
    return 1 - abs(math.log10(setting["training.optimizer.lr"] / 0.03)) / 4


def searches_of(study: Study) -> dict[str, CellSearch]:
    """Return the searches that nothing is known of, by the initialization of the cell."""
    plan: Plan = make_plan(study, [])
    return {str(search.cell.axes["init"]): search for search in plan.searches}


def bare_config(entries: Sequence[PlanEntry]) -> dict[str, Any]:
    """Return what a worker is told, as far as a dispatcher's tests want to know it."""
    return {"trials": [{"trial_id": entry.trial_id} for entry in entries]}


def only_trial(config: Mapping[str, Any]) -> str:
    """Return the one trial of such a config."""
    (trial,) = config["trials"]
    return str(trial["trial_id"])


def report_of(trial_id: str, status: str = "finished", **report: object) -> dict[str, Any]:
    """Return what Tune hears of one trial."""
    return {"reports": [{"trial_id": trial_id, "status": status, **report}]}


def end(dispatcher: Dispatcher, tune_id: str, status: str = "finished", **report: object) -> None:
    """Do what Tune does when the one trial of a worker ends."""
    (trial_id,) = dispatcher.trials_of(tune_id)
    dispatcher.on_trial_complete(tune_id, report_of(trial_id, status, **report))


def dispatcher_of(plan: Plan, *supplies: Supply, **options: Any) -> Dispatcher:
    """Return a dispatcher whose configs hold the trial's id alone."""
    return Dispatcher(
        plan,
        bare_config,
        resume_step=lambda _: 0,
        lost_workers=0,
        supplies=supplies,
        **options,
    )


def finish(one: Tried, value: float) -> None:
    """Let a setting come to its end."""
    one.state, one.value = Trying.DONE, value


def draw_all(
    search: CellSearch, score: Callable[[Mapping[str, Any]], float] = score_of, *, at_most: int = 1000
) -> list[Setting]:
    """Draw settings one after the other, each finished before the next; return them."""
    drawn = []
    while len(drawn) < at_most and (one := search.draw()) is not None:
        finish(one, score(one.setting))
        drawn.append(one.setting)
    return drawn
