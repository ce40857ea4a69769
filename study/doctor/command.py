"""The command `transfusion doctor`."""

import json
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from study.doctor.finding import Finding
    from study.doctor.nodes import Fleet
    from trainables.record import Store

EXIT_FOUND = 4


@click.command()
@click.argument(
    "study_file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None
)
@click.option("--repair", "is_repairing", is_flag=True, help="Mend what can be mended, not only look.")
@click.option("--deep", is_flag=True, help="Look at the files of finished trials too, and at every digest.")
@click.option("--expect-nodes", type=click.IntRange(min=1), help="How many nodes there should be.")
@click.option("--experiment", multiple=True, help="Of plain Ray Tune: look at it too; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def doctor(
    study_file: Path | None,
    is_repairing: bool,
    deep: bool,
    expect_nodes: int | None,
    experiment: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look whether machines and records are in order; with --repair, mend the records.

    Machines: every node of the cluster of RAY_ADDRESS, or only this one; with STUDY_FILE the datasets of
    that study are loaded on each. Records: everything in MLflow.

    Ends with 0 if nothing is wrong, or all of it was repaired, and with 4 otherwise.
    """
    from study.doctor.finding import Fate, treat
    from study.doctor.nodes import check_nodes
    from study.doctor.screens import plain_console, print_findings, print_fleet, summary
    from trainables.record import open_store

    store = open_store()
    fleet = _fleet(store, study_file)
    of_nodes = list(treat(check_nodes(fleet, n_expected=expect_nodes), is_repairing=False))
    examined, findings = _records(store, deep=deep, experiments=experiment, is_repairing=is_repairing)
    of_records = list(treat(findings, is_repairing=is_repairing))
    treated = [*of_nodes, *of_records]
    if as_json:
        content = {"nodes": [asdict(node) for node in fleet.nodes], "findings": [t.as_row() for t in treated]}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print_fleet(fleet, of_nodes)
        print_findings(treated)
        n_nodes = f"{len(fleet.nodes)} node{'s' if len(fleet.nodes) > 1 else ''}"
        plain_console().print(summary(treated, examined=f"{n_nodes}, {examined}"), soft_wrap=True)
    sys.exit(EXIT_FOUND if any(each.fate != Fate.REPAIRED for each in treated) else 0)


def _fleet(store: "Store", study_file: Path | None) -> "Fleet":
    from study.config import load_study
    from study.doctor.node_report import Order
    from study.doctor.roll_call import call_the_roll, labelled
    from study.grid import expand
    from study.progress import bar

    trials = expand(load_study(study_file)).trials if study_file else []
    order = Order(store.display_uri, store.experiment, socket.gethostname() if store.is_local_file else None)
    with bar("doctor") as progress:
        return call_the_roll(order, labelled([trial.spec.dataset for trial in trials]), progress=progress)


def _records(
    store: "Store", *, deep: bool, experiments: tuple[str, ...], is_repairing: bool
) -> "tuple[str, Iterator[Finding]]":
    """Return what was looked at, in words, and what is to be found there."""
    from itertools import chain

    from study.doctor.examination import examine
    from study.doctor.foreign import check_foreign
    from study.doctor.leftovers import check_leftovers
    from study.doctor.listening import LISTEN_S, after_listening, silent_runs
    from study.doctor.records import check_records
    from study.doctor.server_clock import server_skew_s
    from study.progress import bar

    now_s = time.time() - (server_skew_s(store.uri) or 0.0)
    seen = examine(store, is_deep=deep, now_s=now_s)
    if is_repairing and (silent := silent_runs(seen)):
        click.echo(
            f"{len(silent)} silent runs may be alive, if MLflow was away: listening to them for up to "
            f"{LISTEN_S:.0f} s",
            err=True,
        )
        with bar("doctor") as progress:
            seen = after_listening(seen, progress=progress)
    foreign = (check_foreign(store, name, now_s=now_s) for name in experiments)
    examined = f"{len(seen.trials)} trials, {len(seen.studies)} studies"
    return examined, chain(check_records(seen), *foreign, check_leftovers())
