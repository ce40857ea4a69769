"""Which cells differ from their baseline, over all comparisons of a study, and the seeds it would take."""

import math
from typing import Any

import pandas as pd

from analysis.convergence import larger_is_better
from analysis.numerics.multiplicity import holm
from analysis.numerics.statistics import Summary, paired_test, seeds_needed
from analysis.tables.cells import baseline_rows, by_cell, by_seed, paired_by_seed
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, with_interval

RESOLVED, NOT_RESOLVED = "differs (Holm-corrected p below 0.05)", "not resolved"
NO_BASELINE, NO_PAIR, ONE_PAIR = "no baseline in this setting", "no pair of seeds", "one pair: no interval"
NO_SPREAD = "no spread between seeds: not tested"
ERROR_RATE, POWER = 0.05, 0.8

DIFFERENCE_COLUMNS = (
    "setting", "init", "metric", "baseline", "n_pairs", "difference", "sd", "low", "high", "p", "p_holm",
    "n_comparisons", "direction", "verdict", "seeds_for_observed", "to_resolve", "seeds_to_resolve",
)  # fmt: skip


def differences_table(
    finished: pd.DataFrame, *, baseline: str, metric: str, to_resolve: float = 0.01
) -> Table:
    """Compare every cell with the baseline of its setting, paired by seed.

    Args:
        finished: rows of finished trials.
        baseline: label or kind of an initialization.
        metric: of the test split; larger or smaller may be better.
        to_resolve: a difference worth finding, for the number of seeds that takes.
    """
    data = differences(finished, baseline=baseline, metric=metric, to_resolve=to_resolve)
    name = METRIC_NAMES.get(metric, metric)
    found, wanted = "seeds to resolve it", f"seeds to resolve {to_resolve:g}"
    columns = [
        "setting", "initialization", "pairs", f"{name} − {baseline} [95 % interval]", "p", "p (Holm)",
        "verdict", found, wanted,
    ]  # fmt: skip
    lines = [
        (
            row["setting"], row["init"], str(row["n_pairs"]), with_interval(_summary(row)), p_text(row["p"]),
            p_text(row["p_holm"]), _verdict_text(row), _seeds_text(row["seeds_for_observed"]),
            _seeds_text(row["seeds_to_resolve"]),
        )
        for row in data.to_dict("records")
    ]  # fmt: skip
    display = pd.DataFrame(lines, columns=columns)
    note = _note(data, name, baseline, rising=larger_is_better(metric))
    return Table("differences", "Differences to the baseline", note, data, display)


def differences(
    finished: pd.DataFrame, *, baseline: str, metric: str, to_resolve: float = 0.01
) -> pd.DataFrame:
    """Return DIFFERENCE_COLUMNS, one row per cell that is no baseline, in the order of `finished`."""
    rows = []
    for (setting, init), cell in by_cell(finished):
        base = baseline_rows(finished[finished["setting"] == setting], baseline)
        if init in set(base["init"]):
            continue
        difference = paired_by_seed(cell, base, metric)
        p = paired_test(by_seed(cell, metric), by_seed(base, metric)).p
        sd = difference.sd if not math.isnan(p) else math.nan
        rows.append(
            {
                "setting": setting,
                "init": init,
                "metric": metric,
                "baseline": "" if base.empty else base["init"].iloc[0],
                "n_pairs": difference.n,
                "difference": difference.mean,
                "sd": difference.sd,
                "low": difference.low,
                "high": difference.high,
                "p": p,
                "direction": _direction(difference.mean, rising=larger_is_better(metric)),
                "seeds_for_observed": _seeds(sd, difference.mean),
                "to_resolve": to_resolve,
                "seeds_to_resolve": _seeds(sd, to_resolve),
            }
        )
    data = pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS))
    data["p_holm"] = holm(data["p"].to_numpy(dtype=float))
    data["n_comparisons"] = int(data["p"].notna().sum())
    data["verdict"] = [_verdict(row) for row in data.to_dict("records")]
    return data


def p_text(p: float) -> str:
    """`0.031`, `< 0.001`, or ABSENT for NaN."""
    if math.isnan(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(sd: float, effect: float) -> float:
    return seeds_needed(sd, effect, confidence=1 - ERROR_RATE, power=POWER)


def _verdict(row: dict[Any, Any]) -> str:
    if not row["baseline"]:
        return NO_BASELINE
    if row["n_pairs"] < 2:
        return ONE_PAIR if row["n_pairs"] else NO_PAIR
    if math.isnan(row["p"]):
        return NO_SPREAD
    return RESOLVED if row["p_holm"] < ERROR_RATE else NOT_RESOLVED


def _verdict_text(row: dict[Any, Any]) -> str:
    return f"{row['direction']}: {RESOLVED}" if row["verdict"] == RESOLVED else row["verdict"]


def _direction(difference: float, *, rising: bool) -> str:
    if math.isnan(difference):
        return ""
    if difference == 0:
        return "equal"
    return "better" if (difference > 0) == rising else "worse"


def _summary(row: dict[Any, Any]) -> Summary:
    return Summary(row["n_pairs"], row["difference"], row["sd"], row["low"], row["high"])


def _seeds_text(seeds: float) -> str:
    if math.isnan(seeds):
        return ABSENT
    return f"{int(seeds):,}" if seeds <= 1000 else "> 1,000"


def _note(data: pd.DataFrame, name: str, baseline: str, *, rising: bool) -> str:
    m = int(data["p"].notna().sum())
    pairs = sorted({int(n) for n in data["n_pairs"]})
    spread = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}" if pairs else "0"
    absent = [
        f"{row['setting']} · {row['init']} ({row['verdict']})"
        for row in data.to_dict("records")
        if row["verdict"] in (NO_BASELINE, NO_PAIR, ONE_PAIR, NO_SPREAD)
    ]
    lacking = f" Not tested: {'; '.join(absent)}." if absent else ""
    direction = "larger" if rising else "smaller"
    return (
        f"{name}, test split ({direction} is better): each cell minus {baseline} of its setting, paired by "
        f"seed ({spread} pairs), with Student's t interval (95 %), which is not corrected; p is of the "
        "two-sided paired t test, and p (Holm) corrects it for the number of comparisons of this table (m = "
        f"{m}). “{NOT_RESOLVED}” is no proof of equality: the last columns say how many seeds a single such "
        f"test would need to find the difference seen, or a given one, {100 * POWER:.0f} % of the time. They "
        "rest on an sd of few pairs (of three, known to a factor of about 6): an order of "
        f"magnitude.{lacking}"
    )
