"""The command line: `transfusion plan | probe | run | resume | status | analyze | compare | trial | …`."""

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
        click.option(
            "--max-seeds",
            default=10,
            show_default=True,
            type=click.IntRange(min=2),
            help="Of a cell, with --until.",
        ),
        click.option(
            "--until",
            metavar="CONDITION",
            help="Add seeds to cells until it holds: 'ci(val_auroc) < 0.01' is half the width of the 95 % "
            "interval of the mean over seeds.",
        ),
        click.option("--take-over", is_flag=True, help="Take the study from the process that is running it."),
        click.option("--keep-failed", is_flag=True, help="Leave trials that failed earlier as they are."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("study_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of the trials, for scripts.")
@click.option("--cost", "with_cost", is_flag=True, help="With --json: print one object, with what it costs.")
@click.option(
    "--slots", type=click.IntRange(min=1), help="Trials at once. Default: the study file, or this machine."
)
def plan(study_file: Path, as_json: bool, with_cost: bool, slots: int | None) -> None:
    """Show which trials STUDY_FILE needs, which exist already, and what the others will cost.

    Seconds are known where such trials ran before on the same hardware, or were measured by `transfusion
    probe`; all else is printed as unknown. With --json --cost: an object of `trials` (those of --json, each
    with images, flops, seconds, gpu_hours, cpu_hours, memory_bytes), `total`, `axes`, `wall_seconds`, …; null
    is what is not known.
    """
    from study.config import load_study
    from study.cost.command import present_reader, print_json, print_study

    if with_cost and not as_json:
        raise click.UsageError("--cost belongs to --json; without it the cost is printed anyhow")
    study = load_study(study_file)
    if as_json:
        print_json(study, with_cost=with_cost, slots=slots)
    else:
        print_study(study, present_reader(), slots=slots)


@main.command()
@click.argument("study_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_how_to_run
def run(study_file: Path, **how: Any) -> None:
    """Run what STUDY_FILE still needs. Running it again continues it; nothing finished is redone."""
    from study.config import load_study

    study = load_study(study_file)
    _run(lambda store: study, **how)


@main.command()
@click.argument("study")
@_how_to_run
def resume(study: str, **how: Any) -> None:
    """Continue STUDY from its name: its file is in MLflow."""
    _run(lambda store: _stored_study(store, study), **how)


@main.command()
@click.argument("study_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def probe(study_file: Path) -> None:
    """Measure for a few seconds how fast the open trials of STUDY_FILE are here, or on RAY_ADDRESS.

    Each network, image size and batch is trained on noise, as many at once as the study runs at once. What is
    found is kept in MLflow, where `transfusion plan` looks for it, on this machine and on others.
    """
    from study.config import load_study
    from study.cost.command import probe_and_print
    from study.progress import bar

    study = load_study(study_file)
    with bar("probe") as progress:
        probe_and_print(study, progress)


@main.command()
@click.argument("study")
def status(study: str) -> None:
    """Show where STUDY stands, what is left of it, and how far off the last estimate was."""
    from study.cost.command import print_status
    from trainables.record import open_store

    store = open_store()
    print_status(_stored_study(store, study), store)


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
    from analysis.searches import SearchFacts
    from study.plan import read_plan
    from study.progress import bar
    from study.search.facts import OPTUNA_FILE, search_facts, write_optuna_studies
    from study.tracking import find_study_run
    from trainables.record import RecordReader, open_store

    store = open_store()
    stored = _stored_study(store, study)
    reader = RecordReader(store)
    folder = output or Path("reports") / study
    plan = read_plan(stored, reader)
    told = list(reader.notices)
    _note([*told, *plan.warnings()])
    # The settings that searches have tried are neither results nor missing.
    compared = [entry for entry in plan.entries if entry.trial.setting is None]
    cache = _outcome_cache()
    with bar("analyze") as progress:
        report = make_report(
            reader,
            StudyFacts(
                name=study,
                question=stored.question or "",
                file=stored.text,
                planned=compared,
                trial_ids={entry.trial_id: entry.trial.is_source for entry in compared},
                run_address=store.run_address(local_port=UI_PORT),
                searches=[SearchFacts.of(search_facts(search)) for search in plan.searches],
                optuna_file=OPTUNA_FILE if plan.searches else "",
            ),
            output=folder,
            options=Options(**stored.analysis.model_dump()),
            data_root=_data_root(),
            parts=only or ANALYSIS_PARTS,
            perform=_cluster_performer(store),
            cache=cache,
            progress=progress,
        )
    write_optuna_studies(plan.searches, folder / OPTUNA_FILE)
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


def _run(
    study_in: Callable[[Any], Any],
    *,
    keep_failed: bool,
    take_over: bool,
    until: str | None,
    max_seeds: int,
) -> None:
    """Run the study that is found with the help of a store."""
    from study.until import Until

    condition = Until.parse(until, max_seeds=max_seeds) if until is not None else None
    with StopRequest().watching() as request:
        from study.cost.command import keep_wall_time_of
        from study.cost.foresight import foresee, measurements_of, shared_gpus
        from study.progress import StudyDisplay
        from study.refusal import explained
        from study.runner import run_study
        from study.screens import print_outcome
        from trainables.record import open_store

        store = open_store()
        study = study_in(store)
        display = StudyDisplay()
        with explained():
            if study.resources.wants_shares:
                study = shared_gpus(study, measurements_of(store))
            display.foresee = partial(foresee, study=study, store=store)
            outcome = run_study(
                study,
                store=store,
                display=display,
                keep_failed=keep_failed,
                take_over=take_over,
                until=condition,
                request=request,
            )
        if outcome.taken_over_by:
            click.echo(f"{study.name} was taken over by {outcome.taken_over_by}; this process has left it")
        else:
            print_outcome(study.name, outcome)
            if outcome.is_complete and outcome.n_ran:
                keep_wall_time_of(display, study.name, store)
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
