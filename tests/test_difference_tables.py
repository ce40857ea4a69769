"""The tables of differences to a baseline, of the effects of factors, and their figures."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis.figures.relations import draw_differences, draw_effects
from analysis.tables.differences import (
    NO_BASELINE,
    NO_PAIR,
    NO_SPREAD,
    NOT_RESOLVED,
    ONE_PAIR,
    RESOLVED,
    differences_table,
)
from analysis.tables.effects import effects_table, interaction_table
from analysis.tables.formats import latex, markdown

STEADY = {0: 0.001, 1: -0.001, 2: 0.0, 3: 0.0005}


def trial(init: str, seed: int, value: float, *, architecture: str = "net", dataset: str = "data", **more):
    facts = {
        "trial_id": f"{architecture}-{dataset}-{init}-{seed}", "setting": f"{architecture} · {dataset}",
        "architecture": architecture, "dataset": dataset, "init": init, "init_kind": init.split(" ")[0],
        "protocol": "trains all", "source": "" if init == "random" else "photos", "seed": seed,
        "test_auroc": value,
    }  # fmt: skip
    return facts | more


def cells(values: dict[str, dict[int, float]], **more) -> list[dict]:
    return [trial(init, seed, value, **more) for init, of in values.items() for seed, value in of.items()]


def lifted(by: float, base: float = 0.8) -> dict[str, dict[int, float]]:
    """A baseline that varies much by seed, and a cell that lies above it by nearly the same everywhere."""
    random = {seed: base + 0.05 * seed for seed in STEADY}
    return {"random": random, "pretrained": {seed: random[seed] + by + e for seed, e in STEADY.items()}}


def compared(rows: list[dict], **options):
    return differences_table(pd.DataFrame(rows), **({"baseline": "random", "metric": "test_auroc"} | options))


def test_a_steady_difference_is_resolved_and_a_small_one_is_not():
    rows = cells(lifted(0.03), architecture="a") + cells(lifted(0.0005), architecture="b")
    table = compared(rows)
    assert table.data["verdict"].tolist() == [RESOLVED, NOT_RESOLVED]
    assert table.display["verdict"].tolist() == [f"better: {RESOLVED}", NOT_RESOLVED]
    assert table.data["n_pairs"].tolist() == [4, 4]
    assert "(m = 2)" in table.note
    assert "(4 pairs)" in table.note


def test_every_cell_but_the_baseline_is_a_row():
    table = compared(cells(lifted(0.03) | {"mean_var": {0: 0.7, 1: 0.9}}))
    assert table.data["init"].tolist() == ["pretrained", "mean_var"]
    assert set(table.data["baseline"]) == {"random"}


def test_correction_grows_with_the_number_of_comparisons():
    alone = compared(cells(lifted(0.0015)))
    among = compared([row for k in range(10) for row in cells(lifted(0.0015), architecture=f"net{k}")])
    p = alone.data["p"].iloc[0]
    assert p == pytest.approx(among.data["p"].iloc[0])
    assert alone.data["p_holm"].iloc[0] == pytest.approx(p)
    assert among.data["p_holm"].tolist() == pytest.approx([10 * p] * 10)
    assert p < 0.05 < 10 * p
    assert alone.data["verdict"].tolist() == [RESOLVED]
    assert set(among.data["verdict"]) == {NOT_RESOLVED}


def test_for_a_loss_the_smaller_is_the_better():
    rows = [row | {"test_loss": row.pop("test_auroc")} for row in cells(lifted(-0.03))]
    table = compared(rows, metric="test_loss")
    assert table.data["direction"].tolist() == ["better"]
    assert "(smaller is better)" in table.note
    assert compared(cells(lifted(-0.03))).data["direction"].tolist() == ["worse"]


@pytest.mark.parametrize(
    ("values", "verdict", "shown"),
    [
        ({"random": {0: 0.5}, "pretrained": {0: 0.6}}, ONE_PAIR, "+0.1000 [one pair]"),
        ({"random": {1: 0.5}, "pretrained": {0: 0.6}}, NO_PAIR, "–"),
        ({"pretrained": {0: 0.6, 1: 0.7}}, NO_BASELINE, "–"),
        ({"random": {0: 0.5, 1: 0.6}, "pretrained": {0: 0.6, 1: 0.7}}, NO_SPREAD,
         "+0.1000 [+0.1000, +0.1000]"),
        ({"random": {0: 0.5, 1: 0.6}, "pretrained": {0: 0.7, 1: math.nan}}, ONE_PAIR, "+0.2000 [one pair]"),
    ],
    ids=["one pair", "unpaired", "no baseline", "no spread", "NaN"],
)  # fmt: skip
def test_what_is_not_tested_says_why_and_does_not_count(values, verdict, shown):
    table = compared([*cells(values, architecture="odd"), *cells(lifted(0.03))])
    row, line = table.data.iloc[0], table.display.iloc[0]
    assert row["verdict"] == verdict
    assert math.isnan(row["p_holm"])
    assert math.isnan(row["seeds_for_observed"])
    assert line["AUROC − random [95 % interval]"] == shown
    assert (line["p"], line["seeds to resolve it"]) == ("–", "–")
    assert table.data["n_comparisons"].tolist() == [1, 1]
    assert f"Not tested: odd · data · pretrained ({verdict})." in table.note


def test_smaller_differences_need_more_seeds():
    table = compared(cells(lifted(0.002)), to_resolve=0.0005)
    row = table.data.iloc[0]
    assert 2 <= row["seeds_for_observed"] < row["seeds_to_resolve"]
    assert table.display["seeds to resolve 0.0005"].tolist() == [f"{int(row['seeds_to_resolve'])}"]
    assert compared(cells(lifted(0.002)), to_resolve=1e-9).display["seeds to resolve 1e-09"].tolist() == [
        "> 1,000"
    ]


def test_nothing_to_compare_is_an_empty_table():
    for rows in (cells({"random": {0: 0.5}}), [trial("random", 0, 0.5)][:0]):
        frame = pd.DataFrame(rows, columns=list(trial("random", 0, 0.5)))
        table = differences_table(frame, baseline="random", metric="test_auroc")
        assert table.data.empty
        assert list(table.display)[:3] == ["setting", "initialization", "pairs"]


def grid(*, drop: tuple = (), seeds: int = 2) -> pd.DataFrame:
    """Architecture adds 0.1, the dataset 0.02, pretraining 0.05 on one dataset only; seeds ±0.001."""
    rows = []
    for net, data, init, seed in itertools.product("ab", "xyz", ("random", "pretrained"), range(seeds)):
        gain = 0.05 if (init, data) == ("pretrained", "x") else 0.0
        value = 0.7 + 0.1 * (net == "b") + 0.02 * (data == "y") + gain + (0.001 if seed else -0.001)
        if (net, data, init) not in drop:
            rows.append(trial(init, seed, value, architecture=net, dataset=data))
    return pd.DataFrame(rows)


def test_effects_are_listed_by_factor_with_their_share():
    table = effects_table(grid(), metric="test_auroc")
    levels = table.data.set_index("level")["effect"]
    assert levels["b"] == pytest.approx(0.05)
    assert levels["pretrained"] == pytest.approx(0.05 / 3 / 2)
    line = table.display.iloc[0]
    assert line["factor"] == "architecture"
    assert line["trials (cells)"] == "12 (6)"
    assert line["effect on AUROC [95 % interval]"].startswith("−0.0500 [−0.05")
    shares = table.display["share of variance"].tolist()
    assert shares[1] == ""
    assert shares[0] == f"{100 * table.data['share'].iloc[0]:.1f} %"
    assert "24 trials in 12 cells." in table.note
    assert "With one level only, and so left out: what learns." in table.note


def test_shares_of_variance_name_interactions_and_seeds():
    table = interaction_table(grid(), metric="test_auroc")
    display = table.display.set_index("source of variance")
    assert list(display.index) == [
        "architecture", "initialization", "dataset", "architecture × initialization",
        "architecture × dataset", "initialization × dataset", "higher interactions", "between seeds",
    ]  # fmt: skip
    data = table.data.set_index("term")
    assert data.loc["init × dataset", "share"] > 0.02
    assert data.loc["architecture × init", "sum_of_squares"] == pytest.approx(0, abs=1e-12)
    # Every cell has ±0.001 about its mean.
    assert data.loc["within cells", "sum_of_squares"] == pytest.approx(24 * 1e-6)
    assert data["share"].sum() == pytest.approx(1)
    assert "add up" not in table.note


def test_missing_cells_are_counted_and_do_not_favour_a_level():
    drop = [("b", "x", "random"), ("b", "x", "pretrained")]
    table = effects_table(grid(drop=tuple(drop)), metric="test_auroc")
    assert "20 trials in 10 cells; 2 of 12 combinations have no trial." in table.note
    levels = table.data.set_index("level")["effect"]
    assert levels["b"] - levels["a"] == pytest.approx(0.1)
    assert "The shares add up to" in interaction_table(grid(drop=tuple(drop)), metric="test_auroc").note


def test_factors_that_go_together_are_not_told_apart():
    rows = grid()
    twins = rows.assign(dataset=rows["architecture"] + " data")
    lost = effects_table(twins, metric="test_auroc")
    assert set(lost.display.iloc[:, 3]) == {"–"}
    assert "levels of different factors cannot be told apart" in lost.note


def test_what_learns_is_a_factor_apart_from_the_initialization():
    rows = []
    for init, learns, seed in itertools.product(
        ("random", "pretrained"), ("trains all", "trains head"), (0, 1)
    ):
        is_all = learns == "trains all"
        name = init if is_all else f"{init} · {learns}"
        rows.append(trial(name, seed, 0.7 + 0.1 * is_all, protocol=learns))
    table = effects_table(pd.DataFrame(rows), metric="test_auroc")
    assert table.data["factor"].tolist() == ["init", "init", "protocol", "protocol"]
    assert table.data["effect"].tolist() == pytest.approx([0, 0, 0.05, -0.05])


def test_factors_that_were_not_named_are_warned_of():
    rows = grid()
    assert "differ in more than their seed" not in effects_table(rows, metric="test_auroc").note
    table = effects_table(rows, metric="test_auroc", factors=["architecture", "dataset"])
    assert "Trials of one cell differ in more than their seed" in table.note


def test_one_seed_has_effects_without_intervals_and_a_missing_metric_is_counted():
    rows = grid(seeds=1)
    rows.loc[0, "test_auroc"] = math.nan
    table = effects_table(rows, metric="test_auroc")
    assert table.data["low"].isna().all()
    assert "[" not in table.display.iloc[0, 3]
    assert "Without the metric: 1 trials." in table.note
    assert interaction_table(rows, metric="test_auroc").display["share of variance"].iloc[-1] == "–"


def test_every_table_can_be_written():
    empty = grid().iloc[:0]
    for table in (
        compared(cells(lifted(0.03))),
        *(
            make(rows, metric="test_auroc")
            for make in (effects_table, interaction_table)
            for rows in (grid(), empty)
        ),
    ):
        assert latex(table).isascii(), table.name
        assert len(markdown(table)) > 50


def test_differences_are_drawn_in_order_filled_where_resolved(tmp_path, monkeypatch):
    # One setting with four initializations beside random, and one whose only cell has one seed.
    random = lifted(0.0)["random"]
    by = {"i0": 0.0002, "i1": 0.03, "i2": -0.04}
    inits = {"random": random} | {init: lifted(amount)["pretrained"] for init, amount in by.items()}
    rows = cells(inits, architecture="net")
    data = compared([*rows, *cells({"random": {0: 0.5}, "pretrained": {0: 0.6}}, architecture="single")]).data
    seen = {}

    def keep(figure, folder, name):
        for axis in figure.axes:
            marks = [line for line in axis.lines if line.get_marker() not in ("None", "", None)]
            seen[axis.get_title(loc="left") or axis.get_title()] = (
                [tick.get_text() for tick in axis.get_yticklabels()],
                [line.get_markerfacecolor() != "white" for line in marks],
            )
        return folder / name

    with monkeypatch.context() as patch:
        patch.setattr("analysis.figures.relations.save", keep)
        assert draw_differences(data, inits=["random", "pretrained"], folder=tmp_path) is not None
    assert seen == {
        "net · data": (["i2", "i0", "i1"], [True, False, True]),
        "single · data": (["pretrained"], [False]),
    }
    assert plt.get_fignums() == []


@pytest.mark.parametrize("n_panels", [1, 3, 7])
def test_long_names_have_room(n_panels, tmp_path):
    data = compared(cells(lifted(0.03))).data
    row = data.iloc[[0]].assign(difference=0.01, low=0.0, high=0.02)
    name = "pretrained (source=ham10000 from torchvision/VGG16_Weights.IMAGENET1K_V1) {}"
    rows = [
        row.assign(init=name.format(k), setting=f"resnet18 · bloodmnist {panel}")
        for panel in range(n_panels)
        for k in range(2)
    ]
    # A layout that does not fit is a warning, and so an error here.
    assert draw_differences(pd.concat(rows), inits=[], folder=tmp_path) is not None


def test_figures_are_saved_and_absent_where_there_is_nothing_to_show(tmp_path):
    data = compared(cells(lifted(0.03))).data
    drawn = draw_differences(data, inits=["random", "pretrained"], folder=tmp_path)
    levels = effects_table(grid(), metric="test_auroc").data
    bars = draw_effects(levels, folder=tmp_path)
    assert drawn is not None
    assert bars is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "differences.png", "differences.svg", "effects.png", "effects.svg",
    ]  # fmt: skip
    assert "(m = 1 " in drawn.caption
    assert draw_differences(data[:0], inits=["random"], folder=tmp_path) is None
    assert draw_effects(levels.assign(effect=np.nan), folder=tmp_path) is None
