"""Verdicts on the findings of papers: on studies made so that the answer is known."""

import numpy as np
import pandas as pd
import pytest

from analysis.jobs.similarity import SIMILARITY_COLUMNS
from analysis.networks.comparisons import BEFORE_AFTER, PRETRAINED_RANDOM, RANDOM_RANDOM, TOP_TWO
from analysis.numerics.statistics import Summary
from analysis.papers.evidence import CONTRADICTED, REAPPEARS, UNRESOLVED, UNTESTED, Evidence, above, within
from analysis.papers.table import FINDINGS, papers_table

SEEDS = (0, 1, 2)
NOISE = {0: -0.001, 1: 0.0, 2: 0.001}


def cell(
    init: str, score: float, area: float, *, architecture: str = "resnet18", **facts: object
) -> list[dict]:
    kind = init.split(" ")[0]
    depths = {"random": 0.0, "pretrained": 5.0}
    if kind == "transfusion":
        depths[kind] = float(init.split(" ")[1][0])
    row = {
        "setting": f"{architecture} · data", "architecture": architecture, "dataset": "data", "init": init,
        "family": "cbr" if architecture.startswith("cbr") else "resnet", "whole": "", "init_kind": kind,
        "is_truncated": False,
        "protocol": "trains all", "depth": depths.get(kind, np.nan), "rest": "random", "source": "photos",
        "n_params": 1e6 if architecture.startswith("cbr") else 11e6,
    } | facts  # fmt: skip
    # Each cell has its own small deviations, so that differences have a spread.
    drawn = np.random.default_rng(len(init) + len(architecture)).normal(0, 0.0004, len(SEEDS))
    return [
        row
        | {
            "trial_id": f"{architecture}/{init}/{seed}",
            "seed": seed,
            "test_auroc": score + NOISE[seed] + drawn[seed],
            "curve_area": area + NOISE[seed] + drawn[seed],
        }
        for seed in SEEDS
    ]


def alike(
    kind: str, stage: str, value: float, *, init: str = "random", setting: str = "resnet18 · data"
) -> list:
    drawn = np.random.default_rng(len(stage) + len(kind)).normal(0, 0.003, len(SEEDS))
    empty = dict.fromkeys(SIMILARITY_COLUMNS, "")
    return [
        empty
        | {
            "kind": kind,
            "setting": setting,
            "dataset": "data",
            "stage": stage,
            "stage_y": stage,
            "init_x": init,
            "init_y": "random",
            "seed_x": seed,
            "seed_y": seed,
            "measure": "svcca",
            "value": value + drawn[seed],
            "noise_floor": 0.1,
        }
        for seed in SEEDS
    ]


def look(rows: list[dict], similarity: list[dict] = (), **sources: float) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    evidence = Evidence(
        finished=frame,
        trained=frame,
        similarity=pd.DataFrame(list(similarity), columns=list(SIMILARITY_COLUMNS)),
        source_accuracies=dict(sources),
        primary="test_auroc",
        metric="val_auroc",
    )
    return papers_table(evidence).data


def verdict(table: pd.DataFrame, words: str, *, where: str = "") -> str:
    rows = table[table["finding"].str.contains(words, regex=False) & table["where"].str.contains(where)]
    assert len(rows) == 1, rows
    return str(rows["here"].iloc[0])


ENDS = [*cell("random", 0.90, 0.80), *cell("pretrained", 0.901, 0.90)]


def test_a_small_gain_that_comes_sooner():
    table = look(ENDS)
    assert verdict(table, "changes the final score little") == REAPPEARS
    assert verdict(table, "converge sooner") == REAPPEARS


def test_a_great_gain_contradicts_and_a_loss_of_speed_too():
    table = look([*cell("random", 0.90, 0.80), *cell("pretrained", 0.95, 0.75)])
    assert verdict(table, "changes the final score little") == CONTRADICTED
    assert verdict(table, "improves the score of most networks") == REAPPEARS
    assert verdict(table, "converge sooner") == CONTRADICTED


def test_one_seed_resolves_nothing():
    rows = [row for row in ENDS if row["seed"] == 0]
    assert verdict(look(rows), "converge sooner") == UNRESOLVED


def test_the_stage_with_the_greatest_gain_is_found():
    depths = {"random": 0.70, "transfusion 1/5": 0.80, "transfusion 2/5": 0.82, "pretrained": 0.83}
    rows = [row for init, area in depths.items() for row in cell(init, 0.9, area)]
    assert verdict(look(rows), "reusing the first gives the greatest") == REAPPEARS
    depths = {"random": 0.70, "transfusion 1/5": 0.71, "transfusion 2/5": 0.82, "pretrained": 0.83}
    rows = [row for init, area in depths.items() for row in cell(init, 0.9, area)]
    table = look(rows)
    assert verdict(table, "reusing the first gives the greatest") == CONTRADICTED
    assert "up to transfusion 2/5" in table["evidence"].str.cat()


