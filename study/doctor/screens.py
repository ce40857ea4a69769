"""What `transfusion doctor` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from study.doctor.finding import Fate, Treated
from study.doctor.node_report import NodeReport
from study.doctor.nodes import ANSWERS, CHECKS, Fleet, cells
from study.screens import plain_console

MAX_LISTED = 40
STYLES = {Fate.FOUND: "red", Fate.REPAIRED: "green", Fate.LEFT: "yellow"}


def print_fleet(fleet: Fleet, treated: Sequence[Treated], console: Console | None = None) -> None:
    """Print a table of nodes and checks."""
    console = console or plain_console()
    findings = [each.finding for each in treated]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("node", *CHECKS):
        table.add_column(column)
    for node in fleet.nodes:
        wrong = cells(node, findings)
        if wrong[ANSWERS]:
            table.add_row(node.name, f"[red]{_escaped(wrong[ANSWERS])}[/]")
            continue
        marks = [f"[red]{_escaped(wrong[check])}[/]" if wrong[check] else "[green]ok[/]" for check in CHECKS]
        table.add_row(node.name, *marks)
    console.print(table)
    for node in fleet.nodes:
        if node.report is not None:
            console.print(_facts(node.name, node.report), style="dim", markup=False, soft_wrap=True)


def print_findings(treated: Sequence[Treated], console: Console | None = None) -> None:
    """Print what was found, what became of it, and what to do."""
    console = console or plain_console()
    for each in treated[:MAX_LISTED]:
        found = each.finding
        ending = {
            Fate.FOUND: f"{'--repair would ' if found.repair else ''}{found.todo}",
            Fate.REPAIRED: f"repaired: {found.todo}",
            Fate.LEFT: f"left as it is: {each.reason}",
        }[each.fate]
        console.print(f"{found.check}: {found.where}: {found.what}", markup=False, soft_wrap=True)
        console.print(f"    → {ending}", style=STYLES[each.fate], markup=False, soft_wrap=True)
    if len(treated) > MAX_LISTED:
        console.print(f"… and {len(treated) - MAX_LISTED} more (--json lists all)", style="dim")


def summary(treated: Sequence[Treated], *, examined: str) -> str:
    """Say in one line what was looked at and what came of it."""
    n_repaired = sum(each.fate == Fate.REPAIRED for each in treated)
    rest = [each for each in treated if each.fate != Fate.REPAIRED]
    n_mendable = sum(each.finding.repair is not None for each in rest)
    if not treated:
        return f"{examined}: nothing is wrong"
    parts = [f"{n_repaired} repaired"] if n_repaired else []
    parts += [f"{len(rest)} found"] if rest else []
    parts += [f"{n_mendable} of them --repair can mend"] if n_mendable else []
    return f"{examined}: {', '.join(parts)}"


def _facts(name: str, report: NodeReport) -> str:
    free = ", ".join(f"{place.free_bytes / 1e9:.0f} GB for {kind}" for kind, place in report.places.items())
    gpus = ", ".join(report.gpus) or "no GPU"
    data = f"TRANSFUSION_DATA: {report.data_root or 'not set'}"
    return f"{name}: {report.n_cpus} cores, {gpus}; free: {free}; {data}"


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
