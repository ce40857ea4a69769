"""The tables that `plan`, `status` and the end of `run` print."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from study.plan import Plan, PlanEntry, State

if TYPE_CHECKING:
    from study.runner import Outcome  # which imports ray

STYLES = {
    State.DONE: "green",
    State.PARTIAL: "cyan",
    State.FAILED: "red",
    State.TO_RUN: "",
    State.WAITING: "dim",
    State.PRUNED: "dim",
}
MAX_ROWS = 60
MAX_LABELS = 3
PIPE_WIDTH = 160


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print what a study needs: by cell, by axis value, and what was left out and why."""
    console = console or plain_console()
    _print_cells(plan, console)
    _print_sources(plan, console)
    for excluded in plan.excluded:
        values = ", ".join(f"{axis} {value}" for axis, value in excluded.axes.items())
        console.print(f"excluded: {values}: {excluded.reason}", style="dim", markup=False, soft_wrap=True)
    if plan.n_merged:
        console.print(
            f"{plan.n_merged} combinations are the same training as another and are trained once", style="dim"
        )
    _print_failures(plan, console)
    _print_warnings(plan.warnings(), console)
    console.print(_summary(plan))


def print_outcome(study: str, outcome: "Outcome", console: Console | None = None) -> None:
    """Print how a run ended: what failed and why, and what to do next."""
    console = console or plain_console()
    _print_grouped("failed", outcome.failed, console, style="red")
    _print_grouped("not run", outcome.not_run, console, style="yellow")
    _print_warnings(outcome.warnings, console)
    counts = f"{outcome.n_ran} trials ran, {outcome.n_reused} were done before"
    if outcome.was_interrupted:
        console.print(
            f"{study} interrupted: {counts}. Go on with: transfusion resume {study}", soft_wrap=True
        )
    elif outcome.is_complete:
        console.print(f"{study} complete: {counts}. Next: transfusion analyze {study}", soft_wrap=True)
    else:
        console.print(
            f"{study} ended with {len(outcome.failed)} failed and {len(outcome.not_run)} not run: {counts}. "
            f"Mend the cause and run it again, or: transfusion analyze {study}"
        )


def plain_console() -> Console:
    """Return a console that a pipe does not narrow."""
    # In a pipe rich assumes 80 columns, which would break every row.
    return Console(width=None if Console().is_terminal else PIPE_WIDTH)


def _print_cells(plan: Plan, console: Console) -> None:
    cells: dict[str, list[PlanEntry]] = {}
    for entry in plan.entries:
        cells.setdefault(entry.cell_label, []).append(entry)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("cell")
    table.add_column("trials", justify="right")
    table.add_column("state")
    for entries in list(cells.values())[:MAX_ROWS]:
        states = {state: [e for e in entries if e.state == state] for state in State}
        words = [
            f"[{STYLES[s]}]{len(found)} {s}[/]" if STYLES[s] else f"{len(found)} {s}"
            for s, found in states.items()
            if found
        ]
        # What a waiting trial waits for is in the list of sources, what failed in the list of failures.
        shown = [entry for entry in entries if entry.state in (State.DONE, State.PARTIAL)]
        reasons = sorted({entry.reason for entry in shown if entry.reason})
        table.add_row(
            entries[0].cell_label,
            str(len(entries)),
            ", ".join(words) + (f"  [dim]{'; '.join(reasons)}[/]" if reasons else ""),
        )
    console.print(table)
    if len(cells) > MAX_ROWS:
        console.print(f"… and {len(cells) - MAX_ROWS} more cells (plan --json lists all)", style="dim")


def _print_grouped(word: str, pairs: tuple[tuple[str, str], ...], console: Console, *, style: str) -> None:
    """Print a line for each different reason, with the trials it holds for."""
    for reason in dict.fromkeys(reason for _, reason in pairs):
        labels = [label for label, why in pairs if why == reason]
        more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
        listed = "; ".join(labels[:MAX_LABELS])
        console.print(f"{word}: {listed}{more}: {reason}", style=style, markup=False, soft_wrap=True)


def _print_warnings(warnings: Iterable[str], console: Console) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", style="bold yellow", markup=False, soft_wrap=True)


def _print_sources(plan: Plan, console: Console) -> None:
    children = plan.children
    for entry in plan.entries:
        if entry.trial_id in children:
            console.print(
                f"source: {entry.label} ({entry.state}) → {len(children[entry.trial_id])} trials",
                style="cyan",
                markup=False,
            )


def _print_failures(plan: Plan, console: Console) -> None:
    for entry in plan.entries:
        if entry.state == State.FAILED:
            console.print(f"failed: {entry.label}: {entry.reason}", style="red", markup=False, soft_wrap=True)


def _summary(plan: Plan) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in plan.counts().items())
    return f"{plan.study}: {len(plan.entries)} trials: {counts}"
