"""What the papers found, and whether it reappears in a study, with the interval that says so.

A verdict is about this study's data and networks only. `reappears` and `does not reappear` need an interval
(95 %, Student's t over paired seeds unless said otherwise) that lies wholly on one side of a margin that is
stated; everything else is `not resolved`. None is corrected for the number of findings looked at.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis.convergence import larger_is_better
from analysis.load import FULL_TRAINING
from analysis.networks.comparisons import TOP_TWO
from analysis.numerics.statistics import Summary, paired_difference
from analysis.tables.cells import by_seed
from analysis.tables.table import METRIC_NAMES, signed

REAPPEARS, CONTRADICTED, UNRESOLVED = "reappears", "does not reappear", "not resolved"
UNTESTED = "not tested here"

SCORE_MARGIN = 0.01
"""A difference of test scores that nobody would care about."""
AREA_MARGIN = 0.02
"""The same of areas under the learning curve."""
SIMILARITY_MARGIN = 0.05
SMALL_PARAMETERS = 5e6
"""Networks with fewer parameters count as small: CBR-Small and CBR-Tiny of Transfusion do."""
AREA = "curve_area"
FEWEST_POINTS = 5


class Verdict(NamedTuple):
    """What a study says of a finding.

    Attributes:
        where: the setting, or what else the evidence is of.
        evidence: the numbers.
    """

    where: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Evidence:
    """What findings are looked for in.

    Attributes:
        trained: finished trials with their area under the learning curve, `curve_area`.
        similarity: one row per comparison, pair of stages and measure.
        source_accuracies: by trial id.
        metric: over training, that `curve_area` is of.
    """

    finished: pd.DataFrame
    trained: pd.DataFrame
    similarity: pd.DataFrame
    source_accuracies: dict[str, float]
    primary: str
    metric: str

    @property
    def score(self) -> str:
        """The name of the primary metric."""
        return f"test {METRIC_NAMES[self.primary]}"

    @property
    def whole(self) -> pd.DataFrame:
        """The finished networks all of whose stages learned."""
        return self.finished[self.finished["protocol"] == FULL_TRAINING]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every initialization, by its label."""
        return dict(zip(self.finished["init"], self.finished["init_kind"], strict=True))

    @property
    def settings(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """The networks trained as a whole, by setting."""
        rows = self.trained[self.trained["protocol"] == FULL_TRAINING]
        return ((str(setting), of_setting) for setting, of_setting in rows.groupby("setting", sort=False))

    def gain(self, rows: pd.DataFrame, base: pd.DataFrame, metric: str) -> Summary:
        """Return rows minus base, paired by seed, counted so that larger is better."""
        sign = 1 if larger_is_better(self.metric if metric == AREA else metric) else -1
        values, reference = ({s: sign * v for s, v in by_seed(x, metric).items()} for x in (rows, base))
        return paired_difference(values, reference)


@dataclass(frozen=True)
class PaperFinding:
    """One finding of a paper.

    Attributes:
        needs: what a study must hold to test it, for people.
        look: gives the verdicts; none if the study cannot test it.
    """

    paper: str
    text: str
    needs: str
    look: Callable[[Evidence], Iterator[Verdict]]


def both_ends(evidence: Evidence) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yield each setting's pretrained cells and its random one."""
    for setting, rows in evidence.settings:
        random = rows[rows["init_kind"] == "random"]
        for init, pretrained in rows[rows["init_kind"] == "pretrained"].groupby("init", sort=False):
            if not random.empty:
                name = setting if rows["init"].str.startswith("pretrained").sum() == len(pretrained) else ""
                yield name or f"{setting} · {init}", pretrained, random


def backbone_rows(similarity: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the SVCCA of backbone stages, with `beyond`: the share of what the noise floor leaves.

    Stages and networks of unequal widths have unequal floors, so that plain values of them do not compare.
    """
    rows = similarity[
        (similarity["kind"] == kind)
        & (similarity["measure"] == "svcca")
        & ~similarity["stage"].isin([TOP_TWO, "head"])
        & similarity["value"].notna()
    ]
    floor = rows["noise_floor"].astype(float)
    return rows.assign(beyond=(rows["value"].astype(float) - floor) / (1 - floor))


def above(summary: Summary, bound: float) -> str:
    if summary.n < 2:
        return UNRESOLVED
    return REAPPEARS if summary.low > bound else CONTRADICTED if summary.high < bound else UNRESOLVED


def within(summary: Summary, margin: float) -> str:
    if summary.n < 2:
        return UNRESOLVED
    if -margin < summary.low and summary.high < margin:
        return REAPPEARS
    return CONTRADICTED if summary.low > margin or summary.high < -margin else UNRESOLVED


def against_all(values: Mapping[int, float], rivals: Mapping[str, Mapping[int, float]]) -> tuple[str, str]:
    """Judge whether values are greater than those of every rival, paired by seed.

    They are if every difference's 95 % interval is above 0 (an intersection–union test), and are not if one
    is below 0 at a level divided by the number of rivals (Bonferroni).

    Returns:
        The verdict, and the rival that is closest with the plain interval.
    """
    plain = {name: paired_difference(values, of_rival) for name, of_rival in rivals.items()}
    confidence = 1 - 0.05 / len(rivals)
    strict = [paired_difference(values, of_rival, confidence=confidence) for of_rival in rivals.values()]
    closest = min(plain, key=lambda name: plain[name].mean)
    verdict = UNRESOLVED
    if all(above(difference, 0) == REAPPEARS for difference in plain.values()):
        verdict = REAPPEARS
    elif any(above(difference, 0) == CONTRADICTED for difference in strict):
        verdict = CONTRADICTED
    return verdict, interval_text(plain[closest], f"− {closest}")


def interval_text(summary: Summary, what: str) -> str:
    if summary.n < 2:
        return f"{what}: {'no' if summary.n == 0 else 'one'} pair of seeds"
    return f"{what}: {signed(summary.mean)} [{signed(summary.low)}, {signed(summary.high)}], n {summary.n}"
