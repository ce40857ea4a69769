"""What Transfusion (Raghu et al. 2019) found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.convergence import larger_is_better
from analysis.load import FULL_TRAINING
from analysis.networks.comparisons import BEFORE_AFTER, PRETRAINED_RANDOM, RANDOM_RANDOM, TOP_TWO
from analysis.numerics.statistics import Summary, paired_difference
from analysis.papers.evidence import (
    AREA,
    AREA_MARGIN,
    SCORE_MARGIN,
    SIMILARITY_MARGIN,
    SMALL_PARAMETERS,
    Evidence,
    PaperFinding,
    Verdict,
    above,
    against_all,
    backbone_rows,
    both_ends,
    interval_text,
    within,
)
from analysis.tables.cells import by_seed

PAIRS = "pretrained–random − random–random, SVCCA, top two stages (Welch, pairs taken as independent)"
PAPER = "Raghu et al. 2019 (Transfusion)"


def no_final_gain(evidence: Evidence) -> Iterator[Verdict]:
    for setting, pretrained, random in both_ends(evidence):
        gain = evidence.gain(pretrained, random, evidence.primary)
        yield Verdict(
            setting, within(gain, SCORE_MARGIN), interval_text(gain, f"pretrained − random, {evidence.score}")
        )


def small_networks_do_as_well(evidence: Evidence) -> Iterator[Verdict]:
    whole = evidence.whole
    for dataset, rows in whole[whole["init_kind"] == "random"].groupby("dataset", sort=False):
        cells = [cell for _, cell in rows[rows["whole"] == ""].groupby("setting", sort=False)]
        for small, large in permutations(cells, 2):
            if small["n_params"].mean() < SMALL_PARAMETERS <= large["n_params"].mean():
                gain = evidence.gain(small, large, evidence.primary)
                names = [cell["architecture"].iloc[0] for cell in (small, large)]
                text = interval_text(gain, f"{names[0]} − {names[1]}, random weights")
                yield Verdict(str(dataset), above(gain, -SCORE_MARGIN), text)


def pretraining_is_faster(evidence: Evidence) -> Iterator[Verdict]:
    for setting, pretrained, random in both_ends(evidence):
        gain = evidence.gain(pretrained, random, AREA)
        yield Verdict(
            setting, above(gain, 0), interval_text(gain, "pretrained − random, area under the curve")
        )


def scale_alone_is_faster(evidence: Evidence) -> Iterator[Verdict]:
    yield from _kind_against(evidence, "mean_var", "random", lambda gain: above(gain, 0))


def gabors_do_as_conv1(evidence: Evidence) -> Iterator[Verdict]:
    for setting, rows in evidence.settings:
        conv1 = rows[(rows["init_kind"] == "transfusion") & (rows["depth"] == 1) & (rows["rest"] == "random")]
        for name, of_init in conv1.groupby("init", sort=False):
            gabors = rows[(rows["init_kind"] == "gabor")]
            for gabor_name, gabor in gabors.groupby("init", sort=False):
                gain = evidence.gain(gabor, of_init, AREA)
                text = interval_text(gain, f"{gabor_name} − {name}, area under the curve")
                yield Verdict(setting, above(gain, -AREA_MARGIN), text)


def first_stage_gains_most(evidence: Evidence) -> Iterator[Verdict]:
    for setting, rows in evidence.settings:
        transfused = rows[(rows["init_kind"] == "transfusion") & (rows["rest"] == "random")]
        for source in transfused["source"].unique():
            of_source = rows[(rows["init_kind"] == "random") | (rows["source"] == source)]
            gains = _gains_by_depth(evidence, of_source[of_source["rest"] == "random"])
            if len(gains) > 1 and "first stage" in gains:
                verdict, text = against_all(gains.pop("first stage"), gains)
                what = f"gain of the first stage {text}, area under the curve"
                yield Verdict(setting, verdict, what)


def _gains_by_depth(evidence: Evidence, rows: pd.DataFrame) -> dict[str, dict[int, float]]:
    """Return what each further stage adds to the area, by seed; depths with several cells are left out."""
    cells = {
        depth: rows[rows["depth"] == depth] for depth in sorted(rows["depth"].dropna().unique().tolist())
    }
    cells = {depth: cell for depth, cell in cells.items() if cell["init"].nunique() == 1}
    sign = 1 if larger_is_better(evidence.metric) else -1
    gains = {}
    for (before, lower), (depth, upper) in pairwise(cells.items()):
        areas = [by_seed(cell, AREA) for cell in (lower, upper)]
        name = "first stage" if (before, depth) == (0, 1) else f"gain up to {upper['init'].iloc[0]}"
        shared = set(areas[0]) & set(areas[1])
        gains[name] = {seed: sign * (areas[1][seed] - areas[0][seed]) for seed in shared}
    return gains


def slim_keeps_the_gain(evidence: Evidence) -> Iterator[Verdict]:
    rows = evidence.trained[evidence.trained["protocol"] == FULL_TRAINING]
    slim = rows[(rows["whole"] != "") & (rows["init_kind"] == "transfusion")]
    for (setting, init), cell in slim.groupby(["setting", "init"], sort=False):
        full = rows[
            (rows["architecture"] == cell["whole"].iloc[0])
            & (rows["dataset"] == cell["dataset"].iloc[0])
            & (rows["init_kind"] == "pretrained")
            & (rows["source"] == cell["source"].iloc[0])
        ]
        if full["setting"].nunique() == 1 and full["init"].nunique() == 1:
            gain = evidence.gain(cell, full, AREA)
            text = interval_text(gain, f"{init} − the whole network pretrained, area under the curve")
            yield Verdict(str(setting), above(gain, -AREA_MARGIN), text)


def lowest_stage_changes_least(evidence: Evidence) -> Iterator[Verdict]:
    rows, kinds = backbone_rows(evidence.similarity, BEFORE_AFTER), evidence.kinds
    for (setting, init), of_cell in rows.groupby(["setting", "init_x"], sort=False):
        stages = {
            str(stage): {int(seed): float(v) for seed, v in zip(of["seed_x"], of["beyond"], strict=True)}
            for stage, of in of_cell.groupby("stage", sort=False)
        }
        if len(stages) > 1 and kinds.get(str(init)) in ("random", "pretrained"):
            lowest = next(iter(stages))
            verdict, text = against_all(stages.pop(lowest), stages)
            yield Verdict(str(setting), verdict, f"{init}: SVCCA with the start, {lowest} {text}")


def large_networks_move_less(evidence: Evidence) -> Iterator[Verdict]:
    rows, kinds = backbone_rows(evidence.similarity, BEFORE_AFTER), evidence.kinds
    sizes = evidence.finished.groupby("setting")["n_params"].mean()
    random = rows[rows["init_x"].map(kinds) == "random"]
    for dataset, of_dataset in random.groupby("dataset"):
        moved: dict[str, dict[int, list[float]]] = {}
        for trial in of_dataset.to_dict("records"):
            moved.setdefault(trial["setting"], {}).setdefault(trial["seed_x"], []).append(trial["beyond"])
        by_size = sorted((s for s in moved if not np.isnan(sizes[s])), key=lambda s: float(sizes[s]))
        if len(by_size) > 1:
            small, large = by_size[0], by_size[-1]
            lead = paired_difference(_means(moved[large]), _means(moved[small]))
            text = interval_text(lead, f"mean SVCCA with the start from random weights, {large} − {small}")
            yield Verdict(str(dataset), above(lead, 0), text)


def _means(values: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {seed: float(np.mean(of_seed)) for seed, of_seed in values.items()}


def pretrained_ends_elsewhere(evidence: Evidence) -> Iterator[Verdict]:
    for setting, difference, is_small in _pairs_of_networks(evidence):
        if not is_small:
            text = interval_text(difference, PAIRS)
            yield Verdict(setting, above(_negative(difference), 0), text)


def small_networks_end_alike(evidence: Evidence) -> Iterator[Verdict]:
    for setting, difference, is_small in _pairs_of_networks(evidence):
        if is_small:
            text = interval_text(difference, PAIRS)
            yield Verdict(setting, within(difference, SIMILARITY_MARGIN), text)


def _kind_against(
    evidence: Evidence, kind: str, other: str, judge: Callable[[Summary], str]
) -> Iterator[Verdict]:
    for setting, rows in evidence.settings:
        base = rows[rows["init_kind"] == other]
        for init, cell in rows[rows["init_kind"] == kind].groupby("init", sort=False):
            if not base.empty:
                gain = evidence.gain(cell, base, AREA)
                yield Verdict(
                    setting, judge(gain), interval_text(gain, f"{init} − {other}, area under the curve")
                )


def _pairs_of_networks(evidence: Evidence) -> Iterator[tuple[str, Summary, bool]]:
    """Yield setting, pretrained–random minus random–random similarity, and whether the network is small."""
    rows = evidence.similarity
    rows = rows[(rows["measure"] == "svcca") & (rows["stage"] == TOP_TWO) & rows["value"].notna()]
    sizes = evidence.finished.groupby("setting")["n_params"].mean()
    for setting, of_setting in rows.groupby("setting", sort=False):
        same = of_setting[of_setting["kind"] == RANDOM_RANDOM]["value"].to_numpy(float)
        mixed = of_setting[of_setting["kind"] == PRETRAINED_RANDOM]
        for init, values in mixed.groupby("init_x", sort=False)["value"]:
            if len(values) > 1 and len(same) > 1 and setting in sizes:
                name = str(setting) if mixed["init_x"].nunique() == 1 else f"{setting} · {init}"
                yield name, _welch(values.to_numpy(float), same), sizes[setting] < SMALL_PARAMETERS


def _welch(x: np.ndarray, y: np.ndarray) -> Summary:
    """Return mean x − mean y with Welch's interval; pairs share networks, which it does not account for."""
    difference = float(x.mean() - y.mean())
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval()
    sd = float(np.sqrt(x.var(ddof=1) + y.var(ddof=1)))
    return Summary(min(len(x), len(y)), difference, sd, float(interval.low), float(interval.high))


