"""What the numbers say, in sentences that claim no more than they hold."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from analysis.networks.comparisons import BEFORE_AFTER, PRETRAINED_RANDOM, RANDOM_RANDOM, TOP_TWO
from analysis.numerics.statistics import Summary, paired_difference, summarize
from analysis.tables.cells import baseline_rows, by_seed
from analysis.tables.table import MEASURE_NAMES, METRIC_NAMES, mean_and_sd, signed


@dataclass(frozen=True)
class Finding:
    """One statement about one setting.

    Attributes:
        topic: performance, speed, similarity or change.
    """

    setting: str
    topic: str
    text: str


def find(
    finished: pd.DataFrame,
    convergence: pd.DataFrame,
    similarity: pd.DataFrame,
    *,
    primary: str,
    baseline: str,
) -> list[Finding]:
    """Return the findings of every setting, performance first.

    Args:
        convergence: the data of the convergence table.
    """
    findings = []
    for setting, rows in finished.groupby("setting", sort=False):
        name = str(setting)
        of_setting = similarity[similarity["setting"] == name]
        texts = {
            "performance": performance_finding(rows, primary=primary, baseline=baseline),
            "speed": speed_finding(_of_setting(convergence, name), rows, baseline=baseline),
            "similarity": similarity_finding(of_setting),
            "change": change_finding(of_setting),
        }
        findings += [Finding(name, topic, text) for topic, text in texts.items() if text]
    return findings


def performance_finding(rows: pd.DataFrame, *, primary: str, baseline: str) -> str:
    """Name the initialization with the best mean and what is known of its lead over the baseline."""
    metric = METRIC_NAMES[primary]
    summaries = {str(init): summarize(cell[primary]) for init, cell in rows.groupby("init", sort=False)}
    summaries = {init: summary for init, summary in summaries.items() if summary.n}
    if not summaries:
        return f"No trial has a test {metric}."
    if len(summaries) == 1:
        [(init, only)] = summaries.items()
        what = "Fitted on the pixels" if init == "fitted" else f"Only {init} was trained"
        return f"{what}: test {metric} {_with_seeds(only)}."
    sign = -1 if primary == "test_loss" else 1
    ranked = sorted(summaries, key=lambda init: -sign * summaries[init].mean)
    best = ranked[0]
    text = f"Best mean test {metric}: {best}, {_with_seeds(summaries[best])}."
    base = baseline_rows(rows, baseline)
    if base.empty:
        return text + f" There is no {baseline} to compare with."
    base_name = str(base["init"].iloc[0])
    other = ranked[1] if best == base_name else best
    difference = paired_difference(
        by_seed(rows[rows["init"] == other], primary), by_seed(base[base["init"] == base_name], primary)
    )
    lead = f" The runner-up, {other}," if best == base_name else " It"
    return text + lead + " " + _difference_text(difference, base_name)


def speed_finding(cells: pd.DataFrame, rows: pd.DataFrame, *, baseline: str) -> str:
    """Name the initialization that reaches the threshold first, and the baseline's time."""
    if cells.empty:
        return ""
    metric, threshold = cells["metric"].iloc[0], cells["threshold"].iloc[0]
    goal = f"{metric} {'≤' if metric.endswith('loss') else '≥'} {threshold:.4f}"
    arrived = cells[cells["median_steps"].notna()]
    if arrived.empty:
        return f"In no cell did half of the seeds reach {goal}."
    fastest = arrived[arrived["median_steps"] == arrived["median_steps"].min()]
    text = f"{goal} is reached first by {_listed(fastest['init'])}, {_time_text(fastest.iloc[0])}"
    base = baseline_rows(rows, baseline)
    base_cells = cells[cells["init"].isin(set(base["init"]))]
    if base_cells.empty or set(base_cells["init"]) & set(fastest["init"]):
        return text + "."
    return text + f"; {base_cells['init'].iloc[0]} {_time_text(base_cells.iloc[0], is_other=True)}."


def similarity_finding(rows: pd.DataFrame, measure: str = "svcca") -> str:
    """Compare pretrained–random with random–random pairs over the top two stages."""
    chosen = rows[(rows["measure"] == measure) & (rows["stage"] == TOP_TWO) & rows["value"].notna()]
    mixed = chosen[chosen["kind"] == PRETRAINED_RANDOM]["value"]
    same = chosen[chosen["kind"] == RANDOM_RANDOM]["value"]
    if mixed.empty or same.empty:
        return ""
    if len(mixed) + len(same) < 3:
        verdict = "one pair of each is too few to tell them apart"
    elif mixed.max() < same.min():
        verdict = "lower than every random pair's: a hint that pretrained networks end elsewhere"
    elif mixed.min() > same.max():
        verdict = "higher than every random pair's: no hint that pretrained networks end elsewhere"
    else:
        verdict = "within what pairs of random networks show: no difference is visible"
    return (
        f"Over the top two stages, {MEASURE_NAMES[measure]} of a pretrained with a random network is "
        f"{mixed.mean():.2f}, of two random networks {same.mean():.2f} ({len(mixed)} and {len(same)} pairs, "
        f"noise floor {chosen['noise_floor'].mean():.2f}); {verdict}."
    )


def change_finding(rows: pd.DataFrame, measure: str = "svcca") -> str:
    """Say which stage training changed least and most, per initialization at the two ends."""
    chosen = rows[
        (rows["kind"] == BEFORE_AFTER)
        & (rows["measure"] == measure)
        & ~rows["stage"].isin([TOP_TWO, "head"])
        & rows["value"].notna()
    ]
    name = MEASURE_NAMES[measure]
    sentences = []
    for init in [init for init in ("random", "pretrained") if init in set(chosen["init_x"])]:
        means = chosen[chosen["init_x"] == init].groupby("stage", sort=False)["value"].mean()
        least, most = str(means.idxmax()), str(means.idxmin())
        sentences.append(
            f"From {init} weights, training changes {most} the most ({name} with the start "
            f"{means[most]:.2f}) and {least} the least ({means[least]:.2f})."
        )
    return " ".join(sentences)


def _with_seeds(summary: Summary) -> str:
    return f"{mean_and_sd(summary)} ({summary.n} seed{'s' if summary.n != 1 else ''})"


def _difference_text(difference: Summary, baseline: str) -> str:
    if difference.n == 0:
        return f"shares no seed with {baseline}, so no paired difference can be given."
    amount = f"differs from {baseline} by {signed(difference.mean)}"
    if difference.n == 1:
        return f"{amount} in one seed; one seed tells nothing about the spread."
    interval = (
        f"95 % interval {signed(difference.low)} to {signed(difference.high)}, {difference.n} paired seeds"
    )
    if difference.low <= 0 <= difference.high:
        return f"{amount} ({interval}): the interval includes zero."
    return (
        f"{amount} ({interval}): the interval, which is not corrected for other comparisons, excludes zero."
    )


def _time_text(cell: pd.Series, *, is_other: bool = False) -> str:
    reached = f"{cell['n_reached']} of {cell['n_trials']} seeds"
    if pd.isna(cell["median_steps"]):
        return f"does not in half of its seeds ({reached})"
    verb = "takes " if is_other else "after "
    return f"{verb}{int(cell['median_steps']):,} steps (median; {reached})"


def _listed(names: Iterable[object]) -> str:
    *others, last = map(str, names)
    return f"{', '.join(others)} and {last}" if others else last


def _of_setting(data: pd.DataFrame, setting: str) -> pd.DataFrame:
    return data[data["setting"] == setting] if "setting" in data else data
