"""What trials get wrong, how sure the numbers are, and how both are shown."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures import mistakes as figures
from analysis.figures.mistakes import draw_confusions, draw_errors
from analysis.mistakes import confident_errors, confusion, disagreements, find_mistakes
from analysis.predictions import Predictions, ensemble, metrics

CLASSES = ("cat", "dog", "owl")


def of_scores(scores: list, labels: list, *, task: str = "multiclass", ids: str = "abcdefgh") -> Predictions:
    values = np.array(scores, float)
    marks = np.array(labels, float if task == "multilabel" else int)
    names = np.array(list(ids[: len(labels)]))
    return Predictions(task, CLASSES[: values.shape[1]], names, names, marks, values)  # type: ignore[arg-type]


def two_trials() -> list[Predictions]:
    labels = [0, 1, 2, 0]
    first = [[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.0, 0.2, 0.8], [0.3, 0.6, 0.1]]
    second = [[0.8, 0.2, 0.0], [0.5, 0.4, 0.1], [0.0, 0.6, 0.4], [0.1, 0.9, 0.0]]
    return [of_scores(first, labels), of_scores(second, labels)]


def test_confident_errors_are_sorted_by_the_mean_probability_of_the_wrong_class() -> None:
    errors = confident_errors(two_trials(), setting="net · data")
    assert errors["sample_id"].tolist() == ["d", "b"]
    first = errors.iloc[0]
    assert (first["label"], first["predicted"], first["class"], first["n_wrong"]) == ("cat", "dog", "", 2)
    assert first["score"] == pytest.approx(0.75)
    assert first["label_score"] == pytest.approx(0.2)
    assert set(errors["setting"]) == {"net · data"}
    assert set(errors["n_trials"]) == {2}


def test_a_sample_that_the_mean_gets_right_is_no_error_though_a_trial_errs() -> None:
    assert "c" not in set(confident_errors(two_trials(), setting="s")["sample_id"])
    assert "c" in set(confident_errors(two_trials()[1:], setting="s")["sample_id"])


def test_errors_stop_at_the_number_asked_for_and_can_be_none() -> None:
    assert len(confident_errors(two_trials(), setting="s", n_samples=1)) == 1
    right = of_scores([[1, 0, 0], [0, 1, 0]], [0, 1])
    empty = confident_errors([right], setting="s")
    assert empty.empty
    assert list(empty)[:2] == ["setting", "sample_id"]


def test_labels_have_their_own_errors_and_unknown_ones_none() -> None:
    scores = [[0.9, 0.2], [0.1, 0.6], [0.8, 0.9]]
    marks = [[0, math.nan], [1, 0], [math.nan, 1]]
    errors = confident_errors([of_scores(scores, marks, task="multilabel")], setting="s")
    shown = errors[["sample_id", "class", "label", "predicted", "n_wrong"]].to_numpy().tolist()
    assert shown == [
        ["a", "cat", "no", "yes", 1],
        ["b", "cat", "yes", "no", 1],
        ["b", "dog", "no", "yes", 1],
    ]
    assert errors["score"].tolist() == pytest.approx([0.9, 0.9, 0.6])


def test_disagreement_within_and_between_equals_the_variances_by_hand() -> None:
    labels = [0, 1]
    x = [of_scores([[p, 1 - p], [0.5, 0.5]], labels) for p in (0.2, 0.6)]
    y = [of_scores([[p, 1 - p], [0.5, 0.5]], labels) for p in (0.8, 0.8)]
    found = disagreements({"x": x, "y": y}, setting="s").set_index("sample_id")
    # Of both classes: variance over seeds .08 and 0; means .4 and .8, variance .08.
    assert found.loc["a", "within"] == pytest.approx((2 * 0.08 + 0) / 2)
    assert found.loc["a", "between"] == pytest.approx(2 * 0.08)
    assert found.loc["a", "excess"] == pytest.approx(0.16 - 0.08 / 2)
    assert found.loc["b", ["within", "between", "excess"]].tolist() == [0, 0, 0]
    assert found.index.tolist()[0] == "a"


def test_initializations_that_do_not_differ_have_no_excess_on_average() -> None:
    rng = np.random.default_rng(0)
    cells = {
        init: [of_scores(np.column_stack([p, 1 - p]).tolist(), [0] * 8) for p in rng.normal(0.5, 0.1, (3, 8))]
        for init in map(str, range(300))
    }
    found = disagreements(cells, setting="s", n_samples=8)
    assert found["between"].mean() == pytest.approx(0.02 / 3, rel=0.15)
    assert found["excess"].mean() == pytest.approx(0, abs=0.001)


def test_one_seed_or_one_initialization_has_no_variance_and_nothing_is_made_up() -> None:
    [one, two] = two_trials()
    seeds = disagreements({"x": [one, two]}, setting="s")
    assert seeds["between"].isna().all()
    assert seeds["within"].notna().all()
    inits = disagreements({"x": [one], "y": [two]}, setting="s")
    assert inits["within"].isna().all()
    assert inits["excess"].isna().all()
    assert inits["between"].is_monotonic_decreasing
    assert disagreements({"x": [one]}, setting="s").empty


def test_confusion_is_the_mean_over_trials_and_adds_up_to_the_samples() -> None:
    found = confusion(two_trials(), setting="s", init="random")
    assert found.rows == found.columns == CLASSES
    assert found.counts.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0.5, 0.5]]
    assert found.shares.sum(1) == pytest.approx(np.ones(3))
    assert found.n_trials == 2


def test_a_class_that_does_not_occur_has_no_shares() -> None:
    shares = confusion([of_scores([[0.9, 0.1]], [0])], setting="s", init="i").shares
    assert shares[0].tolist() == [1, 0]
    assert np.isnan(shares[1]).all()


def test_confusion_of_labels_leaves_unknown_marks_out() -> None:
    scores, marks = [[0.9, 0.2], [0.1, 0.6], [0.8, 0.9]], [[0, math.nan], [1, 0], [math.nan, 1]]
    found = confusion([of_scores(scores, marks, task="multilabel")], setting="s", init="i")
    assert found.rows == ("cat: no", "cat: yes", "dog: no", "dog: yes")
    assert found.columns == ("no", "yes")
    assert found.counts.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]


def rows_of(trials: dict[str, tuple[str, str, int]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"trial_id": key, "setting": setting, "init": init, "init_kind": init, "seed": seed}
            for key, (setting, init, seed) in trials.items()
        ]
    )


def test_every_setting_with_predictions_is_looked_at() -> None:
    rows = rows_of(
        {
            "1": ("s", "random", 0),
            "2": ("s", "random", 1),
            "3": ("s", "pretrained", 0),
            "4": ("t", "random", 0),
            "5": ("s", "absent", 0),
        }
    )
    first, second = two_trials()
    [found] = find_mistakes(rows, {"1": first, "2": second, "3": second})
    assert found.setting == "s"
    assert [(one.init, one.n_trials) for one in found.confusions] == [("random", 2), ("pretrained", 1)]
    assert set(found.errors["n_trials"]) == {3}
    assert not found.disagreements.empty


def test_trials_of_other_samples_are_refused() -> None:
    first, _ = two_trials()
    other = of_scores(first.scores.tolist(), [0, 1, 2, 0], ids="wxyz")
    with pytest.raises(ValueError, match="expected predictions of the same samples"):
        confident_errors([first, other], setting="s")


def test_mean_probability_of_the_ensemble_decides() -> None:
    errors = confident_errors(two_trials(), setting="s", n_samples=99)
    assert len(errors) == round((1 - metrics(ensemble(two_trials()))["accuracy"]) * 4)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they were when they were saved."""
    seen: list[Figure] = []
    original = figures.save
    monkeypatch.setattr(
        figures,
        "save",
        lambda figure, folder, name: (seen.append(figure), original(figure, folder, name))[1],
    )
    return seen