def test_scale_gabors_and_slim_networks():
    slim = {"whole": "resnet18", "architecture": "resnet18 slim 1/2 from block3"}
    rows = [
        *ENDS,
        *cell("mean_var", 0.9, 0.85),
        *cell("gabor", 0.9, 0.86),
        *cell("transfusion 1/5", 0.9, 0.85),
        *cell("transfusion 3/5", 0.9, 0.895, **slim, setting="slim · data"),
    ]
    table = look(rows)
    assert verdict(table, "(Mean Var) speeds convergence") == REAPPEARS
    assert verdict(table, "Gabor filters do as well") == REAPPEARS
    assert verdict(table, "Slim-ResNet") == REAPPEARS


def test_small_and_large_networks():
    small = cell("random", 0.895, 0.8, architecture="cbr_tiny")
    assert verdict(look([*ENDS, *small]), "Small networks do about as well") == REAPPEARS
    worse = cell("random", 0.85, 0.8, architecture="cbr_tiny")
    assert verdict(look([*ENDS, *worse]), "Small networks do about as well") == CONTRADICTED


def test_what_changes_and_where_networks_end():
    similarity = [
        *alike(BEFORE_AFTER, "conv1", 0.9), *alike(BEFORE_AFTER, "block1", 0.6),
        *alike(BEFORE_AFTER, "block4", 0.5), *alike(PRETRAINED_RANDOM, TOP_TWO, 0.5, init="pretrained"),
        *alike(RANDOM_RANDOM, TOP_TWO, 0.7),
    ]  # fmt: skip
    table = look(ENDS, similarity)
    assert verdict(table, "lowest stage changes least") == REAPPEARS
    assert verdict(table, "end elsewhere") == REAPPEARS
    assert verdict(table, "little difference between them") == UNTESTED
    turned = [*alike(BEFORE_AFTER, "conv1", 0.5), *alike(BEFORE_AFTER, "block1", 0.8)]
    assert verdict(look(ENDS, turned), "lowest stage changes least") == CONTRADICTED


def test_the_freeze_study():
    frozen = {"protocol": "trains head", "depth": np.nan}
    rows = [*ENDS, *cell("pretrained · trains head", 0.85, 0.7, **frozen)]
    for row in rows[-3:]:
        row["init_kind"] = "pretrained"
    trees = cell("fitted", 0.8, np.nan, architecture="decision_tree", protocol="fitted")
    table = look([*rows, *trees])
    assert verdict(table, "Training all stages") == REAPPEARS
    assert verdict(table, "A single tree on pixels falls behind") == REAPPEARS


def test_sizes_and_sources_need_enough_networks():
    names = {"cbr_tiny": 0.04, "cbr_small": 0.03, "resnet18": 0.02, "resnet34": 0.01, "resnet50": 0.0}
    rows, sources = [], {}
    for number, (name, gain) in enumerate(names.items()):
        size = {"n_params": 1e6 * (number + 1)}
        rows += cell("random", 0.9, 0.8, architecture=name, **size)
        rows += cell("pretrained", 0.9 + gain, 0.8, architecture=name, **size)
        sources |= {f"{name}/pretrained/{seed}": 0.5 + 0.1 * number for seed in SEEDS}
    table = look(rows, **sources)
    assert verdict(table, "Smaller networks gain more") == REAPPEARS
    assert verdict(table, "not related", where="with pretraining") == CONTRADICTED
    few = [row for row in rows if row["architecture"] in ("cbr_tiny", "resnet18")]
    assert verdict(look(few), "Smaller networks gain more") == UNTESTED


def test_a_study_without_finished_trials_tests_nothing():
    table = papers_table(
        Evidence(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {}, "test_auroc", "val_auroc")
    ).data
    assert len(table) == len(FINDINGS)
    assert set(table["here"]) == {UNTESTED}
    assert table["evidence"].str.startswith("needs ").all()


@pytest.mark.parametrize(
    ("low", "high", "one_sided", "two_sided"),
    [
        (0.001, 0.009, REAPPEARS, REAPPEARS),
        (-0.005, 0.005, UNRESOLVED, REAPPEARS),
        (0.02, 0.03, REAPPEARS, CONTRADICTED),
        (-0.03, -0.02, CONTRADICTED, CONTRADICTED),
        (-0.02, 0.02, UNRESOLVED, UNRESOLVED),
        (np.nan, np.nan, UNRESOLVED, UNRESOLVED),
    ],
)
def test_verdicts_need_the_whole_interval_on_one_side(low, high, one_sided, two_sided):
    summary = Summary(3, (low + high) / 2, 0.01, low, high)
    assert above(summary, 0) == one_sided
    assert within(summary, 0.01) == two_sided