def _negative(summary: Summary) -> Summary:
    return Summary(summary.n, -summary.mean, summary.sd, -summary.high, -summary.low)


FINDINGS = (
    PaperFinding(PAPER, "Pretraining changes the final score little.",
                 "random and pretrained networks", no_final_gain),
    PaperFinding(PAPER, "Small networks do about as well as large ones.",
                 "random networks below and above 5 million parameters", small_networks_do_as_well),
    PaperFinding(PAPER, "Pretrained networks converge sooner.",
                 "random and pretrained networks", pretraining_is_faster),
    PaperFinding(PAPER, "The scale of pretrained weights alone (Mean Var) speeds convergence.",
                 "mean_var and random", scale_alone_is_faster),
    PaperFinding(PAPER, "Of all stages, reusing the first gives the greatest marginal speed-up.",
                 "transfusions of every depth", first_stage_gains_most),
    PaperFinding(PAPER, "Slim-ResNet, half as wide after the transfused stages, is as fast as the whole.",
                 "a slim transfused network and the whole one pretrained", slim_keeps_the_gain),
    PaperFinding(PAPER, "Synthetic Gabor filters do as well as a pretrained first stage.",
                 "gabor and a transfusion of one stage", gabors_do_as_conv1),
    PaperFinding(PAPER, "The lowest stage changes least in training.",
                 "checkpoints before and after, and the images", lowest_stage_changes_least),
    PaperFinding(PAPER, "Large networks move less than small ones, even from random weights.",
                 "networks of two sizes from random weights", large_networks_move_less),
    PaperFinding(PAPER, "Large networks end elsewhere from pretrained than from random weights.",
                 "three seeds of both, 5 million parameters or more", pretrained_ends_elsewhere),
    PaperFinding(PAPER, "For small networks there is little difference between them.",
                 "three seeds of both from a smaller network", small_networks_end_alike),
)  # fmt: skip
