"""What `transfusion data` prints."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from study.screens import plain_console
from trainables.datasets.inspection import DatasetRow, Inspection
from trainables.datasets.preparation import Prepared
from trainables.datasets.table import SPLITS

LISTED = 10
MAX_CLASSES = 40


def print_datasets(rows: Iterable[DatasetRow], *, root: Path | None, console: Console | None = None) -> None:
    """Print the datasets of the catalog."""
    console = console or plain_console()
    table = _table("dataset", "reader", "below TRANSFUSION_DATA", "there", "images")
    for row in rows:
        there = "[green]yes[/]" if row.is_present else "[dim]no[/]"
        if row.path is None:
            there = "[green]embedded[/]"
        n = f"{row.n_published:,}" if row.n_published is not None else "–"
        table.add_row(row.name, row.reader, row.path or "–", there, n)
    console.print(table)
    console.print(f"TRANSFUSION_DATA: {root or 'not set'}", style="dim", markup=False, soft_wrap=True)


def print_inspection(
    name: str, found: Inspection, *, is_partial: bool, console: Console | None = None
) -> None:
    """Print what was found of a dataset, beside what was published."""
    console = console or plain_console()
    _print_counts(found, console)
    _print_samples(found, console)
    groups = f"{found.n_groups:,} groups (patients, lesions or single images)"
    console.print(f"{found.n_images:,} images in {groups}", markup=False)
    _print_listed("groups in several splits", found.crossing_groups, console)
    _print_listed("images cannot be read", found.broken, console)
    if found.problem is not None:
        console.print(found.problem, style="red", markup=False, soft_wrap=True)
    if found.digest is not None:
        console.print(f"digest {found.digest}", style="dim", markup=False, soft_wrap=True)
    if found.is_ok:
        is_published = any(count.expected is not None for count in found.counts)
        word = "complete" if is_published else "can be loaded; no counts are published to compare it with"
        console.print(f"{name}: {word}", style="green", markup=False)
    elif found.digest is not None:
        word = "a part, as the dataset says" if is_partial else "not what was published; see partial"
        console.print(f"{name}: {word}", style="yellow")


def print_prepared(name: str, made: Prepared, console: Console | None = None) -> None:
    """Print what preparing took."""
    console = console or plain_console()
    _print_listed("images cannot be read and are left out", made.skipped, console)
    size = f"{made.n_images:,} images, {made.n_bytes / 2**20:,.1f} MiB"
    if made.was_there:
        console.print(f"{name}: {size}, prepared before")
    else:
        rate = made.n_images / max(made.seconds, 1e-9)
        console.print(f"{name}: {size} in {made.seconds:.1f} s ({rate:,.0f} images/s)")


def _print_counts(found: Inspection, console: Console) -> None:
    table = _table("published", "expected", "found", "")
    for count in found.counts:
        if count.expected is None:
            table.add_row(count.what, "–", f"{count.found:,}", "")
        else:
            sign = "[green]✓[/]" if count.is_ok else "[red]✗[/]"
            table.add_row(count.what, f"{count.expected:,}", f"{count.found:,}", sign)
    if found.counts:
        console.print(table)


def _print_samples(found: Inspection, console: Console) -> None:
    if not found.samples:
        return
    table = _table("class", *SPLITS)
    classes = list(found.samples[SPLITS[0]])
    for name in classes[:MAX_CLASSES]:
        table.add_row(name, *(f"{found.samples[split].get(name, 0):,}" for split in SPLITS))
    console.print(table)
    if len(classes) > MAX_CLASSES:
        console.print(f"… and {len(classes) - MAX_CLASSES} more classes", style="dim")


def _print_listed(what: str, entries: tuple[str, ...], console: Console) -> None:
    if entries:
        more = f"; and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
        text = f"{len(entries)} {what}: {'; '.join(entries[:LISTED])}{more}"
        console.print(text, style="red", markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        is_number = column in ("images", "expected", "found", *SPLITS)
        table.add_column(column, justify="right" if is_number and number else "left")
    return table
