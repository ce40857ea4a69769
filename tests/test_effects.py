import itertools
import math

import numpy as np
import pandas as pd
import pytest

from analysis.numerics.effects import HIGHER_ORDER, WITHIN, Effects, effects


def grid(levels: dict[str, int], *, repeats: int = 1, seed: int = 0, drop: int = 0) -> pd.DataFrame:
    """Every combination of levels, with random values; some rows are dropped at random."""
    rng = np.random.default_rng(seed)
    names = [[f"{factor}{k}" for k in range(n)] for factor, n in levels.items()]
    rows = [cell for cell in itertools.product(*names) for _ in range(repeats)]
    frame = pd.DataFrame(rows, columns=list(levels))
    frame["y"] = rng.normal(size=len(frame)) + 0.7 * (frame[next(iter(levels))].str[-1].astype(int))
    return frame.drop(rng.choice(len(frame), size=drop, replace=False)).reset_index(drop=True)


def term(found: Effects, name: str) -> pd.Series:
    return found.terms.set_index("term").loc[name]


def dummies(frame: pd.DataFrame, *columns: str) -> np.ndarray:
    """Dummy variables of the combinations of some columns, the first level left out."""
    text = frame[list(columns)].agg("/".join, axis=1) if columns else pd.Series("", index=frame.index)
    return pd.get_dummies(text).to_numpy(dtype=float)


def residual(frame: pd.DataFrame, terms: list[tuple[str, ...]]) -> float:
    matrix = np.hstack([np.ones((len(frame), 1)), *(dummies(frame, *term) for term in terms)])
    y = frame["y"].to_numpy()
    return float(((y - matrix @ (np.linalg.pinv(matrix) @ y)) ** 2).sum())


def test_a_balanced_textbook_example():
    # 2 × 2 with two repetitions; cell means 2, 4 / 6, 12: grand mean 6, A ±3, B ±2, interaction ±1.
    frame = pd.DataFrame(
        {
            "a": ["a1"] * 4 + ["a2"] * 4,
            "b": ["b1", "b1", "b2", "b2"] * 2,
            "y": [1.0, 3.0, 3.0, 5.0, 5.0, 7.0, 11.0, 13.0],
        }
    )
    found = effects(frame, factors=["a", "b"], value="y")
    assert found.grand_mean == pytest.approx(6)
    assert found.levels["effect"].tolist() == pytest.approx([-3, 3, -2, 2])
    sums = found.terms.set_index("term")["sum_of_squares"]
    assert sums.to_dict() == pytest.approx({"a": 72, "b": 32, "a × b": 8, WITHIN: 8})
    assert found.terms["df"].tolist() == [1, 1, 1, 4]
    assert found.terms["share"].tolist() == pytest.approx([0.6, 32 / 120, 8 / 120, 8 / 120])
    # Variance within cells 8 / 4; an effect of two levels is half their difference, each of 4 values.
    half = 2.776 * math.sqrt(2 / 8)
    assert (found.levels["high"] - found.levels["effect"]).tolist() == pytest.approx([half] * 4, rel=1e-3)


def test_shares_of_a_balanced_grid_add_up_to_one():
    found = effects(grid({"a": 3, "b": 2, "c": 4}, repeats=2), factors=["a", "b", "c"], value="y")
    assert found.terms["share"].sum() == pytest.approx(1)
    assert found.terms["df"].sum() == 3 * 2 * 4 * 2 - 1
    assert (found.n, found.n_cells, found.n_possible) == (48, 24, 24)


@pytest.mark.parametrize("drop", [0, 11])
def test_sums_of_squares_agree_with_least_squares_on_dummies(drop):
    frame = grid({"a": 3, "b": 2, "c": 3}, repeats=2, drop=drop)
    found = effects(frame, factors=["a", "b", "c"], value="y")
    ab, ac, bc = ("a", "b"), ("a", "c"), ("b", "c")
    a, b, c = ("a",), ("b",), ("c",)
    expected = {
        "a": residual(frame, [b, c, bc]) - residual(frame, [a, b, c, bc]),
        "c": residual(frame, [a, b, ab]) - residual(frame, [a, b, c, ab]),
        "a × b": residual(frame, [a, b, c, ac, bc]) - residual(frame, [a, b, c, ab, ac, bc]),
        HIGHER_ORDER: residual(frame, [a, b, c, ab, ac, bc]) - residual(frame, [("a", "b", "c")]),
        WITHIN: residual(frame, [("a", "b", "c")]),
    }
    sums = found.terms.set_index("term")["sum_of_squares"]
    assert sums[list(expected)].to_dict() == pytest.approx(expected)