IMAGES = {
    "b": np.arange(64, dtype=np.uint8).reshape(1, 8, 8),
    "d": np.arange(192, dtype=np.uint8).reshape(3, 8, 8),
}


def gallery(folder: Path, images: dict[str, np.ndarray]):
    errors = confident_errors(two_trials(), setting="net · data")
    return draw_errors(errors, images, setting="net · data", folder=folder, name="errors")


def test_a_gallery_says_below_each_picture_what_it_is_and_was_taken_for(tmp_path, drawn) -> None:
    figure = gallery(tmp_path, IMAGES)
    assert (figure.svg, figure.title) == (tmp_path / "errors.svg", "Most confident errors: net · data")
    assert (tmp_path / "errors.png").exists()
    first, second = drawn[0].axes
    assert first.get_xlabel() == "label cat\npredicted dog 0.75 (0.20)\n2 of 2 trials wrong\nd"
    assert first.images[0].get_array().shape == (8, 8, 3)
    np.testing.assert_array_equal(second.images[0].get_array(), IMAGES["b"][0])
    assert plt.get_fignums() == []


def test_errors_without_an_image_are_counted_and_without_any_nothing_is_drawn(tmp_path) -> None:
    assert gallery(tmp_path, {"b": IMAGES["b"]}).caption.endswith("1 more have no image here.")
    assert "no image here" not in gallery(tmp_path, IMAGES).caption
    assert gallery(tmp_path / "none", {}) is None
    assert not (tmp_path / "none").exists()


def test_many_pictures_wrap_and_equal_results_give_equal_files(tmp_path, drawn) -> None:
    n = 9
    wrong = of_scores([[0.1, 0.9]] * n, [0] * n, ids="abcdefghi")
    errors = confident_errors([wrong], setting="s")
    images = dict.fromkeys("abcdefghi", IMAGES["b"])
    files = [
        draw_errors(errors, images, setting="s", folder=tmp_path / name, name="e").svg.read_bytes()
        for name in "xy"
    ]
    assert len(drawn[0].axes) == n
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "image", [np.zeros((2, 8, 8), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((1, 8, 8))]
)
def test_images_of_another_shape_are_refused(image, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"image 'b' must be uint8 of shape \(1 or 3, height, width\), got"):
        gallery(tmp_path, {"b": image})
    assert plt.get_fignums() == []


def test_confusions_have_a_panel_per_initialization_with_shares(tmp_path, drawn) -> None:
    found = [confusion(two_trials(), setting="s", init=init) for init in ("random", "pretrained")]
    figure = draw_confusions(found, setting="s", folder=tmp_path, name="confusion_s")
    left, right = drawn[0].axes
    assert left.get_title(loc="left") == "random (2 trials)"
    assert right.get_title(loc="left") == "pretrained (2 trials)"
    texts = [text.get_text() for text in left.texts]
    assert texts == ["0.50", "0.50", "0.00", "1.00", "0.00", "0.00", "0.00", "0.50", "0.50"]
    assert [label.get_text() for label in left.get_yticklabels()] == list(CLASSES)
    assert figure.svg.exists()
    assert draw_confusions([], setting="s", folder=tmp_path, name="none") is None
