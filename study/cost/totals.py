"""Sums over trials: in total, by value of each axis, and what one more value of an axis would take."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from study.axes import Scalar
from study.cost.estimate import Estimate, TrialCost
from study.sections import PriceSection


@dataclass(frozen=True)
class Amount:
    """A sum of which some parts may not be known.

    Attributes:
        known: the sum of the parts that are.
        n_unknown: parts that are not.
        n_known: parts that are.
    """

    known: float
    n_unknown: int
    n_known: int

    @classmethod
    def of(cls, parts: Iterable[float | None]) -> "Amount":
        """Sum parts, of which None is not known."""
        listed = list(parts)
        known = [part for part in listed if part is not None]
        return cls(float(sum(known)), len(listed) - len(known), len(known))

    @property
    def value(self) -> float | None:
        """The sum; None if any part is not known."""
        return None if self.n_unknown else self.known

    def __truediv__(self, divisor: float) -> "Amount":
        return Amount(self.known / divisor, self.n_unknown, self.n_known)


@dataclass(frozen=True)
class Totals:
    """Of some trials.

    Attributes:
        money: in the currency of the study file; None where it states no price.
    """

    n_trials: float
    images: Amount
    flops: Amount
    gpu_hours: Amount
    cpu_hours: Amount
    money: Amount | None


@dataclass(frozen=True)
class AxisTotals:
    """Of one axis.

    Attributes:
        left: by value, what is still to be done of the trials that have it. A source counts where all
            trials that need it have the value.
        one_more: what another value would take: the mean over the present ones, from scratch.
    """

    left: Mapping[Scalar, Totals]
    one_more: Totals


def totals_left(estimate: Estimate, price: PriceSection) -> Totals:
    """Sum what is still to be done."""
    return _left(estimate.open_trials.values(), price)


def totals_by_axis(estimate: Estimate, price: PriceSection) -> dict[str, AxisTotals]:
    """Return the sums of each axis that has several values, seeds included."""
    by_axis: dict[str, dict[Scalar, list[TrialCost]]] = {}
    for cost in estimate.trials.values():
        for axis, value in cost.axes.items():
            by_axis.setdefault(axis, {}).setdefault(value, []).append(cost)
    return {
        axis: AxisTotals(
            {value: _left([c for c in costs if c.is_open], price) for value, costs in values.items()},
            _mean_whole(list(values.values()), price),
        )
        for axis, values in by_axis.items()
        if len(values) > 1
    }


def _left(costs: Iterable[TrialCost], price: PriceSection) -> Totals:
    listed = list(costs)
    return _totals(listed, price, {id(c): c.left_s for c in listed}, is_whole=False)


def _mean_whole(groups: list[list[TrialCost]], price: PriceSection) -> Totals:
    listed = [cost for group in groups for cost in group]
    found = _totals(listed, price, {id(c): c.whole_s for c in listed}, is_whole=True)
    n = len(groups)
    return Totals(
        found.n_trials / n,
        found.images / n,
        found.flops / n,
        found.gpu_hours / n,
        found.cpu_hours / n,
        None if found.money is None else found.money / n,
    )


def _totals(
    costs: list[TrialCost], price: PriceSection, seconds: Mapping[int, float | None], *, is_whole: bool
) -> Totals:
    work = [cost.whole if is_whole else cost.left for cost in costs]
    gpu_hours = [_hours(cost.resources.gpu, seconds[id(cost)]) for cost in costs]
    cpu_hours = [_hours(cost.resources.cpu, seconds[id(cost)]) for cost in costs]
    money = [
        None if gpu is None or cpu is None else price.of(gpu_hours=gpu, cpu_hours=cpu)
        for gpu, cpu in zip(gpu_hours, cpu_hours, strict=True)
    ]
    return Totals(
        len(costs),
        Amount.of(one.images_trained for one in work),
        Amount.of(one.flops for one in work),
        Amount.of(gpu_hours),
        Amount.of(cpu_hours),
        Amount.of(money) if price.is_given else None,
    )


def _hours(amount: float, seconds: float | None) -> float | None:
    if amount == 0:
        return 0.0
    return None if seconds is None else amount * seconds / 3600
