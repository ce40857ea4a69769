"""What CheXtransfer (Ke et al. 2021) found."""

from collections.abc import Iterator

import numpy as np

from analysis.numerics.correlation import Correlation, spearman
from analysis.papers.evidence import (
    CONTRADICTED,
    FEWEST_POINTS,
    REAPPEARS,
    SCORE_MARGIN,
    UNRESOLVED,
    Evidence,
    PaperFinding,
    Verdict,
    above,
    both_ends,
    interval_text,
)
from analysis.tables.efficiency import whole_cell
from analysis.tables.families import architecture_points, explained_shares
from analysis.tables.relations import boost_points, source_points

PAPER = "Ke et al. 2021 (CheXtransfer)"


def pretraining_helps(evidence: Evidence) -> Iterator[Verdict]:
    for setting, pretrained, random in both_ends(evidence):
        gain = evidence.gain(pretrained, random, evidence.primary)
        yield Verdict(setting, above(gain, 0), interval_text(gain, f"pretrained − random, {evidence.score}"))


def smaller_networks_gain_more(evidence: Evidence) -> Iterator[Verdict]:
    points = boost_points(evidence.whole, baseline="random", metric=evidence.primary)
    for (dataset, init), group in points.groupby(["dataset", "init"], sort=False):
        if len(group) >= FEWEST_POINTS:
            found = spearman(group["n_params"].to_numpy(), group["boost"].to_numpy())
            yield _correlated(f"{dataset} · {init}", found, "parameters and gain", negative=True)


def source_says_nothing(evidence: Evidence) -> Iterator[Verdict]:
    points = source_points(
        evidence.finished, evidence.source_accuracies, metric=evidence.primary, by="trial_id"
    )
    for (dataset, pretraining, how, source), group in points.dropna().groupby(
        ["dataset", "pretraining", "protocol", "source"], sort=False
    ):
        if len(group) >= FEWEST_POINTS:
            found = spearman(group["source_value"].to_numpy(), group["target_value"].to_numpy())
            verdict = CONTRADICTED if found.p < 0.05 else UNRESOLVED
            text = f"Spearman {found.estimate:.2f}, p {found.p:.3f}, {found.n} networks"
            where = " · ".join(str(part) for part in (dataset, pretraining, how, source) if part)
            yield Verdict(where, verdict, text)


def family_beats_size(evidence: Evidence) -> Iterator[Verdict]:
    families = dict(zip(evidence.finished["architecture"], evidence.finished["family"], strict=True))
    points = architecture_points(
        evidence.finished, metric=evidence.primary, family=lambda name: families.get(name, name)
    )
    for dataset, group in points.groupby("dataset", sort=False):
        shares = explained_shares(group)
        if shares["n"] >= FEWEST_POINTS and not np.isnan([shares["family"], shares["size"]]).any():
            text = f"adjusted R² of family {shares['family']:.2f}, of size {shares['size']:.2f}, no interval"
            yield Verdict(str(dataset), UNRESOLVED, f"{text}; {shares['n']} networks")


def truncation_is_efficient(evidence: Evidence) -> Iterator[Verdict]:
    whole = evidence.whole
    truncated = whole[(whole["init_kind"] == "pretrained") & whole["is_truncated"].astype(bool)]
    for (setting, _), cell in truncated.groupby(["setting", "init"], sort=False):
        full = whole_cell(whole, cell)
        gain = evidence.gain(cell, full, evidence.primary)
        ratio = full["n_params"].mean() / cell["n_params"].mean()
        text = interval_text(
            gain, f"{evidence.score} − that of {cell['whole'].iloc[0]}, {ratio:.2f}× the parameters"
        )
        yield Verdict(str(setting), above(gain, -SCORE_MARGIN), text)


def _correlated(where: str, found: Correlation, name: str, *, negative: bool) -> Verdict:
    text = f"Spearman of {name} {found.estimate:.2f}, p {found.p:.3f}, {found.n} networks"
    if found.p >= 0.05 or np.isnan(found.p):
        return Verdict(where, UNRESOLVED, text)
    return Verdict(where, REAPPEARS if (found.estimate < 0) == negative else CONTRADICTED, text)


FINDINGS = (
    PaperFinding(PAPER, "Pretraining improves the score of most networks.",
                 "random and pretrained networks", pretraining_helps),
    PaperFinding(PAPER, "Smaller networks gain more from pretraining.",
                 f"{FEWEST_POINTS} architectures, random and pretrained", smaller_networks_gain_more),
    PaperFinding(PAPER, "Performance on the source and on the target are not related.",
                 f"{FEWEST_POINTS} architectures whose source accuracy is known", source_says_nothing),
    PaperFinding(PAPER, "Without pretraining, family matters more than size.",
                 f"{FEWEST_POINTS} networks of several families", family_beats_size),
    PaperFinding(PAPER, "Truncated pretrained networks keep the score with fewer parameters.",
                 "truncated and whole networks", truncation_is_efficient),
)  # fmt: skip