def test_level_effects_of_an_unbalanced_grid_compare_like_with_like():
    # The good architecture ran only where the task is hard: raw means would call it the worse one.
    rows = [("good", "hard", 0.7), ("bad", "hard", 0.6), ("bad", "easy", 0.9), ("fair", "easy", 0.95)]
    frame = pd.DataFrame(rows, columns=["architecture", "dataset", "y"])
    found = effects(frame, factors=["architecture", "dataset"], value="y")
    levels = found.levels.set_index("level")["effect"]
    assert levels["good"] - levels["bad"] == pytest.approx(0.1)
    assert levels["fair"] - levels["bad"] == pytest.approx(0.05)
    assert levels["easy"] - levels["hard"] == pytest.approx(0.3)
    assert found.levels.groupby("factor")["effect"].sum().abs().max() == pytest.approx(0, abs=1e-12)
    assert (found.n_cells, found.n_possible) == (4, 6)


def test_effects_of_a_balanced_grid_are_means_against_the_grand_mean():
    frame = grid({"a": 4, "b": 3}, repeats=3)
    found = effects(frame, factors=["a", "b"], value="y")
    expected = frame.groupby("a")["y"].mean() - frame["y"].mean()
    levels = found.levels[found.levels["factor"] == "a"].set_index("level")
    assert levels["effect"].to_dict() == pytest.approx(expected.to_dict())
    assert levels["n"].tolist() == [9] * 4
    assert levels["n_cells"].tolist() == [3] * 4


def test_order_of_rows_and_a_constant_added_do_not_matter():
    frame = grid({"a": 3, "b": 2}, repeats=2, drop=3)
    found = effects(frame, factors=["a", "b"], value="y")
    other = effects(
        frame.sample(frac=1, random_state=0).assign(y=lambda f: f["y"] + 10), factors=["b", "a"], value="y"
    )
    keys = ["factor", "level"]
    pd.testing.assert_frame_equal(
        found.levels.sort_values(keys, ignore_index=True), other.levels.sort_values(keys, ignore_index=True)
    )
    assert term(found, "a")["sum_of_squares"] == pytest.approx(term(other, "a")["sum_of_squares"])
    assert other.grand_mean == pytest.approx(found.grand_mean + 10)


def test_intervals_hold_the_true_effect_as_often_as_they_say():
    rng = np.random.default_rng(0)
    frame = grid({"a": 2, "b": 3}, repeats=2, drop=2)
    truth = (frame["a"] == "a1") * 2.0  # effects −1 and 1, nothing else
    hits = []
    for _ in range(120):
        found = effects(frame.assign(y=truth + rng.normal(size=len(frame))), factors=["a", "b"], value="y")
        row = found.levels[found.levels["level"] == "a1"].iloc[0]
        hits.append(row["low"] <= 1 <= row["high"])
    assert np.mean(hits) == pytest.approx(0.95, abs=0.05)


def test_factors_that_say_the_same_are_not_told_apart():
    frame = pd.DataFrame({"a": ["x", "x", "y", "y"], "b": ["u", "u", "v", "v"], "y": [1.0, 2.0, 3.0, 4.0]})
    found = effects(frame, factors=["a", "b"], value="y")
    assert found.levels["effect"].isna().all()
    assert math.isnan(found.grand_mean)
    assert (term(found, "a")["df"], term(found, "a × b")["df"]) == (0, 0)
    assert math.isnan(term(found, "a")["share"])


def test_one_level_missing_values_and_one_repetition():
    frame = grid({"a": 2, "b": 1, "c": 2})
    frame.loc[len(frame)] = {"a": "a0", "b": "b1", "c": "c0", "y": math.nan}
    found = effects(frame, factors=["a", "b", "c"], value="y")
    assert found.one_level == ("b",)
    assert found.n == 4
    assert (term(found, WITHIN)["df"], math.isnan(term(found, WITHIN)["share"])) == (0, True)
    assert found.levels["low"].isna().all()
    assert found.levels["effect"].notna().all()


def test_no_factor_no_row_and_no_spread():
    frame = grid({"a": 2}, repeats=2)
    alone = effects(frame, factors=[], value="y")
    assert alone.levels.empty
    assert term(alone, WITHIN)["share"] == pytest.approx(1)
    assert alone.grand_mean == pytest.approx(frame["y"].mean())
    nothing = effects(frame[:0], factors=["a"], value="y")
    assert (nothing.n, nothing.n_cells, math.isnan(nothing.grand_mean)) == (0, 0, True)
    flat = effects(frame.assign(y=0.3), factors=["a"], value="y")
    assert flat.terms["share"].isna().all()
    assert flat.levels["effect"].tolist() == pytest.approx([0, 0])


def test_missing_columns_and_levels_are_named():
    frame = grid({"a": 2})
    with pytest.raises(ValueError, match=r"effects need the columns \['z', 'y'\], not found: \['z'\]"):
        effects(frame, factors=["z"], value="y")
    with pytest.raises(ValueError, match=r"needs a level of every factor, missing in \['a'\]"):
        effects(frame.assign(a=[None, "x"]), factors=["a"], value="y")
