"""How many trials run at once, as far as that is known without asking Ray."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from study.grid import Resources
from trainables.hardware import gpu_names, n_cpus

# Shares of a GPU are rounded: three thirds must fit.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Capacity:
    """What the machines have together."""

    cpus: float
    gpus: float


def capacity_here() -> Capacity | None:
    """Return what this machine has; None if trials run on a cluster."""
    return None if os.environ.get("RAY_ADDRESS") else Capacity(n_cpus(), len(gpu_names()))


def count_slots(wanted: Iterable[Resources], *, at_most: int | None, capacity: Capacity | None) -> int | None:
    """Return how many trials run at once; None if nothing tells.

    Trials that ask for different resources are taken for as many that ask for the mean.

    Args:
        wanted: by each open trial.
        at_most: what the study file or the command line says; alone it is taken at its word.
    """
    wants = list(wanted)
    if capacity is None or not wants:
        return at_most
    shares = [max(_share(want.cpu, capacity.cpus), _share(want.gpu, capacity.gpus)) for want in wants]
    mean = sum(shares) / len(shares)
    if mean > 1 + ROUNDING:
        return at_most  # they do not fit here: they are meant for another machine
    n_slots = max(1, int(1 / mean + ROUNDING)) if mean else len(wants)
    return n_slots if at_most is None else min(n_slots, at_most)


def _share(amount: float, available: float) -> float:
    if amount == 0:
        return 0.0
    return amount / available if available else float("inf")
