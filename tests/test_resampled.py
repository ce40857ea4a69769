"""The table of uncertainty: ensembles, intervals over patients, and what is left out and why."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from analysis.numerics.delong import auroc_interval
from analysis.predictions import Predictions, ensemble, metrics
from analysis.tables.formats import markdown
from analysis.tables.resampled import resample_setting, uncertainty_table
from analysis.tables.table import Table

N = 80


def trial(
    seed: int, *, skill: float, images_per_patient: int = 1, n: int = N, classes: int = 2
) -> Predictions:
    rng, data = np.random.default_rng([seed, int(100 * skill)]), np.random.default_rng(7)
    labels = data.integers(classes, size=n)
    scores = rng.dirichlet(np.ones(classes), n) + skill * np.eye(classes)[labels]
    ids = np.array([f"s{i}" for i in range(n)])
    groups = np.array([f"p{i // images_per_patient}" for i in range(n)])
    names = tuple(f"class {i}" for i in range(classes))
    return Predictions("multiclass", names, ids, groups, labels, scores / scores.sum(1, keepdims=True))


def study(**options) -> tuple[pd.DataFrame, dict[str, Predictions]]:
    """Return three seeds of two initializations."""
    rows, predictions = [], {}
    for init, skill in (("random", 0.2), ("pretrained", 0.6)):
        for seed in range(3):
            key = f"{init} {seed}"
            rows.append(
                {"trial_id": key, "setting": "net · data", "init": init, "init_kind": init, "seed": seed}
            )
            predictions[key] = trial(seed, skill=skill, **options)
    return pd.DataFrame(rows), predictions


def table_of(
    rows: pd.DataFrame,
    predictions: dict[str, Predictions],
    *,
    baseline: str = "random",
    n_replicates: int = 100,
    **options,
) -> Table:
    settings = [
        resample_setting(of, predictions, baseline=baseline, n_replicates=n_replicates, **options)
        for _, of in rows.groupby("setting", sort=False)
    ]
    return uncertainty_table(settings, baseline=baseline, n_replicates=n_replicates)


def row_of(table: Table, init: str, *, of: str = "ensemble", metric: str = "auroc") -> pd.Series:
    data = table.data
    [row] = [r for _, r in data.iterrows() if (r["init"], r["of"], r["metric"]) == (init, of, metric)]
    return row


def test_estimates_are_of_the_ensemble_and_the_mean_over_seeds() -> None:
    rows, predictions = study()
    table = table_of(rows, predictions)
    trials = [predictions[f"pretrained {seed}"] for seed in range(3)]
    for metric in ("auroc", "auprc", "f1"):
        row = row_of(table, "pretrained", metric=metric)
        assert row["estimate"] == pytest.approx(metrics(ensemble(trials))[metric])
        mean = np.mean([metrics(one)[metric] for one in trials])
        row = row_of(table, "pretrained", of="mean of seeds", metric=metric)
        assert row["estimate"] == pytest.approx(mean)
        assert row["low"] < mean < row["high"]


def test_the_interval_is_that_of_a_plain_loop_over_patients() -> None:
    rows, predictions = study(images_per_patient=4)
    row = row_of(table_of(rows, predictions, n_replicates=400), "random")
    mean = ensemble([predictions[f"random {seed}"] for seed in range(3)])
    rng, replicates = np.random.default_rng(5), []
    for _ in range(400):
        drawn = rng.integers(N // 4, size=N // 4)
        samples = (drawn[:, None] * 4 + np.arange(4)).ravel()
        replicates.append(roc_auc_score(mean.labels[samples], mean.scores[samples, 1]))
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert (row["n_groups"], row["n_samples"], row["n_replicates"]) == (20, 80, 400)


def test_the_difference_to_the_baseline_is_paired_by_the_draws() -> None:
    rows, predictions = study()
    row = row_of(table_of(rows, predictions), "pretrained")
    difference = row["estimate"] - row_of(table_of(rows, predictions), "random")["estimate"]
    assert row["difference"] == pytest.approx(difference)
    assert row["difference_low"] < difference < row["difference_high"]
    same = predictions | {f"pretrained {seed}": predictions[f"random {seed}"] for seed in range(3)}
    row = row_of(table_of(rows, same), "pretrained")
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)


def test_the_difference_compares_ensembles_of_the_same_seeds() -> None:
    rows, predictions = study()
    del predictions["pretrained 2"]
    row = row_of(table_of(rows, predictions), "pretrained")
    two, three = ([predictions[f"random {seed}"] for seed in seeds] for seeds in ((0, 1), (0, 1, 2)))
    pretrained = metrics(ensemble([predictions["pretrained 0"], predictions["pretrained 1"]]))["auroc"]
    assert row["difference"] == pytest.approx(pretrained - metrics(ensemble(two))["auroc"])
    assert row["difference"] != pytest.approx(pretrained - metrics(ensemble(three))["auroc"])
    assert row["n_pairs"] == 2


def test_delong_stands_beside_the_bootstrap_for_independent_samples_of_two_classes_only() -> None:
    rows, predictions = study()
    table = table_of(rows, predictions, n_replicates=1000)
    row = row_of(table, "random")
    mean = ensemble([predictions[f"random {seed}"] for seed in range(3)])
    expected = auroc_interval(mean.labels, mean.scores[:, 1])
    assert (row["delong_low"], row["delong_high"]) == (expected.low, expected.high)
    # Two ways to one quantity.
    assert row["high"] - row["low"] == pytest.approx(expected.high - expected.low, rel=0.15)
    for options in ({"images_per_patient": 2}, {"classes": 3}):
        table = table_of(*study(**options))
        assert math.isnan(row_of(table, "random")["delong_low"])
        assert set(table.display["DeLong"]) == {"–"}


def test_display_is_text_with_intervals_and_the_note_says_how() -> None:
    table = table_of(*study(images_per_patient=2))
    first, second = table.display.to_dict("records")
    row = row_of(table, "pretrained")
    assert (first["seeds"], first["groups (samples)"]) == ("3 of 3", "40 (80)")
    assert second["AUROC, ensemble"] == f"{row['estimate']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
    assert first["AUROC − random, ensembles"] == "baseline"
    assert second["AUROC − random, ensembles"].startswith(f"+{row['difference']:.4f} [+")
    for words in ("40 groups of 80 samples", "100 replicates", "percentile bootstrap", "DeLong (1988)"):
        assert words in table.note
    assert "Left out" not in table.note
    assert "pretrained" in markdown(table)


def test_trials_without_predictions_are_named_with_the_reason() -> None:
    rows, predictions = study()
    for key in ("random 1", "pretrained 0", "pretrained 1", "pretrained 2"):
        del predictions[key]
    table = table_of(rows, predictions, missing={"random 1": "test.parquet is missing"})
    assert (
        "Left out: net · data · random · seed 1 (test.parquet is missing); net · data · pretrained · "
        in table.note
    )
    assert table.note.endswith("pretrained · seed 0, 1, 2 (no predictions).")
    first, second = table.display.to_dict("records")
    assert (first["seeds"], second["seeds"]) == ("2 of 3", "0 of 3")
    assert second["AUROC, ensemble"] == second["AUROC − random, ensembles"] == "–"
    assert set(table.data["init"]) == {"random"}


def test_trials_tested_on_other_samples_are_left_out_with_the_reason() -> None:
    rows, predictions = study()
    predictions["pretrained 2"] = trial(2, skill=0.6, n=N - 1)
    table = table_of(rows, predictions)
    assert "pretrained · seed 2 (expected predictions of the same samples, got 80 and 79" in table.note
    assert row_of(table, "pretrained")["n_seeds"] == 2


def test_one_patient_gives_no_interval_and_says_so() -> None:
    table = table_of(*study(images_per_patient=N))
    assert table.data.empty
    assert "all test samples are of one group" in table.note
    assert set(table.display["AUROC, ensemble"]) == {"–"}


def test_without_the_baseline_or_any_predictions_the_table_is_still_there() -> None:
    rows, predictions = study()
    table = table_of(rows, predictions, baseline="mean_var", n_replicates=20)
    assert set(table.display["AUROC − mean_var, ensembles"]) == {"–"}
    assert table.data["difference"].isna().all()
    empty = table_of(rows, {})
    assert empty.data.empty
    assert len(empty.display) == 2
    assert "Test split (no predictions)" in empty.note
    assert table_of(rows[:0], {}).display.empty


def test_replicates_without_a_class_are_counted_in_the_note_and_a_missing_class_is_absent() -> None:
    rows, predictions = study(n=12, classes=3)
    table = table_of(rows, predictions)
    assert table.data["n_undefined"].max() > 0
    assert "replicates of a cell a class was not drawn; they are left out" in table.note
    one_class = {
        key: Predictions("multiclass", p.classes, p.sample_ids, p.groups, 0 * p.labels, p.scores)
        for key, p in predictions.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = table_of(rows, one_class)
    assert set(table.display["AUROC, ensemble"]) == {"–"}
    assert table.data["estimate"].isna().all()


def test_equal_seeds_give_equal_tables_and_another_seed_other_intervals() -> None:
    rows, predictions = study()
    first, second, other = (table_of(rows, predictions, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.data, second.data)
    assert (first.data["low"] != other.data["low"]).any()
    assert (first.data["estimate"] == other.data["estimate"]).all()
