"""What the freeze study (Patel 2019) found."""

from collections.abc import Iterator

from analysis.load import FULL_TRAINING
from analysis.papers.evidence import (
    SCORE_MARGIN,
    Evidence,
    PaperFinding,
    Verdict,
    above,
    interval_text,
)

PAPER = "Patel 2019 (freeze study)"


def whole_training_is_best(evidence: Evidence) -> Iterator[Verdict]:
    rows = evidence.finished[evidence.finished["init_kind"] == "pretrained"]
    for (setting, _), of_source in rows.groupby(["setting", "source"], sort=False):
        whole = of_source[of_source["protocol"] == FULL_TRAINING]
        for init, cell in of_source[of_source["protocol"] != FULL_TRAINING].groupby("init", sort=False):
            if whole["init"].nunique() == 1:
                gain = evidence.gain(whole, cell, evidence.primary)
                text = interval_text(gain, f"all stages trained − {init}, {evidence.score}")
                yield Verdict(str(setting), above(gain, -SCORE_MARGIN), text)


def trees_fall_behind(evidence: Evidence) -> Iterator[Verdict]:
    finished, whole = evidence.finished, evidence.whole
    trees = finished[finished["architecture"] == "decision_tree"]
    networks = whole[whole["init_kind"] == "random"]
    for _, cell in trees.groupby("setting", sort=False):
        for setting, network in networks[networks["dataset"] == cell["dataset"].iloc[0]].groupby("setting"):
            gain = evidence.gain(network, cell, evidence.primary)
            text = interval_text(gain, f"random weights − decision_tree, {evidence.score}")
            yield Verdict(str(setting), above(gain, 0), text)


FINDINGS = (
    PaperFinding(PAPER, "Training all stages does at least as well as training some.",
                 "pretrained networks of which all or some stages learn", whole_training_is_best),
    PaperFinding(PAPER, "A single tree on pixels falls behind networks.",
                 "a decision tree, and a network from random weights", trees_fall_behind),
)  # fmt: skip
