"""A probe through Ray: every setting of the open trials, as many at once as the study runs at once."""

from pathlib import Path

import pytest

from study.config import parse_study
from study.cost.foresight import expect, measurements_of
from study.cost.probe import probe_study
from study.plan import make_plan
from trainables.record import RecordReader, Store
from trainables.record.probes import read_probes, write_probes

STUDY = """
name: small
seeds: 2
trial: {dataset: {from: digits_5_9, size_px: 16}, training: {steps: 4}}
grid: {architecture: [cbr_tiny], training.batch_size: [16, 32], training.optimizer.lr: [0.1, 0.2]}
include:
  - {set: {architecture: decision_tree, init: random, training.batch_size: 16, training.optimizer.lr: 0.1}}
resources: {cpu: 0.5, slots: 2, stack: auto}
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("quick")
def test_after_a_probe_every_training_by_gradient_is_known(store: Store) -> None:
    study = parse_study(STUDY)
    plan = make_plan(study, [])
    told: list[tuple[str, int, int]] = []
    found = probe_study(study, plan, store=store, report=lambda *step: told.append(step))
    assert found.notices == ()
    assert {(probe.label, probe.at_once, probe.threads) for probe in found.speeds} == {
        ("cbr_tiny, 16 px × 1, batch 16", 2, 1),
        ("cbr_tiny, 16 px × 1, batch 32", 2, 1),
    }
    assert [step[1:] for step in told] == [(1, 2), (2, 2)]
    # Of each setting two seeds at two rates, on two slots.
    assert [(stack.label, stack.members) for stack in found.stacks] == [
        (speed.label, 2) for speed in found.speeds
    ]
    (sizes,) = found.sizes
    assert sizes.train > sizes.val > 0
    write_probes(store, [*found.sizes, *found.speeds, *found.stacks])
    assert read_probes(store) == [*found.sizes, *found.speeds, *found.stacks]
    assert RecordReader(store).trials() == []
    expected = expect(plan, study, measurements_of(store))
    assert {cost.label.split(" · ")[0] for cost in expected.open_trials.values() if cost.left_s is None} == {
        "decision_tree"
    }
    assert expected.start_s > 0
    assert [use.n_trials for use in expected.stacks] == [4, 4]
    assert None not in [use.best_gain for use in expected.stacks]
