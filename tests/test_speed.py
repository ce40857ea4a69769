"""Speeds come from what was measured on the same machine, and from nothing else."""

from collections.abc import Iterable
from dataclasses import replace
from math import nan

import pytest

from study.cost.setting import setting_of
from study.cost.speed import Measurements, Place, Speed
from study.cost.splits import dataset_key
from study.extent import SplitSizes
from tests.conftest import tiny_trial
from tests.fake_records import record_of
from trainables.probes import SizesProbe, SpeedProbe
from trainables.record import TrialRecord
from trainables.record.circumstances import Circumstances, Spent
from trainables.spec import TrialSpec

CPU = Place("EPYC", 1)
GPU = Place("A10G", 0)
SPENT = Spent(
    images_trained=1000,
    training_s=10.0,
    images_scored=500,
    scoring_s=1.0,
    n_train=200,
    n_val=50,
    n_test=60,
    micro_batch=16,
    threads=1,
)


def finished(
    *,
    seed: int = 0,
    seconds: float = 15.0,
    spent: Spent | None = SPENT,
    spec: TrialSpec | None = None,
    **found: object,
) -> TrialRecord:
    circumstances = Circumstances(**{"hardware": "EPYC", "is_first_attempt": True, "spent": spent, **found})  # type: ignore[arg-type]
    return replace(record_of(spec or tiny_trial(seed=seed)), seconds=seconds, circumstances=circumstances)


def probed(**changes: object) -> SpeedProbe:
    content: dict[str, object] = {
        "setting": setting_of(tiny_trial()),
        "label": "cbr_tiny",
        "hardware": "EPYC",
        "is_gpu": False,
        "threads": 1,
        "at_once": 2,
        "gpu_memory_gb": None,
        "train_s": 0.5,
        "score_s": 0.25,
        "overhead_s": 3.0,
        "start_s": 7.0,
    }
    return SpeedProbe(**{**content, **changes})  # type: ignore[arg-type]


def speed(
    records: Iterable[TrialRecord] = (), probes: Iterable[SpeedProbe] = (), place: Place = CPU
) -> Speed:
    return Measurements(list(records), list(probes)).speed(tiny_trial(seed=9), place)


def test_speeds_are_those_of_the_last_attempt_and_what_is_left_of_its_seconds() -> None:
    assert speed([finished()]) == Speed(0.01, 0.002, 4.0)


def test_of_several_measurements_the_median_counts() -> None:
    slow = replace(SPENT, training_s=1000.0)
    records = [finished(seed=1), finished(seed=2), finished(seed=3, spent=slow, seconds=1005.0)]
    assert speed(records) == Speed(0.01, 0.002, 4.0)


def test_a_resumed_trial_gives_rates_but_no_overhead() -> None:
    resumed = finished(seconds=1e6, is_first_attempt=False)
    assert speed([resumed]) == Speed(0.01, 0.002, None)
    assert speed([resumed, finished(seed=1)]) == Speed(0.01, 0.002, 4.0)


def test_a_trial_whose_micro_batch_was_halved_says_nothing() -> None:
    assert speed([finished(was_halved=True)]) == Speed()


@pytest.mark.parametrize("status", ["failed", "killed", "running"])
def test_only_finished_trials_count(status: str) -> None:
    assert speed([replace(finished(), status=status)]) == Speed()


@pytest.mark.parametrize("place", [Place("EPYC", 2), Place("Xeon", 1), GPU])
def test_other_machines_and_other_threads_are_no_measurement(place: Place) -> None:
    assert speed([finished()], [probed()], place) == Speed()


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "cbr_small"},
        {"dataset": {"reader": "digits", "classes": ["5", "6"], "size_px": 32}},
        {"training": {"steps": 12, "batch_size": 8}},
        {"training": {"steps": 12, "batch_size": 16, "micro_batch_size": 4}},
        {"training": {"steps": 12, "batch_size": 16, "precision": "bfloat16"}},
        {"training": {"steps": 12, "batch_size": 16, "trainable": "head"}},
        {"training": {"steps": 12, "batch_size": 16, "augment": {"rotation_degrees": 5}}},
        {"training": {"steps": 12, "batch_size": 16, "optimizer": "adam"}},
    ],
)
def test_whatever_decides_the_speed_is_part_of_the_setting(change: dict) -> None:
    assert Measurements([finished()]).speed(tiny_trial(**change), CPU) == Speed()


