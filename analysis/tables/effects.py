"""What each factor of a study does to a metric, and how much of its variance it explains."""

from collections.abc import Sequence

import pandas as pd

from analysis.numerics.effects import WITHIN, Effects, effects
from analysis.tables.table import ABSENT, METRIC_NAMES, Table, number, signed

FACTORS = ("architecture", "init", "dataset", "protocol")
_NAMES = {"init": "initialization", "protocol": "what learns"}


def study_effects(finished: pd.DataFrame, *, metric: str, factors: Sequence[str] = FACTORS) -> Effects:
    """Measure the effects of the columns of finished trials on a metric.

    An initialization is taken without what learns, which is a factor of its own. Trees and linear probes,
    which differ from networks in all factors at once, are left out.
    """
    trained = finished[finished["protocol"].str.startswith("trains")]
    return effects(_with_plain_init(trained), factors=factors, value=metric)


def effects_table(finished: pd.DataFrame, *, metric: str, factors: Sequence[str] = FACTORS) -> Table:
    """List the effect of every level against the grand mean, by factor.

    Args:
        finished: rows of finished trials.
        factors: columns; those with one level are left out, and named in the note.
    """
    found = study_effects(finished, metric=metric, factors=factors)
    name = METRIC_NAMES.get(metric, metric)
    shares = found.terms.set_index("term")["share"]
    data = found.levels.assign(metric=metric, share=found.levels["factor"].map(shares))
    lines, before = [], None
    for row in data.to_dict("records"):
        first = row["factor"] != before
        before = row["factor"]
        lines.append(
            (
                factor_name(row["factor"]),
                str(row["level"]),
                f"{row['n']} ({row['n_cells']})",
                _effect_text(row["effect"], row["low"], row["high"]),
                _percent(row["share"]) if first else "",
            )
        )
    columns = ["factor", "level", "trials (cells)", f"effect on {name} [95 % interval]", "share of variance"]
    note = (
        f"{name}, test split, {_extent(found, finished, factors)} Effect of a level against the grand mean "
        f"of {number(found.grand_mean)}, all levels of a factor weighing the same: least squares with main "
        "effects only, so that missing cells do not favour a level. Intervals are Student's t of the spread "
        "between seeds, uncorrected: they say what other seeds would change, not other architectures or "
        "datasets. The share of variance is the factor's (type II sum of squares, all other factors and "
        "their interactions accounted for)."
    )
    if data["effect"].isna().any():
        note += f" {ABSENT}: with the cells there are, levels of different factors cannot be told apart."
    display = pd.DataFrame(lines, columns=columns)
    return Table("effects", "Effects of the factors", note, data, display)


def interaction_table(finished: pd.DataFrame, *, metric: str, factors: Sequence[str] = FACTORS) -> Table:
    """Divide the variance of a metric among factors, their two-way interactions, and the seeds."""
    found = study_effects(finished, metric=metric, factors=factors)
    name = METRIC_NAMES.get(metric, metric)
    data = found.terms.assign(metric=metric)
    columns = ["source of variance", "degrees of freedom", "sum of squares", "share of variance"]
    lines = [
        (
            " × ".join(map(factor_name, str(row["term"]).split(" × ")))
            if row["kind"] != "rest"
            else _rest(row["term"]),
            str(row["df"]),
            ABSENT if pd.isna(row["sum_of_squares"]) else f"{row['sum_of_squares']:.3g}",
            _percent(row["share"]),
        )
        for row in data.to_dict("records")
    ]
    total = data["share"].sum()
    unbalanced = (
        f" The shares add up to {_percent(total)}, as cells or seeds are missing: what two terms explain "
        "alike counts for neither, or for both."
        if data["share"].notna().any() and abs(total - 1) > 0.005
        else ""
    )
    note = (
        f"{name}, test split, {_extent(found, finished, factors)} Type II sums of squares: what a term adds "
        "to all terms that do not contain it, as a share of the sum of squares about the mean. An "
        f"interaction between two factors means that the effect of one depends on the other. {ABSENT}: the "
        f"cells there are cannot tell the term from the others.{unbalanced}"
    )
    display = pd.DataFrame(lines, columns=columns)
    return Table("interactions", "Shares of variance", note, data, display)


def factor_name(factor: str) -> str:
    """Return what people call a column."""
    return _NAMES.get(factor, factor.replace("_", " "))


def _extent(found: Effects, finished: pd.DataFrame, factors: Sequence[str]) -> str:
    """Say what the effects are of: how many trials and cells, and what is missing or left out."""
    missing = found.n_possible - found.n_cells
    text = f"{found.n} trials in {found.n_cells} cells"
    text += f"; {missing} of {found.n_possible} combinations have no trial." if missing else "."
    unmeasured = len(finished) - found.n
    text += f" Without the metric: {unmeasured} trials." if unmeasured else ""
    if found.one_level:
        text += f" With one level only, and so left out: {', '.join(map(factor_name, found.one_level))}."
    if found.n and _settings_share_a_cell(finished, factors):
        text += " Trials of one cell differ in more than their seed: settings vary in what is no factor here."
    return text


def _with_plain_init(finished: pd.DataFrame) -> pd.DataFrame:
    labels = zip(finished["init"], finished["protocol"], strict=True)
    return finished.assign(init=[str(init).replace(f" · {protocol}", "") for init, protocol in labels])


def _settings_share_a_cell(finished: pd.DataFrame, factors: Sequence[str]) -> bool:
    cells = _with_plain_init(finished).drop_duplicates(["setting", "init", "protocol"])
    return bool(cells.duplicated(list(factors)).any()) if factors else len(cells) > 1


def _effect_text(effect: float, low: float, high: float) -> str:
    if pd.isna(effect):
        return ABSENT
    return signed(effect) if pd.isna(low) else f"{signed(effect)} [{signed(low)}, {signed(high)}]"


def _percent(share: float) -> str:
    return ABSENT if pd.isna(share) else f"{100 * share:.1f} %"


def _rest(term: str) -> str:
    return "between seeds" if term == WITHIN else "higher interactions"
