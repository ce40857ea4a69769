"""What was probed is kept as runs of their own kind."""

import json

import pytest

from tests.test_speed import probed
from tests.test_stacks import stacked
from trainables.probes import SizesProbe, SpeedProbe
from trainables.record import RecordReader, Store
from trainables.record.probes import read_probes, write_probes

FULL = probed(hardware="A10G", is_gpu=True, train_s=None, score_s=None, overhead_s=None, gpu_memory_gb=23.0)
SIZES = SizesProbe("{}", "digits", 1, 2, 3)


def test_probes_come_back_as_they_were_and_are_no_trials(store: Store) -> None:
    write_probes(store, [probed(), FULL, SIZES, stacked(4, 2.0), stacked(8, None)])
    assert read_probes(store) == [probed(), FULL, SIZES, stacked(4, 2.0), stacked(8, None)]
    reader = RecordReader(store)
    assert reader.trials() == []
    assert reader.notices == []
    assert {run.info.status for run in store.search("kind", "probe")} == {"FINISHED"}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"train_s": "fast"},
        {"train_s": float("nan")},
        {"start_s": None},
        {"start_s": -1.0},
        {"threads": 1.5},
        {"is_gpu": 1},
        {"label": 3},
        {"more": 1},
    ],
)
def test_an_edited_probe_is_left_out(store: Store, change: dict) -> None:
    content = {"kind": "speed", **vars(probed()), **change}
    store.client.create_run(store.experiment_id, tags={"kind": "probe", "probe": json.dumps(content)})
    for text in ("", "[]", '"speed"', "{"):
        store.client.create_run(store.experiment_id, tags={"kind": "probe", "probe": text})
    assert read_probes(store) == []


def test_a_probe_from_before_a_field_was_added_still_counts(store: Store) -> None:
    content = {"kind": "speed", **vars(probed())}
    del content["is_compiled"]
    store.client.create_run(store.experiment_id, tags={"kind": "probe", "probe": json.dumps(content)})
    assert read_probes(store) == [probed()]


def test_whole_numbers_of_seconds_are_seconds(store: Store) -> None:
    write_probes(store, [probed(start_s=7)])
    (probe,) = read_probes(store)
    assert isinstance(probe, SpeedProbe)
    assert probe.start_s == 7
