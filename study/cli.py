"""The command line: `transfusion plan | run | resume | status | analyze | compare | trial | data | ui`."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from study.data_commands import data
from study.doctor.command import doctor
from study.stopping import EXIT_INTERRUPTED, StopRequest
from trainables.errors import StudyFileError, UserError

EXIT_MISTAKE = 2
EXIT_FAILED_TRIALS = 3
UI_PORT = 5000
# Of `analysis.results`, which takes seconds to import.
ANALYSIS_PARTS = ("tables", "similarity", "weights", "saliency", "report")


class _Commands(click.Group):
    """Turns a person's mistake into its message and exit code 2; a bug keeps its traceback and exits 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}" if not isinstance(error, StudyFileError) else str(error), err=True)
            sys.exit(EXIT_MISTAKE)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transfusion-study")
def main() -> None:
    """Find out whether, and why, transfer learning helps: run a study, browse it in MLflow, analyze it.

    Trials are recorded at MLFLOW_TRACKING_URI (default: mlflow.db here). Images are looked up below
    TRANSFUSION_DATA. With RAY_ADDRESS set, trials run on that cluster.
    """


main.add_command(data)
main.add_command(doctor)

_Command = Callable[..., None]


def _how_to_run(command: _Command) -> _Command:
    """Give `run` and `resume` the same options."""
    for option in (
        click.option("--take-over", is_flag=True, help="Take the study from the process that is running it."),
        click.option("--keep-failed", is_flag=True, help="Leave trials that failed earlier as they are."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("study_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, for scripts.")
def plan(study_file: Path, as_json: bool) -> None:
    """Show which trials STUDY_FILE needs, and which exist already."""
    import json

    from study.config import load_study
    from study.plan import make_plan, plan_rows
    from study.screens import print_plan
    from trainables.record import RecordReader

    study = load_study(study_file)
    reader = RecordReader()
    made = make_plan(study, reader.trials())
    _note(reader.notices)
    if as_json:
        click.echo(json.dumps(plan_rows(made), indent=2, ensure_ascii=False))
    else:
        print_plan(made)


@main.command()
@click.argument("study_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_how_to_run
def run(study_file: Path, keep_failed: bool, take_over: bool) -> None:
    """Run what STUDY_FILE still needs. Running it again continues it; nothing finished is redone."""
    from study.config import load_study

    study = load_study(study_file)
    _run(lambda store: study, keep_failed=keep_failed, take_over=take_over)


@main.command()
@click.argument("study")
@_how_to_run
def resume(study: str, keep_failed: bool, take_over: bool) -> None:
    """Continue STUDY from its name: its file is in MLflow."""
    _run(lambda store: _stored_study(store, study), keep_failed=keep_failed, take_over=take_over)


@main.command()
@click.argument("study")
def status(study: str) -> None:
    """Show where STUDY stands."""
    from study.plan import make_plan
    from study.screens import print_plan
    from trainables.record import RecordReader, open_store

    store = open_store()
    reader = RecordReader(store)
    print_plan(make_plan(_stored_study(store, study), reader.trials()))
    _note(reader.notices)


@main.command()
@click.argument("study")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Default: reports/STUDY.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(ANALYSIS_PARTS),
    help="Compute this part, show what is known of the others; may be repeated. `report` computes nothing.",
)
def analyze(study: str, output: Path | None, only: tuple[str, ...]) -> None:
    """Make the tables, figures and the report of STUDY from MLflow alone.

    What was computed before is kept below TRANSFUSION_CACHE. With RAY_ADDRESS set, networks are compared on
    that cluster.
    """
    from analysis.pipeline import analyze as make_report
    from analysis.results import Options, StudyFacts
    from study.plan import make_plan
    from study.progress import bar
    from study.tracking import find_study_run
    from trainables.record import RecordReader, open_store

    store = open_store()
    stored = _stored_study(store, study)
    reader = RecordReader(store)
    folder = output or Path("reports") / study
    plan = make_plan(stored, reader.trials())
    told = list(reader.notices)
    _note([*told, *plan.warnings()])
    cache = _outcome_cache()
    with bar("analyze") as progress:
        report = make_report(
            reader,
            StudyFacts(
                name=study,
                question=stored.question or "",
                file=stored.text,
                planned=plan.entries,
                trial_ids={entry.trial_id: entry.trial.is_source for entry in plan.entries},
                run_address=store.run_address(local_port=UI_PORT),
            ),
            output=folder,
            options=Options(**stored.analysis.model_dump()),
            data_root=_data_root(),
            parts=only or ANALYSIS_PARTS,
            perform=_cluster_performer(store),
            cache=cache,
            progress=progress,
        )
    _note([*cache.notices, *(notice for notice in reader.notices if notice not in told)])
    if only:
        _note(["a part of an analysis is not stored with the study; analyze without --only does that"])
    else:
        find_study_run(store, study).log_analysis(folder)
    click.echo(f"report: {report.resolve()}")


@main.command()
@click.argument("run_x", metavar="RUN")
@click.argument("run_y", metavar="RUN")
@click.option("--checkpoint", "checkpoints", multiple=True, default=("final",), show_default=True,
              help="Of both, or once for each: initial, best, final, step-0000100, …")  # fmt: skip
@click.option(
    "--images", default=512, show_default=True, type=click.IntRange(min=2), help="Of the test split."
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Default: reports/compare-…."
)
def compare(run_x: str, run_y: str, checkpoints: tuple[str, ...], images: int, output: Path | None) -> None:
    """Compare the representations of two trials, each RUN a run id, a trial id or a run's name.

    Every backbone stage of one with every stage of the other; where both have the same stages, also each
    with its counterpart, by every measure.
    """
    from analysis.compare import compare_runs, print_comparison
    from analysis.results import Options
    from trainables.record import RecordReader, open_store

    if len(checkpoints) > 2:
        raise click.UsageError(f"--checkpoint is given once or twice, got {len(checkpoints)} times")
    reader = RecordReader(open_store())
    records = [reader.find(run_x), reader.find(run_y)]
    folder = output or Path("reports") / f"compare-{records[0].trial_id[:8]}-{records[1].trial_id[:8]}"
    compared = compare_runs(
        reader,
        records,
        checkpoints=(checkpoints[0], checkpoints[-1]),
        options=Options(probe_images=images),
        data_root=_data_root(),
        output=folder,
    )
    print_comparison(compared)
    click.echo(f"tables and figure: {folder.resolve()}")


@main.command()
@click.argument("spec_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
def trial(spec_file: Path, threads: int) -> None:
    """Train the one trial described in SPEC_FILE, without Ray; its pretraining first, if it needs one."""
    with StopRequest().watching() as request:
        from study.alone import run_alone
        from study.config import load_trial
        from study.refusal import explained
        from trainables.record import open_store

        spec, store = load_trial(spec_file), open_store()
        with explained():
            failed = run_alone(
                spec,
                store=store,
                threads=threads,
                data_root=_data_root(),
                request=request,
            )
    sys.exit(EXIT_FAILED_TRIALS if failed else 0)


@main.command()
@click.option("--port", default=UI_PORT, show_default=True)
def ui(port: int) -> None:
    """Browse studies and trials in MLflow's UI, on this machine only."""
    from trainables.record import open_store

    store = open_store()
    if store.uri.startswith("http"):
        click.echo(f"{store.display_uri}/#/experiments/{store.experiment_id}/runs")
        return
    click.echo(f"http://127.0.0.1:{port}/#/experiments/{store.experiment_id}/runs  (Ctrl-C ends)")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    arguments = [
        "--backend-store-uri",
        store.uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])


def _run(study_in: Callable[[Any], Any], *, keep_failed: bool, take_over: bool) -> None:
    """Run the study that is found with the help of a store."""
    with StopRequest().watching() as request:
        from study.progress import StudyDisplay
        from study.refusal import explained
        from study.runner import run_study
        from study.screens import print_outcome
        from trainables.record import open_store

        store = open_store()
        study = study_in(store)
        with explained():
            outcome = run_study(
                study,
                store=store,
                display=StudyDisplay(),
                keep_failed=keep_failed,
                take_over=take_over,
                request=request,
            )
        if outcome.taken_over_by:
            click.echo(f"{study.name} was taken over by {outcome.taken_over_by}; this process has left it")
        else:
            print_outcome(study.name, outcome)
    if outcome.was_interrupted:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0 if outcome.is_complete else EXIT_FAILED_TRIALS)


def _stored_study(store: Any, name: str) -> Any:
    from study.config import parse_study
    from study.tracking import find_study_run

    return parse_study(find_study_run(store, name).read_study_file(), path=f"study {name} in MLflow")


def _note(notices: list[str]) -> None:
    for notice in notices:
        click.echo(f"note: {notice}", err=True)


def _outcome_cache() -> Any:
    from analysis.jobs.cache import OutcomeCache
    from trainables.datasets.cache import cache_folder

    return OutcomeCache(cache_folder() / "analysis")


def _cluster_performer(store: Any) -> Any:
    """Return what does jobs on the cluster of RAY_ADDRESS; None without one."""
    if not os.environ.get("RAY_ADDRESS"):
        return None
    from analysis.jobs.work import do_there
    from study.cluster import as_tasks

    return partial(as_tasks, partial(do_there, store_uri=store.display_uri, experiment=store.experiment))


def _data_root() -> Path | None:
    root = os.environ.get("TRANSFUSION_DATA")
    return Path(root) if root else None
