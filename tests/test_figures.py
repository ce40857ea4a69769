"""Figures: what is drawn where, read back from matplotlib and from the SVG; looks are for people to judge."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.convergence import Threshold, measure_convergence
from analysis.figures import similarity as similarity_figures
from analysis.figures import training as figures
from analysis.figures.similarity import draw_before_after, draw_pairs
from analysis.figures.style import line_styles, panels, set_panel_title, step_text
from analysis.figures.training import draw_depth, draw_learning_curves
from analysis.jobs.similarity import SIMILARITY_COLUMNS
from analysis.load import StudyTrials, load_histories, load_trials
from analysis.networks.comparisons import (
    BEFORE_AFTER,
    PRETRAINED_RANDOM,
    RANDOM_RANDOM,
    TOP_TWO,
)
from tests.fake_records import FakeReader, record_of, small_study, spec_of

STAGES = {"cbr_tiny": ("conv1", "conv2", "conv3", "conv4")}
THRESHOLDS = {"digits 5–9": Threshold(0.93, "given")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they were when they were saved."""
    seen: list[Figure] = []
    for module in (figures, similarity_figures):
        original = module.save
        monkeypatch.setattr(
            module,
            "save",
            lambda figure, folder, name, original=original: (
                seen.append(figure),
                original(figure, folder, name),
            )[1],
        )
    return seen


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    yield
    assert plt.get_fignums() == []


def study(**options) -> tuple[StudyTrials, pd.DataFrame, pd.DataFrame]:
    reader = FakeReader(options.pop("records", None) or small_study(**options))
    trials = load_trials(reader, "fake")
    histories = load_histories(reader, [trials.records[key] for key in trials.finished["trial_id"]])
    measured = measure_convergence(trials.finished, histories, metric="val_auroc", thresholds=THRESHOLDS)
    return trials, histories, measured


