"""One trial with its lineage in this process, without Ray."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from study.stopping import StopRequest
from trainables.identity import trial_id
from trainables.progress import Progress
from trainables.record import Store
from trainables.resolution import resolve
from trainables.spec import RunOptions, TrialSpec
from trainables.trial import run_trial


def run_alone(
    spec: TrialSpec, *, store: Store, threads: int, data_root: Path | None, request: StopRequest | None = None
) -> bool:
    """Train a trial after the trials it needs, printing a line per evaluation.

    Args:
        request: to stop: the trial in flight commits a state and leaves. The caller has it watch for signals.

    Returns:
        True if the trial, or one that it needs, failed.

    Raises:
        KeyboardInterrupt: it was asked to stop.
    """
    options, request = RunOptions(threads=threads), request or StopRequest()
    for trial in dict.fromkeys(lineage(resolve(spec, data_root))):
        click.echo(f"{trial.label}  ({trial_id(trial)})")
        request.defer()
        with closing(run_trial(trial, store=store, options=options, data_root=data_root)) as running:
            try:
                for progress in running:
                    _echo(progress)
                    if progress.status in ("failed", "taken over"):
                        return True
                    if request.is_made:
                        break
            except KeyboardInterrupt:
                click.echo("left at once: run it again, and it goes on from its last state", err=True)
                raise
        if request.is_made:
            click.echo("interrupted: run it again, and it goes on from here", err=True)
            raise KeyboardInterrupt
    return False


def lineage(spec: TrialSpec) -> Iterator[TrialSpec]:
    """Yield the trials that lead to a resolved spec, the oldest first, itself last."""
    for parent in spec.parents:
        yield from lineage(parent)
    yield spec


def _echo(progress: Progress) -> None:
    if progress.status in ("failed", "taken over"):
        click.echo(f"  {progress.status}: {progress.cause}", err=True)
    elif progress.status == "reused":
        click.echo("  already finished")
    elif progress.metrics:
        shown = ("val_auroc", "val_loss", "train_loss", "test_auroc", "test_accuracy")
        scores = "  ".join(
            f"{name} {progress.metrics[name]:.3f}" for name in shown if name in progress.metrics
        )
        click.echo(f"  step {progress.step}/{progress.total_steps}  {scores}")
