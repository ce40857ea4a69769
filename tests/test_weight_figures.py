"""Tables and figures of weights."""

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures import weights as figures
from analysis.figures.weights import (
    PX_PER_WEIGHT,
    ShownFilters,
    draw_filter_cosines,
    draw_filters,
    draw_loss_lines,
    draw_weight_change,
)
from analysis.networks.filters import filter_pictures, tiled
from analysis.networks.loss_line import FROM_START
from analysis.networks.weight_change import ALL_PARAMETERS, KERNELS
from analysis.tables.weights import (
    checkpoint_ensemble_table,
    conv1_table,
    loss_line_table,
    weight_change_table,
)

INITS = ("random", "pretrained")
CELL = {"setting": "net · data"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures as they were when they were saved."""
    seen: list[Figure] = []
    original = figures.save
    monkeypatch.setattr(
        figures,
        "save",
        lambda figure, folder, name: (seen.append(figure), original(figure, folder, name))[1],
    )
    yield seen
    assert plt.get_fignums() == []


def changes() -> pd.DataFrame:
    rows = [
        CELL | {"init": init, "seed": seed, "stage": stage, "parameters": parameters, "n_values": 800}
        | {"cosine": 0.9 - 0.1 * k, "relative_l2": (0.1 + 0.1 * seed) * (k + 1)}
        for init in INITS
        for seed in (0, 1, 2)
        for k, stage in enumerate(("conv1", "conv2", "head"))
        for parameters in (KERNELS, ALL_PARAMETERS)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def filters() -> pd.DataFrame:
    rows = [
        CELL | {"init": init, "seed": seed, "filter": i, "cosine": cosine, "relative_l2": 1 - cosine}
        for init in INITS
        for seed in (0, 1)
        for i, cosine in enumerate((0.2, 0.8, math.nan))
    ]
    return pd.DataFrame(rows)


def lines() -> pd.DataFrame:
    alphas = np.array([-0.25, 0, 0.5, 1, 1.25])
    return pd.concat(
        pd.DataFrame({"alpha": alphas, "loss": 2 - alphas + seed}).assign(
            **CELL, kind=FROM_START, init=init, line=seed
        )
        for init in INITS
        for seed in (0, 1)
    )


def ensembles() -> pd.DataFrame:
    rows = [
        CELL | {"init": "random", "seed": seed, "metric": metric, "single": 0.7 + 0.01 * seed}
        | {"ensemble": 0.72 + 0.01 * seed + 0.001 * (seed == 1), "n_members": 10 - seed, "n_images": 100}
        for seed in (0, 1)
        for metric in ("auroc", "auprc")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def shown(n: int = 4, init: str = "random") -> ShownFilters:
    drawn = np.random.default_rng(0).normal(size=(2, n, 3, 5, 5))
    return ShownFilters("net · data", init, filter_pictures(*drawn))


def lines_of(axis) -> dict[str, object]:
    return {line.get_label(): line for line in axis.get_lines()}


def test_weight_change_is_mean_and_sd_over_seeds_per_stage():
    table = weight_change_table(changes())
    assert table.name == "weight_change"
    assert len(table.display) == 2 * 3
    line = table.display.iloc[1]
    assert (line["stage"], line["seeds"], line["cosine"]) == ("conv2", "3", "0.800 ± 0.000")
    assert line["relative L2"] == line["relative L2, all parameters"] == "0.400 ± 0.200"
    row = table.data.iloc[2]
    assert (row["parameters"], row["relative_l2_n"]) == (KERNELS, 3)
    assert row["relative_l2_mean"] == pytest.approx(0.4)


def test_a_change_that_is_not_defined_is_absent_and_nan():
    table = weight_change_table(changes().assign(cosine=math.nan))
    assert set(table.display["cosine"]) == {"–"}
    assert table.data["cosine_mean"].isna().all()
    assert (table.data["cosine_n"] == 0).all()


def test_filters_are_averaged_within_a_network_and_then_over_seeds():
    table = conv1_table(filters())
    assert table.name == "conv1_change"
    line = table.display.iloc[0]
    assert line["mean cosine"] == "0.500 ± 0.000"
    assert (line["seeds"], line["filters"], line["undefined"]) == ("2", "3", "2")
    assert table.data["cosine_n"].tolist() == [2, 2]


def test_barriers_are_averaged_over_lines():
    rows = [
        CELL | {"kind": FROM_START, "init": "random", "barrier": value, "loss_a": 2.0, "loss_b": 1.0}
        for value in (0.1, 0.3, math.nan)
    ]
    table = loss_line_table(pd.DataFrame(rows))
    assert table.name == "loss_lines"
    assert table.display.iloc[0]["barrier"] == "0.2000 ± 0.1414"
    assert table.display.iloc[0]["lines"] == "3"
    assert table.data["barrier_n"].tolist() == [2]


def test_an_ensemble_is_compared_with_its_best_member_by_seed():
    table = checkpoint_ensemble_table(ensembles(), missing={"a": "a: no series"})
    assert table.name == "checkpoint_ensembles"
    line = table.display.iloc[0]
    assert (line["metric"], line["members"]) == ("AUROC", "9–10")
    # Differences .020 and .021: mean .0205, sd .000707, t(0.975, 1) = 12.706.
    assert line["ensemble − best [95 % interval]"] == "+0.0205 [+0.0141, +0.0269]"
    assert table.data.iloc[0]["gain"] == pytest.approx(0.0205)
    assert table.note.endswith("Without an ensemble: a: no series.")


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (weight_change_table, changes()),
        (conv1_table, filters()),
        (loss_line_table, lines().assign(barrier=0.0)),
        (checkpoint_ensemble_table, ensembles()),
    ],
)
def test_without_rows_a_table_is_empty(make, rows):
    table = make(rows.iloc[:0])
    assert table.data.empty
    assert table.display.empty


def test_filters_are_drawn_to_the_pixel_before_beside_after(tmp_path, drawn):
    one = shown()
    figure = draw_filters([one, shown(init="pretrained")], folder=tmp_path)
    axis = drawn[0].axes[0]
    [image] = axis.get_images()
    assert image.get_interpolation() == "nearest"
    found = np.asarray(image.get_array())[::PX_PER_WEIGHT, ::PX_PER_WEIGHT]
    before, after = tiled(one.pictures.before), tiled(one.pictures.after)
    np.testing.assert_array_equal(found[:, : before.shape[1]], before)
    np.testing.assert_array_equal(found[:, -after.shape[1] :], after)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["before", "after"]
    assert len(drawn[0].axes) == 2
    assert figure.svg == tmp_path / "conv1_filters.svg"
    assert (tmp_path / "conv1_filters.png").exists()


def test_of_many_filters_the_first_are_shown_and_the_caption_says_so(tmp_path, drawn):
    figure = draw_filters([shown(100)], folder=tmp_path, most=16)
    assert "first 16 filters" in figure.caption
    height = drawn[0].axes[0].get_images()[0].get_array().shape[0]
    assert height == (4 * 5 + 3) * PX_PER_WEIGHT
    assert "The first" not in draw_filters([shown(16)], folder=tmp_path, most=16).caption


def test_cosines_are_cumulated_over_filters_and_seeds(tmp_path, drawn):
    draw_filter_cosines(filters(), inits=INITS, folder=tmp_path)
    line = lines_of(drawn[0].axes[0])["random"]
    assert line.get_xdata().tolist() == [-1, 0.2, 0.2, 0.8, 0.8, 1]
    assert line.get_ydata().tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


def test_change_is_drawn_over_stages_with_the_range_over_seeds(tmp_path, drawn):
    draw_weight_change(changes(), inits=INITS, folder=tmp_path)
    top, bottom = drawn[0].axes
    assert lines_of(top)["random"].get_ydata() == pytest.approx([0.2, 0.4, 0.6])
    assert lines_of(bottom)["pretrained"].get_ydata() == pytest.approx([0.9, 0.8, 0.7])
    band = top.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.1, 0.9))
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["conv1", "conv2", "head"]
    assert top.get_yscale() == "linear"


def test_changes_of_very_different_size_are_on_a_logarithmic_axis(tmp_path, drawn):
    wide = changes()
    wide.loc[wide["stage"] == "head", "relative_l2"] *= 100
    draw_weight_change(wide, inits=INITS, folder=tmp_path)
    assert drawn[0].axes[0].get_yscale() == "log"
    wide.loc[wide["stage"] == "conv1", "relative_l2"] = 0  # frozen
    draw_weight_change(wide, inits=INITS, folder=tmp_path)
    assert drawn[1].axes[0].get_yscale() == "linear"


def test_every_line_of_loss_is_drawn_and_named_once(tmp_path, drawn):
    figure = draw_loss_lines(lines(), inits=INITS, folder=tmp_path)
    axis = drawn[0].axes[0]
    curves = [line for line in axis.get_lines() if len(line.get_xdata()) == 5]
    assert len(curves) == 4
    assert curves[0].get_ydata() == pytest.approx([2.25, 2, 1.5, 1, 0.75])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(INITS)
    assert [label.get_text() for label in axis.get_xticklabels()][::2] == ["0\ninitialization", "1\nsolution"]
    assert figure.svg.exists()


def test_losses_that_are_not_finite_are_left_out(tmp_path, drawn):
    rows = lines()
    rows.loc[rows["alpha"] == 1.25, "loss"] = math.inf
    draw_loss_lines(rows, inits=INITS, folder=tmp_path)
    assert lines_of(drawn[0].axes[0])["random"].get_xdata().tolist() == [-0.25, 0, 0.5, 1]


def test_equal_results_give_equal_svg(tmp_path):
    files = [draw_filters([shown()], folder=tmp_path / name).svg.read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_without_a_value_nothing_is_drawn(tmp_path: Path):
    nothing = math.nan
    assert draw_filters([], folder=tmp_path) is None
    assert draw_filter_cosines(filters().assign(cosine=nothing), inits=INITS, folder=tmp_path) is None
    empty = changes().assign(cosine=nothing, relative_l2=nothing)
    assert draw_weight_change(empty, inits=INITS, folder=tmp_path) is None
    assert draw_loss_lines(lines().assign(loss=nothing), inits=INITS, folder=tmp_path) is None
    assert list(tmp_path.iterdir()) == []