def similarity(stages: Sequence[str] = ("conv1", "conv2", "head", TOP_TWO)) -> pd.DataFrame:
    inits = {BEFORE_AFTER: "random", PRETRAINED_RANDOM: "pretrained", RANDOM_RANDOM: "random"}
    rows = [
        dict.fromkeys(SIMILARITY_COLUMNS, "")
        | {"kind": kind, "setting": "net · data", "init_x": init, "seed_x": seed, "stage": stage}
        | {"measure": "svcca", "value": 0.3 + 0.1 * k + 0.01 * seed, "noise_floor": 0.2}
        for kind, init in inits.items()
        for k, stage in enumerate(stages)
        for seed in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def curves(trials: StudyTrials, histories: pd.DataFrame, folder: Path, metric: str = "val_auroc"):
    return draw_learning_curves(
        trials.finished,
        histories,
        metric=metric,
        inits=trials.inits,
        thresholds=THRESHOLDS,
        folder=folder,
    )


def depth(trials: StudyTrials, measured: pd.DataFrame, folder: Path):
    return draw_depth(trials.finished, measured, primary="test_auroc", stages=STAGES, folder=folder)


def lines_of(axis) -> dict[str, object]:
    return {line.get_label(): line for line in axis.get_lines()}


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_figures_are_written_as_png_and_svg(tmp_path):
    trials, histories, _ = study()
    figure = curves(trials, histories, tmp_path)
    assert figure.svg == tmp_path / "learning_curves_val_auroc.svg"
    assert "</svg>" in figure.svg.read_text()
    with Image.open(tmp_path / "learning_curves_val_auroc.png") as image:
        assert image.width > 600


def test_equal_results_give_equal_svg(tmp_path):
    trials, histories, _ = study()
    files = [curves(trials, histories, tmp_path / name).svg.read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_learning_curves_are_the_mean_over_seeds_with_their_range(tmp_path, drawn):
    trials, histories, _ = study(inits=("random",))
    curves(trials, histories, tmp_path)
    [axis] = drawn[0].axes
    expected = histories[histories["metric"] == "val_auroc"].groupby("step")["value"]
    assert lines_of(axis)["random"].get_ydata() == pytest.approx(expected.mean().to_numpy())
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(expected.min().min())
    assert band.max() == pytest.approx(expected.max().max())


def test_learning_curves_end_where_a_seed_stopped_early(tmp_path, drawn):
    trials, histories, _ = study(inits=("random",))
    stopped = trials.finished["trial_id"].iloc[0]
    histories = histories[(histories["trial_id"] != stopped) | (histories["step"] <= 10)]
    curves(trials, histories, tmp_path)
    assert lines_of(drawn[0].axes[0])["random"].get_xdata().tolist() == [0, 1, 3, 10]


def test_step_zero_is_on_the_logarithmic_axis(tmp_path, drawn):
    trials, histories, _ = study()
    curves(trials, histories, tmp_path)
    axis = drawn[0].axes[0]
    assert axis.get_xlim()[0] < 0
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "10", "100"]
    assert axis.get_xlabel() == "optimizer steps"
    assert axis.get_ylabel() == "validation AUROC"


def test_one_panel_per_setting_and_one_legend_in_order(tmp_path, drawn):
    records = small_study() + [
        record_of(spec_of(init, 0, architecture="cbr_small")) for init in ("mean_var", "random")
    ]
    trials, histories, _ = study(records=records)
    curves(trials, histories, tmp_path)
    assert [axis.get_title(loc="left") for axis in drawn[0].axes] == [
        "cbr_small · digits 5–9",
        "cbr_tiny · digits 5–9",
    ]
    assert legend_of(drawn[0]) == [*trials.inits, "threshold"]


def test_a_metric_nobody_logged_is_not_drawn(tmp_path):
    trials, histories, _ = study()
    assert curves(trials, histories, tmp_path, metric="val_f1") is None
    assert list(tmp_path.iterdir()) == []


def test_a_loss_can_be_drawn(tmp_path, drawn):
    trials, histories, _ = study()
    curves(trials, histories, tmp_path, metric="val_loss")
    assert drawn[0].axes[0].get_ylabel() == "validation loss"


def test_depth_runs_from_random_to_pretrained(tmp_path, drawn):
    trials, _, measured = study()
    depth(trials, measured, tmp_path)
    top, bottom = drawn[0].axes
    line = top.containers[0].lines[0]
    assert line.get_xdata().tolist() == [0, 1, 2, 3, 4]
    means = trials.finished.groupby("depth")["test_auroc"].mean()
    assert line.get_ydata() == pytest.approx(means.to_numpy())
    labels = [label.get_text() for label in bottom.get_xticklabels()]
    assert labels == ["none\n(random)", "conv1", "conv2", "conv3", "conv4\n(pretrained)"]
    assert legend_of(drawn[0])[0] == "other stages random"


def test_seeds_that_never_arrive_are_marked_and_not_dropped(tmp_path, drawn):
    trials, _, measured = study()
    assert not measured["reached"].all()
    depth(trials, measured, tmp_path)
    bottom = drawn[0].axes[1]
    open_triangles = [line for line in bottom.get_lines() if line.get_marker() == "^"]
    assert len(open_triangles) == int((~measured["reached"]).sum())
    assert {line.get_markerfacecolor() for line in open_triangles} == {"white"}
    assert "threshold not reached" in legend_of(drawn[0])
    low, high = bottom.get_ylim()
    assert low < measured["steps"].min() <= measured["steps"].max() < high


def test_depth_of_one_seed_and_of_step_zero_is_drawn(tmp_path, drawn):
    trials, _, measured = study(seeds=(0,))
    depth(trials, measured.assign(steps=0, reached=True), tmp_path)
    assert drawn[0].axes[1].get_ylim()[0] < 0


def test_without_transfusion_there_is_no_depth_figure(tmp_path):
    trials, _, measured = study(inits=("random", "pretrained"))
    assert depth(trials, measured, tmp_path) is None


def test_before_and_after_shows_stages_without_their_mean(tmp_path, drawn):
    figure = draw_before_after(similarity(), measure="svcca", inits=("random",), folder=tmp_path)
    [axis] = drawn[0].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["conv1", "conv2", "head"]
    assert lines_of(axis)["random"].get_ydata() == pytest.approx([0.31, 0.41, 0.51])
    assert "noise floor" in legend_of(drawn[0])
    assert "before and after" in figure.title


def test_pairs_stand_beside_each_other_with_the_noise_floor(tmp_path, drawn):
    draw_pairs(similarity(), measure="svcca", folder=tmp_path)
    [axis] = drawn[0].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["conv1", "conv2", "head", TOP_TWO]
    assert legend_of(drawn[0]) == ["pretrained and random", "random and random", "noise floor"]
    lines = lines_of(axis)
    left, right = (lines[name].get_xdata() for name in ("pretrained and random", "random and random"))
    assert (left < right).all()
    floors = [path.vertices[:, 1].max() for part in axis.collections for path in part.get_paths()]
    assert floors == pytest.approx([0.2] * 4)


def test_pairs_of_several_sources_are_told_apart(tmp_path, drawn):
    rows = similarity()
    chosen = (rows["kind"] == PRETRAINED_RANDOM) & (rows["seed_x"] == 1)
    rows.loc[chosen, "init_x"] = "pretrained (source=b)"
    draw_pairs(rows, measure="svcca", folder=tmp_path)
    assert legend_of(drawn[0])[:3] == [
        "pretrained and random",
        "pretrained (source=b) and random",
        "random and random",
    ]


@pytest.mark.parametrize("rows", [similarity().iloc[:0], similarity().assign(value=float("nan"))])
def test_without_a_value_nothing_is_drawn(rows, tmp_path):
    assert draw_before_after(rows, measure="svcca", inits=(), folder=tmp_path) is None
    assert draw_pairs(rows, measure="svcca", folder=tmp_path) is None


def test_lines_differ_in_marker_or_dashes_and_not_in_colour_alone():
    names = ["random", "mean_var", *(f"transfusion {k}/8" for k in range(1, 8)), "pretrained"]
    styles = line_styles(names)
    assert len({style.colour for style in styles.values()}) == len(names)
    assert len({style.marker for style in styles.values()}) == len(names)


def test_a_name_has_one_look_in_every_figure():
    assert line_styles(["random", "pretrained"])["random"] == line_styles(["random", "2"])["random"]


@pytest.mark.parametrize(
    ("steps", "text"), [(0, "0"), (300, "300"), (10_000, "10k"), (250_000, "250k"), (2e6, "2M")]
)
def test_steps_are_short_on_the_axis(steps, text):
    assert step_text(steps) == text


@pytest.mark.parametrize("n_panels", [1, 2, 3])
def test_a_long_title_stays_above_its_panel(n_panels):
    name = "vgg16_bn slim 1/4 from block1 head 256 · CheXpert-v1 Atelectasis–Pleural Effusion · trains last 1"
    with panels(n_panels, title="a figure") as (figure, axes):
        for axis in axes[:, 0]:
            set_panel_title(axis, name)
        figure.draw_without_rendering()
        ends = [axis.title.get_window_extent() for axis in axes[:, 0]]
        starts = [axis.get_window_extent().x0 for axis in axes[1:, 0]] + [figure.bbox.x1]
        assert all(end.x1 <= start for end, start in zip(ends, starts, strict=True))
