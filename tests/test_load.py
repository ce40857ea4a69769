import math

import pytest

from analysis.load import TRIAL_COLUMNS, load_histories, load_trials
from tests.fake_records import STEPS, FakeReader, record_of, small_study, spec_of
from trainables.spec import TrialSpec


def table_of(specs: list[TrialSpec]):
    return load_trials(FakeReader([record_of(spec) for spec in specs]), "fake").table


def test_every_trial_is_a_row_with_its_metrics():
    trials = load_trials(FakeReader(small_study()), "fake")
    assert len(trials.table) == len(trials.records) == 16
    row = trials.table[(trials.table["init"] == "transfusion 2/4") & (trials.table["seed"] == 1)].iloc[0]
    assert (row["architecture"], row["dataset"], row["setting"]) == (
        "cbr_tiny",
        "digits 5–9",
        "cbr_tiny · digits 5–9",
    )
    assert (row["depth"], row["n_stages"], row["source"], row["status"]) == (2, 4, "digits 0–4", "finished")
    assert 0.5 < row["test_auroc"] < 1


def test_a_study_without_trials_has_its_columns():
    trials = load_trials(FakeReader([]), "fake")
    assert trials.table.empty
    assert set(TRIAL_COLUMNS) <= set(trials.finished.columns)
    assert trials.inits == ()


def test_inits_run_from_random_over_deeper_transfusions_to_pretrained():
    shuffled = small_study(inits=("pretrained", "3", "mean_var", "1", "random", "2"))
    trials = load_trials(FakeReader(shuffled), "fake")
    assert trials.inits == (
        "random",
        "mean_var",
        "transfusion 1/4",
        "transfusion 2/4",
        "transfusion 3/4",
        "pretrained",
    )


def test_depth_counts_pretrained_stages_and_mean_var_has_none():
    table = table_of([spec_of(init, 0) for init in ("random", "mean_var", "3", "pretrained")])
    depths = table.set_index("init")["depth"]
    assert depths[["random", "transfusion 3/4", "pretrained"]].tolist() == [0, 3, 4]
    assert math.isnan(depths["mean_var"])


def test_a_pretraining_is_marked_and_left_out_of_the_finished():
    trials = load_trials(FakeReader(small_study()), "fake")
    assert trials.table[trials.table["is_source"]]["dataset"].tolist() == ["digits 0–4"]
    assert len(trials.finished) == 15


def test_a_pretraining_that_the_study_also_asks_for_is_no_mere_source():
    records = small_study()
    source = records[0].spec
    other_seed = source.model_copy(update={"seed": 1})
    trials = load_trials(FakeReader([*records, record_of(other_seed)]), "fake")
    assert not trials.table["is_source"].any()


def test_only_finished_trials_are_finished():
    records = [
        record_of(spec_of("random", s), status=w) for s, w in enumerate(("finished", "failed", "running"))
    ]
    assert load_trials(FakeReader(records), "fake").finished["seed"].tolist() == [0]


def test_settings_that_share_a_name_tell_in_what_they_differ():
    specs = [spec_of("random", 0, training={"steps": 300, "optimizer": {"lr": lr}}) for lr in (0.1, 0.01)]
    assert sorted(table_of(specs)["setting"]) == [
        "cbr_tiny · digits 5–9 (lr=0.01)",
        "cbr_tiny · digits 5–9 (lr=0.1)",
    ]


def test_initializations_that_share_a_name_tell_their_source():
    one = spec_of("pretrained", 0)
    assert one.init.source is not None
    other = one.init.model_copy(update={"source": one.init.source.model_copy(update={"checkpoint": "final"})})
    specs = [one, one.model_copy(update={"init": other, "seed": 1})]
    table = table_of(specs)
    assert table["setting"].nunique() == 1
    assert sorted(table["init"]) == ["pretrained (checkpoint=best)", "pretrained (checkpoint=final)"]


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_seeds_share_setting_and_initialization(n_seeds):
    table = table_of([spec_of("2", seed) for seed in range(n_seeds)])
    assert table["setting"].unique().tolist() == ["cbr_tiny · digits 5–9"]
    assert table["init"].unique().tolist() == ["transfusion 2/4"]


def test_histories_are_long_and_leave_out_metrics_that_were_not_logged():
    records = [record_of(spec_of("random", seed)) for seed in (0, 1)]
    histories = load_histories(FakeReader(records), records)
    assert list(histories) == ["trial_id", "metric", "step", "value"]
    assert set(histories["metric"]) == {"val_auroc", "val_loss"}
    assert len(histories) == 2 * 2 * len(STEPS)


def test_no_history_is_an_empty_table_with_its_columns():
    assert list(load_histories(FakeReader([]), [])) == ["trial_id", "metric", "step", "value"]


def test_what_learns_is_told_beside_the_initialization_of_one_setting():
    training = {"steps": 300, "optimizer": {"lr": 0.02}}
    specs = [
        spec_of("random", 0),
        spec_of("pretrained", 0, training={**training, "trainable": "head"}),
        spec_of("pretrained", 0, training={"method": "linear_probe"}),
        spec_of("random", 0, architecture="random_forest"),
    ]
    table = load_trials(FakeReader([record_of(spec) for spec in specs]), "fake").table
    forest = table["architecture"] == "random_forest"
    assert table[forest]["init"].tolist() == ["fitted"]
    assert table[forest]["init_kind"].tolist() == ["fitted"], "a forest is no baseline for itself"
    assert sorted(table[~forest]["init"]) == [
        "pretrained · linear probe",
        "pretrained · trains head",
        "random",
    ]
    assert set(table["protocol"]) == {"trains all", "trains head", "linear probe", "fitted"}
    assert table[table["init"] == "random"]["depth"].tolist() == [0.0]
    assert table[table["init"] != "random"]["depth"].isna().all()


def test_a_linear_probe_stands_beside_the_one_training_of_its_network():
    specs = [
        spec_of("random", 0),
        spec_of("pretrained", 0, training={"method": "linear_probe"}),
    ]
    assert load_trials(FakeReader([record_of(s) for s in specs]), "fake").table["setting"].nunique() == 1
    two = [*specs, spec_of("random", 0, training={"steps": 7})]
    assert load_trials(FakeReader([record_of(s) for s in two]), "fake").table["setting"].nunique() == 3
