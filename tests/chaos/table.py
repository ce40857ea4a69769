"""The table of a chaos run, as a page of Markdown."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from tests.chaos.faults import KINDS
from tests.chaos.ledger import Ledger, median_and_most

PACKAGES = ("ray", "mlflow", "torch", "sqlalchemy")
INTRODUCTION = """# Chaos

`make chaos` runs one small study again and again, breaks its parts while it runs, and looks whether the
record is still true: one run per trial; no run that says it runs; every metric point once, with the value
of the undisturbed study; weights bit by bit those of the undisturbed study; digests valid; no orphaned
file; nothing finished redone; at most the checkpoint on its way lost.

Seconds go from the fault to the next committed progress of what it hit, outages included. Steps were trained
twice after the fault: median and most, with those that were trained while nothing could be committed.
""".splitlines()


def write_table(file: Path, ledgers: dict[str, Ledger], *, seed: int, interval: int, minutes: float) -> None:
    """Write what was done and what came of it.

    Args:
        ledgers: by the database.
        interval: optimizer steps between two states.
    """
    lines = [
        *INTRODUCTION,
        f"Seed {seed}; {_versions()}; {os.cpu_count()} cores; {minutes:.0f} minutes.",
        f"A trial commits a state every {interval} steps.",
        "",
        "| fault | " + " | ".join(f"on {name}" for name in ledgers) + " | seconds: median / most"
        " | trained twice: median / most |",
        "| --- |" + " ---: |" * (len(ledgers) + 2),
    ]
    for kind in KINDS:
        counts = [sum(s.kind == kind for s in ledger.strikes) for ledger in ledgers.values()]
        if sum(counts):
            seconds = [s for ledger in ledgers.values() for s in ledger.seconds_to_recover(kind)]
            steps = [float(r.steps) for ledger in ledgers.values() for k, r in ledger.repeats if k == kind]
            cells = [*map(str, counts), median_and_most(seconds), median_and_most(steps)]
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    totals = [str(len(ledger.strikes)) for ledger in ledgers.values()]
    lines.append("| **all** | " + " | ".join(totals) + " | | |")
    wrong = [violation for ledger in ledgers.values() for violation in ledger.violations]
    lines += [
        "",
        f"Violations: {len(wrong)}.",
        *(f"- {' '.join(violation.split())}" for violation in wrong),
        "",
        (
            f"Not counted: {sum(ledger.n_hidden for ledger in ledgers.values())} files "
            "`.artifact.uploading.*` that MLflow's server left of uploads it was killed in; it lists them to "
            "no client."
        ),
        "",
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines))


def _versions() -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)])
