"""What `plan` prints of the cost of a study, and the same as plain data for scripts."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from study.cost.estimate import Estimate, TrialCost
from study.cost.totals import Amount, AxisTotals, Totals, totals_by_axis, totals_left
from study.durations import duration
from study.plan import Plan, plan_rows
from study.sections import PriceSection
from study.stacks import StackUse
from trainables.probes import SpeedProbe, StackProbe

UNKNOWN = "unknown"
MAX_VALUES = 12
MAX_LABELS = 3
MAX_CHARACTERS = 60
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def print_cost(estimate: Estimate, price: PriceSection, console: Console) -> None:
    """Print what is still to be paid for, in total and by axis, and what one more value would cost."""
    if not estimate.open_trials:
        return
    console.print()
    console.print(_table(estimate, price))
    console.print(
        "one more: another value of an axis, from scratch: the mean of the present ones", style="dim"
    )
    for line in [
        *wall_lines(estimate),
        *stack_lines(estimate),
        *unknown_lines(estimate),
        *misfit_lines(estimate),
    ]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_probes(probes: Iterable[SpeedProbe], stacks: Iterable[StackProbe], console: Console) -> None:
    """Print how fast trials are, setting by setting, and what training them together gains."""
    listed = list(probes)
    if not listed:
        console.print("nothing to measure: no trial is open that is trained by gradient")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("setting")
    for column in ("images/s trained", "scored", "s a trial besides", "at once"):
        table.add_column(column, justify="right")
    for probe in listed:
        if probe.train_s is None or probe.score_s is None or probe.overhead_s is None:
            speeds = ["does not fit the GPU", "", ""]
        else:
            speeds = [f"{1 / probe.train_s:,.0f}", f"{1 / probe.score_s:,.0f}", f"{probe.overhead_s:.2f}"]
        table.add_row(probe.label, *speeds, str(probe.at_once))
    console.print(table)
    for stack in stacks:
        gains = f"{stack.gain:.2g} times the images/s of one by one" if stack.gain else stack.why_not
        console.print(f"{stack.label}: {stack.members} together: {gains}", soft_wrap=True)
    start = max(probe.start_s for probe in listed)
    where = ", ".join(dict.fromkeys(probe.hardware for probe in listed))
    console.print(f"on {where}; workers were ready after {duration(start)}", soft_wrap=True)


def wall_lines(estimate: Estimate) -> list[str]:
    """Say how long the study would take on its slots, and which chain of trials nothing shortens."""
    table, wall = estimate.timetable, estimate.wall_s
    if table is None or wall is None:
        slots = "" if estimate.n_slots else "; how many trials run at once is not known: give --slots"
        return [f"wall time: {UNKNOWN}{slots}"]
    chain = " → ".join(estimate.trials[trial].label for trial in table.critical_path)
    slots = f"{estimate.n_slots} slot{'s' if estimate.n_slots != 1 else ''}"
    return [
        f"wall time: {duration(wall)} on {slots}, measured on {', '.join(estimate.hardware)}",
        f"critical path: {duration(table.critical_seconds)}: {chain}",
    ]


def unknown_lines(estimate: Estimate) -> list[str]:
    """Say of which trials nothing is known, and how to know it."""
    lacking = [cost for cost in estimate.open_trials.values() if cost.left_s is None]
    by_reason = {
        "the size of their data is not known yet": [c for c in lacking if _lacks_sizes(c)],
        "no such trial was measured on this hardware": [c for c in lacking if not _lacks_sizes(c)],
    }
    return [
        f"{UNKNOWN}: {len(costs)} trials, {reason}: {_listed(c.label for c in costs)}; "
        "measure with: transfusion probe STUDY_FILE"
        for reason, costs in by_reason.items()
        if costs
    ]


def stack_lines(estimate: Estimate) -> list[str]:
    """Say how trials that could be trained together will be, and what that gains."""
    lines = (f"stacks: {use.label}: {_stacked(use)}" for use in estimate.stacks if use.n_trials > 1)
    return list(dict.fromkeys(lines))  # of several datasets, the same


def _stacked(use: StackUse) -> str:
    one_by_one = "times the images/s of one by one"
    if use.gain is not None:
        best = "one by one" if use.best_size == 1 else f"{use.best_size} together"
        hint = f"; with `stack: auto` they would go {best}" if use.gain < 1 else ""
        return f"{use.members} together, {use.gain:.2g} {one_by_one}{hint}"
    how = f"{use.members} together, counted as if alone" if use.members > 1 else "one by one"
    if use.best_gain is not None:
        return f"{how}; the fastest stack that was measured has {use.best_gain:.2g} {one_by_one}"
    if use.why_not is not None:
        return f"{how}; a stack that was tried could not be: {use.why_not}"
    return f"{how}; what a stack gains is not measured; measure with: transfusion probe STUDY_FILE"


def misfit_lines(estimate: Estimate) -> list[str]:
    """Name the trials that do not fit the GPU they get, once for each cell."""
    found: dict[str, str] = {}
    for cost in estimate.open_trials.values():
        if not cost.fits:
            cell = cost.label.rpartition(" · seed ")[0] or cost.label
            need = cost.whole.memory_bytes
            needs = f"needs {need / 1e9:.1f} GB" if need is not None else "ran out of memory in a probe"
            gpu = "GPU" if cost.resources.gpu >= 1 else f"{cost.resources.gpu:g} of a GPU"
            has = f", {gpu} of {cost.gpu_memory_gb:.1f} GB" if cost.gpu_memory_gb else ""
            found.setdefault(cell, f"does not fit: {cell}: {needs}{has}; its micro-batches will be halved")
    return list(found.values())


def cost_content(plan: Plan, estimate: Estimate, price: PriceSection) -> dict[str, Any]:
    """Return a plan and its cost as plain data; null is what is not known."""
    table = estimate.timetable
    return {
        "study": plan.study,
        "trials": [{**row, **_trial(estimate.trials[row["trial_id"]])} for row in plan_rows(plan)],
        "total": _content(totals_left(estimate, price)),
        "axes": {
            axis: {
                "values": [{"value": value, **_content(left)} for value, left in totals.left.items()],
                "one_more": _content(totals.one_more),
            }
            for axis, totals in totals_by_axis(estimate, price).items()
        },
        "currency": price.currency if price.is_given else None,
        "slots": estimate.n_slots,
        "wall_seconds": estimate.wall_s,
        "lower_bound_seconds": None if table is None else table.lower_bound,
        "critical_path": None if table is None else list(table.critical_path),
        "stacks": [{**vars(use)} for use in estimate.stacks if use.n_trials > 1],
        "measured_on": list(estimate.hardware),
    }


def _trial(cost: TrialCost) -> dict[str, Any]:
    """Return what is left of a trial, and the memory it needs."""
    hours = None if cost.left_s is None else cost.left_s / 3600
    return {
        "images_trained": cost.left.images_trained,
        "images_scored": cost.left.images_scored,
        "flops": cost.left.flops,
        "seconds": cost.left_s,
        "gpu_hours": None if hours is None else hours * cost.resources.gpu,
        "cpu_hours": None if hours is None else hours * cost.resources.cpu,
        "memory_bytes": cost.whole.memory_bytes,
        "fits": cost.fits,
    }


def _content(totals: Totals) -> dict[str, Any]:
    amounts = {name: value for name, value in vars(totals).items() if isinstance(value, Amount)}
    return {
        "trials": totals.n_trials,
        **{name: amount.value for name, amount in amounts.items()},
        "unknown": {name: amount.n_unknown for name, amount in amounts.items() if amount.n_unknown},
    }


def _table(estimate: Estimate, price: PriceSection) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("still to do")
    columns = ["trials", "training images", "FLOPs", "GPU-hours", "CPU-hours"]
    for column in [*columns, *([price.currency] if price.is_given else [])]:
        table.add_column(column, justify="right")
    table.add_row("in total", *_cells(totals_left(estimate, price)), style="bold")
    axes = totals_by_axis(estimate, price)
    for axis, totals in axes.items():
        _add_values(table, axis, totals)
    for axis, totals in axes.items():
        table.add_row(_shortened(f"one more {axis}"), *_cells(totals.one_more), style="cyan")
    return table


def _add_values(table: Table, axis: str, totals: AxisTotals) -> None:
    for value, left in list(totals.left.items())[:MAX_VALUES]:
        table.add_row(_shortened(f"{axis} {value}"), *_cells(left))
    if (n_more := len(totals.left) - MAX_VALUES) > 0:
        table.add_row(f"… and {n_more} more values of {axis}", style="dim")


def _cells(totals: Totals) -> list[str]:
    money = [] if totals.money is None else [_worded(totals.money, "{:,.2f}".format)]
    return [
        f"{totals.n_trials:,.4g}" if totals.n_trials % 1 else f"{totals.n_trials:,.0f}",
        _worded(totals.images, "{:,.0f}".format),
        _worded(totals.flops, _scaled),
        _worded(totals.gpu_hours, _hours),
        _worded(totals.cpu_hours, _hours),
        *money,
    ]


def _worded(amount: Amount, form: Any) -> str:
    if not amount.n_known and amount.n_unknown:
        return UNKNOWN
    return form(amount.known) + (f" + {UNKNOWN}" if amount.n_unknown else "")


def _hours(hours: float) -> str:
    return "0" if hours == 0 else f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _scaled(number: float) -> str:
    """Write operations with the prefix of the SI: `1.23 P`."""
    for factor, prefix in PREFIXES:
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.0f}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _lacks_sizes(cost: TrialCost) -> bool:
    return cost.left.images_trained is None or cost.left.images_scored is None


def _listed(labels: Iterable[str]) -> str:
    listed = list(labels)
    more = f" and {len(listed) - MAX_LABELS} more" if len(listed) > MAX_LABELS else ""
    return "; ".join(listed[:MAX_LABELS]) + more
