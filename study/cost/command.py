"""What `transfusion plan` and `transfusion status` print of a study and its cost."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from study.cost.counts import OperationCounts
from study.cost.estimate import CLOSED, Estimate
from study.cost.foresight import expect, measurements_of, shared_gpus
from study.cost.screens import cost_content, print_cost, print_probes
from study.cost.setting import setting_of
from study.cost.speed import Measurements
from study.grid import PlannedTrial
from study.plan import Plan, make_plan, plan_rows
from study.screens import plain_console, print_plan
from study.sections import Study
from trainables.errors import TrackingError
from trainables.tracking_uri import store_is_absent

if TYPE_CHECKING:
    from study.cost.probe import Probed, Report  # these import ray
    from study.progress import StudyDisplay
    from trainables.record import RecordReader, Store  # which imports MLflow


def print_json(study: Study, *, with_cost: bool, slots: int | None) -> None:
    """Print the trials of a study as one list; with their cost as one object.

    Raises:
        TrackingError: the store cannot be used.
    """
    study, plan, measured = _planned(study, present_reader())
    content: object = plan_rows(plan)
    if with_cost:
        content = cost_content(plan, _expected(plan, study, measured, slots), study.price)
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def present_reader() -> "RecordReader | None":
    """Return the reader of the store; None if there is none yet, so that nobody makes one only to look."""
    if store_is_absent():
        return None
    from trainables.record import RecordReader

    return RecordReader()


def print_study(study: Study, reader: "RecordReader | None", *, slots: int | None = None) -> None:
    """Print the plan of a study and what is left of its cost.

    Args:
        reader: of its store; None if there is none yet.
    """
    study, plan, measured = _planned(study, reader)
    console = plain_console()
    print_plan(plan, console)
    print_cost(_expected(plan, study, measured, slots), study.price, console)


def print_status(study: Study, store: "Store") -> None:
    """Print the plan of a stored study, what is left of its cost, and how far off the last run was.

    Raises:
        TrackingError: the store cannot be used.
    """
    from study.cost.wall_time import last_wall_time
    from study.tracking import find_study_run
    from trainables.record import RecordReader

    print_study(study, RecordReader(store))
    if (wall := last_wall_time(find_study_run(store, study.name))) is not None:
        click.echo(f"the last run that was complete: {wall.worded()}")


def probe_and_print(study: Study, report: "Report") -> None:
    """Measure the open trials of a study, keep what is found in MLflow, and print it.

    Raises:
        UserError: the store or the cluster cannot be used.
    """
    from trainables.record import open_store

    store = open_store()
    measured = measurements_of(store)
    if study.resources.wants_shares and not measured.gpu_memory_gb:
        # How many trials share a GPU decides how fast they are, and its memory how many share it.
        _probe(study, store, report, only_first_on_gpu=True)
        measured = measurements_of(store)
    found = _probe(shared_gpus(study, measured) if measured.gpu_memory_gb else study, store, report)
    print_probes(found.speeds, found.stacks, plain_console())


def _probe(study: Study, store: "Store", report: "Report", *, only_first_on_gpu: bool = False) -> "Probed":
    """Measure the open trials of a study, or only the first that needs a GPU, and keep what is found."""
    from study.cost.probe import probe_study
    from trainables.record import RecordReader
    from trainables.record.probes import write_probes

    reader = RecordReader(store)
    plan = make_plan(study, reader.trials(), histories=reader.histories)
    if only_first_on_gpu:
        plan = _first_on_gpu(plan)
    found = probe_study(study, plan, store=store, report=report)
    write_probes(store, [*found.sizes, *found.speeds, *found.stacks])
    for notice in found.notices:
        click.echo(f"note: {notice}", err=True)
    return found


def _first_on_gpu(plan: Plan) -> Plan:
    """Return what is left of a plan with one of the open trials that need a GPU, and can be measured."""
    of_entries = [entry for entry in plan.entries if entry.state not in CLOSED and _is_measured(entry.trial)]
    of_searches = [s for s in plan.searches if not s.is_decided and _is_measured(s.cell.as_written())]
    return replace(plan, entries=tuple(of_entries[:1]), searches=() if of_entries else tuple(of_searches[:1]))


def _is_measured(trial: PlannedTrial) -> bool:
    return trial.resources.gpu > 0 and setting_of(trial.spec) is not None


def keep_wall_time_of(display: "StudyDisplay", study: str, store: "Store") -> None:
    """Print how long a run that is complete should have taken, and did; keep it for `status`."""
    from study.cost.wall_time import WallTime, keep_wall_time
    from study.tracking import find_study_run

    if display.forecast is None:
        return
    wall = WallTime(display.forecast.wall_s, display.seconds)
    click.echo(wall.worded())
    try:
        keep_wall_time(find_study_run(store, study), wall)
    except TrackingError as error:
        click.echo(f"note: this was not stored: {error}", err=True)


def _planned(study: Study, reader: "RecordReader | None") -> tuple[Study, Plan, Measurements]:
    if reader is None:
        study = shared_gpus(study, Measurements())
        return study, make_plan(study, []), Measurements()
    records = reader.trials()
    measured = measurements_of(reader.store, records)
    study = shared_gpus(study, measured)
    plan = make_plan(study, records, histories=reader.histories)
    for notice in reader.notices:
        click.echo(f"note: {notice}", err=True)
    return study, plan, measured


def _expected(plan: Plan, study: Study, measured: Measurements, slots: int | None) -> Estimate:
    counts = OperationCounts()
    found = expect(plan, study, measured, counts=counts, slots=slots)
    for notice in counts.notices:
        click.echo(f"note: {notice}", err=True)
    return found