def test_what_does_not_decide_the_speed_is_no_part_of_the_setting() -> None:
    other = tiny_trial(
        dataset={"reader": "digits", "classes": ["1", "2"], "size_px": 16},
        training={"steps": 500, "batch_size": 16, "optimizer": {"lr": 0.5}, "evaluation": {"points": 9}},
        seed=4,
    )
    assert Measurements([finished()]).speed(other, CPU) == Speed(0.01, 0.002, 4.0)


def test_records_go_before_probes_part_by_part_and_the_newest_probe_counts() -> None:
    probes = [probed(train_s=9.0), probed()]
    assert speed([], probes) == Speed(0.5, 0.25, 3.0)
    assert speed([finished(is_first_attempt=False)], probes) == Speed(0.01, 0.002, 3.0)


def test_a_record_older_than_the_tags_gives_the_training_rate_of_its_gpu_alone() -> None:
    metrics = {"train_seconds": 20.0, "images_seen": 400.0}
    old = replace(finished(spent=None, hardware="A10G", is_gpu=True), metrics=metrics)
    assert speed([old], place=GPU) == Speed(0.05, None, None)
    on_cpu = replace(finished(spent=None, hardware=None), metrics=metrics)
    assert speed([on_cpu]) == Speed()


def test_seconds_need_every_part_that_a_trial_has() -> None:
    assert Speed(0.5, 0.25, 3.0).seconds(images_trained=10, images_scored=8) == 5.0 + 2.0 + 3.0
    assert Speed(0.5, None, 3.0).seconds(images_trained=10, images_scored=8) is None
    assert Speed(0.5, 0.25, None).seconds(images_trained=10, images_scored=8) is None
    assert Speed(0.5, 0.25, 3.0).seconds(images_trained=None, images_scored=8) is None
    # What a trial does not do need not have been measured.
    assert Speed(None, 0.25, 3.0).seconds(images_trained=0, images_scored=8) == 5.0


def test_a_trial_that_is_fitted_takes_as_long_as_those_on_the_same_data() -> None:
    trees = tiny_trial(architecture="decision_tree", training={"method": "fit"})
    records = [finished(spec=trees, spent=None, seconds=s) for s in (4.0, 5.0, 60.0)]
    measured = Measurements(records)
    assert measured.speed(trees, CPU).seconds(images_trained=None, images_scored=None) == 5.0
    other = tiny_trial(
        architecture="decision_tree",
        training={"method": "fit"},
        dataset={"reader": "digits", "classes": ["1", "2"], "size_px": 16},
    )
    assert measured.speed(other, CPU) == Speed()
    assert Measurements([finished(spec=trees, spent=None, seconds=nan)]).speed(trees, CPU) == Speed()


def test_sizes_of_splits_are_learned_from_records_and_probes_whatever_the_size_of_the_images() -> None:
    larger = tiny_trial(dataset={"reader": "digits", "classes": ["5", "6"], "size_px": 32, "channels": 3})
    assert Measurements([]).sizes.of(larger.dataset) == SplitSizes()
    assert Measurements([finished()]).sizes.of(larger.dataset) == SplitSizes(200, 50, 60)
    probe = SizesProbe(dataset_key(tiny_trial().dataset), "digits", 5, 6, 7)
    assert Measurements([], [probe]).sizes.of(larger.dataset) == SplitSizes(5, 6, 7)
    other = tiny_trial(
        dataset={"reader": "digits", "classes": ["5", "6"], "size_px": 16, "train_fraction": 0.5}
    )
    assert Measurements([finished()], [probe]).sizes.of(other.dataset) == SplitSizes()


def test_what_did_not_fit_a_gpu_is_told_of_that_gpu() -> None:
    full = probed(
        hardware="A10G",
        is_gpu=True,
        gpu_share=1.0,
        train_s=None,
        score_s=None,
        overhead_s=None,
        gpu_memory_gb=23.0,
    )
    measured = Measurements([], [full])
    assert measured.did_not_fit(tiny_trial(), GPU)
    assert not measured.did_not_fit(tiny_trial(architecture="cbr_small"), GPU)
    assert not measured.did_not_fit(tiny_trial(), CPU)
    assert measured.gpu_memory_gb == {"A10G": 23.0}


def test_hardware_is_listed_by_kind_what_was_measured_last_at_the_end() -> None:
    records = [finished(hardware="Xeon"), finished(seed=1), finished(seed=2, hardware="A10G", is_gpu=True)]
    measured = Measurements(records, [probed(hardware="Xeon")])
    assert measured.hardware(is_gpu=False) == ["EPYC", "Xeon"]
    assert measured.hardware(is_gpu=True) == ["A10G"]
    assert measured.start_s(Place("Xeon", 1)) == 7.0
    assert measured.start_s(CPU) is None
