"""A study through hundreds of faults, and the share of them that every test run makes.

CHAOS_MINUTES ends each database's part early: studies that are under way by then are the last.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.disks import may_mount
from tests.chaos.episode import Episode, Remains
from tests.chaos.faults import KINDS, OF_ROOT_ONLY, ON_POSTGRES_ONLY
from tests.chaos.ledger import Ledger
from tests.chaos.postgres import Postgres, postgres_programs
from tests.chaos.processes import REPOSITORY
from tests.chaos.server import Database, Sqlite
from tests.chaos.table import write_table
from tests.chaos.world import World

SEED = 5
STEPS, POINTS = 240, 12
STUDY = """
name: chaos
seeds: {seeds}
trial:
  architecture: cbr_tiny
  dataset: {{from: digits_5_9, size_px: 16}}
  training:
    steps: {steps}
    batch_size: 16
    optimizer: {{lr: 0.02}}
    evaluation: {{spacing: linear, points: {points}}}
source:
  dataset: {{from: digits_0_4, size_px: 16}}
  training: {{steps: {half_steps}, evaluation: {{spacing: linear, points: {half_points}}}}}
grid:
  init: [random, pretrained]
checkpoints: {{state_every_s: 0}}
resources: {{cpu: 1, gpu: 1}}
"""
INTERVAL = STEPS // POINTS

# How often each kind comes on each database: what is quick comes often.
COUNTS = {
    "trial worker killed": 16,
    "raylet of a host killed": 7,
    "driver killed": 4,
    "head killed": 2,
    "MLflow server killed": 8,
    "PostgreSQL killed": 14,
    "MLflow server frozen": 7,
    "MLflow server frozen for 60 s": 1,
    "SIGTERM to the driver": 3,
    "SIGINT to the driver": 2,
    "SIGINT twice": 2,
    "connection reset in mid-upload": 14,
    "connection reset before the answer": 14,
    "disk of the artifacts full": 4,
    "disk of the workers full": 4,
    "clock of a host stepped": 6,
    "state truncated between two runs": 2,
    "second driver": 3,
    "second driver takes over": 2,
}
SHARE = (
    "connection reset in mid-upload",
    "trial worker killed",
    "MLflow server killed",
    "driver killed",
)
ledgers: dict[str, Ledger] = {}


@contextmanager
def running_world(folder: Path, database: Database, *, seeds: int) -> Iterator[World]:
    study_file = folder / "chaos.yaml"
    sizes = {"steps": STEPS, "points": POINTS, "half_steps": STEPS // 2, "half_points": POINTS // 2}
    study_file.write_text(STUDY.format(seeds=seeds, **sizes))
    world = World(folder, database=database, study_file=study_file)
    # A session of one's own outlives its parent: nothing must be left behind when pytest is told to end.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        world.start()
        yield world
    finally:
        world.stop()
        signal.signal(signal.SIGTERM, before)


def run_all(world: World, deck: list[str], *, ledger: Ledger, most_studies: int) -> None:
    """Run the study undisturbed, then again until every fault of the deck has been made."""

    def study(name: str, faults: list[str], reference: Remains | None) -> Remains:
        return Episode(world, name, faults, rng, ledger, INTERVAL, reference).run()

    rng = random.Random(SEED)
    ends_at = time.monotonic() + 60 * float(os.environ.get("CHAOS_MINUTES", "inf"))
    reference = study("undisturbed", [], None)
    assert len(reference.runs) % 2 == 1, "a source, and a trial of each seed from each initialization"
    assert not ledger.violations, ledger.violations
    for number in range(most_studies):
        if not deck or time.monotonic() > ends_at:
            return
        study(f"episode-{number}", deck, reference)
    assert not deck, f"not made in {most_studies} studies: {deck}"


def possible(kinds: list[str], *, database: Database) -> list[str]:
    """Leave out what cannot be done here."""
    left_out = set() if may_mount() else set(OF_ROOT_ONLY)
    left_out |= set() if isinstance(database, Postgres) else set(ON_POSTGRES_ONLY)
    return [kind for kind in kinds if kind not in left_out]


def test_a_study_survives_one_fault_of_most_kinds(tmp_path: Path) -> None:
    database, ledger = Sqlite(tmp_path / "mlflow.db"), Ledger()
    with running_world(tmp_path, database, seeds=1) as world:
        run_all(world, possible(list(SHARE), database=database), ledger=ledger, most_studies=2)
    assert not ledger.violations, "\n".join(ledger.violations)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_a_study_survives_hundreds_of_faults(kind: str, tmp_path: Path) -> None:
    programs = postgres_programs()
    if kind == "PostgreSQL" and programs is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    database: Database = Sqlite(tmp_path / "mlflow.db")
    if kind == "PostgreSQL":
        pytest.importorskip("psycopg2", reason="pip install psycopg2-binary")
        assert programs is not None, "skipped otherwise"
        database = Postgres(programs)
    deck = possible([kind for kind, count in COUNTS.items() for _ in range(count)], database=database)
    random.Random(SEED).shuffle(deck)
    ledger = ledgers[database.name] = Ledger()
    with running_world(tmp_path, database, seeds=2) as world:
        run_all(world, deck, ledger=ledger, most_studies=40)
    assert not ledger.violations, "\n".join(ledger.violations)


def test_every_kind_of_fault_is_in_the_schedule() -> None:
    assert COUNTS.keys() == KINDS.keys()
    n_on_sqlite = sum(count for kind, count in COUNTS.items() if kind not in ON_POSTGRES_ONLY)
    assert n_on_sqlite + sum(COUNTS.values()) >= 200
    assert KINDS.keys() >= set(SHARE)


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Write the table when hundreds of faults were made."""
    began = time.monotonic()
    yield
    if ledgers:
        minutes = (time.monotonic() - began) / 60
        file = REPOSITORY / "docs" / "results" / "chaos.md"
        write_table(file, ledgers, seed=SEED, interval=INTERVAL, minutes=minutes)
