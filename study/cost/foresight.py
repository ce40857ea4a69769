"""The estimate of a study from what its store knows: for `plan`, `run` and `status`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from study.cost.announced import announced_by
from study.cost.counts import OperationCounts
from study.cost.estimate import Estimate, estimate
from study.cost.forecast import Forecast
from study.cost.screens import misfit_lines, stack_lines
from study.cost.sharing import with_gpu_memory
from study.cost.slots import Capacity, capacity_here
from study.cost.speed import Measurements
from study.plan import Plan
from study.sections import Study
from study.stacks import stack_limits
from trainables.errors import TrackingError

if TYPE_CHECKING:
    from trainables.record import Store, TrialRecord  # which imports MLflow


def measurements_of(store: "Store", records: "Sequence[TrialRecord] | None" = None) -> Measurements:
    """Return what a store knows of the speed of trials.

    Args:
        records: all of the store, if they have been read.

    Raises:
        TrackingError: the store cannot be used.
    """
    from trainables.record import RecordReader
    from trainables.record.probes import read_probes

    return Measurements(RecordReader(store).trials() if records is None else records, read_probes(store))


def expect(
    plan: Plan,
    study: Study,
    measured: Measurements,
    *,
    counts: OperationCounts | None = None,
    slots: int | None = None,
    capacity: Capacity | None = None,
) -> Estimate:
    """Estimate the cost of a plan, of what its searches will draw too.

    Args:
        counts: of operations; None leaves FLOPs and memory unknown, which saves the counting.
        slots: trials at once; None is what the study file says.
        capacity: of the cluster; None is this machine, if trials run on it.
    """
    return estimate(
        plan,
        measured=measured,
        counts=counts,
        at_most=slots or study.slots,
        capacity=capacity or capacity_here(),
        announced=announced_by(plan),
        stack_of=lambda entry: stack_limits(entry, study, measured),
    )


def shared_gpus(study: Study, measured: Measurements) -> Study:
    """Return the study with what `gpu: auto` needs to know.

    Raises:
        UserError: nothing tells the memory of a GPU.
    """
    return with_gpu_memory(study, measured.gpu_memory_gb)


@dataclass(frozen=True)
class Foresight:
    """What is known of a run that begins.

    Attributes:
        forecast: None if the seconds of a trial are not known, or MLflow does not say: the run does without.
        notes: for people: how trials are trained together, and those that do not fit their GPU; their
            micro-batches will be halved.
    """

    forecast: Forecast | None = None
    notes: tuple[str, ...] = ()


def foresee(plan: Plan, study: Study, store: "Store") -> Foresight:
    """Look ahead at the beginning of a run, on the cluster that Ray has joined."""
    import ray

    have = ray.cluster_resources()
    capacity = Capacity(have.get("CPU", 0), have.get("GPU", 0))
    # Only who may run out of a GPU's memory waits for the counting.
    needs_gpu = any(entry.trial.resources.gpu for entry in plan.entries)
    try:
        measured = measurements_of(store)
    except TrackingError:
        return Foresight()
    counts = OperationCounts() if needs_gpu else None
    expected = expect(plan, study, measured, counts=counts, capacity=capacity)
    return Foresight(Forecast.of(expected), (*stack_lines(expected), *misfit_lines(expected)))
