"""Which settings are stopped early: rules over how all settings of a cell stood at the same rung.

The rules look at what is known now and at nothing else, so that a setting that was stopped goes on when what
became known since lets it, and a driver that begins anew judges as the one before it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from study.search.section import PruningSection


@dataclass(frozen=True)
class Rungs:
    """The rungs of one cell, and its rule.

    Args:
        rises: whether a larger value is better.
    """

    section: PruningSection | None
    rises: bool

    def up_to(self, n_images: float) -> Iterator[int]:
        """Yield the rungs, in images seen, that lie before the end of a training of `n_images`."""
        if self.section is None:
            return
        rung = self.section.first_images
        while rung < n_images:
            yield rung
            rung *= self.section.factor

    def passed(
        self, evaluations: Iterable[tuple[float, float]], *, end: float = math.inf
    ) -> dict[int, float]:
        """Return what a trial had at each rung: at its first evaluation at or after it, but not at its end.

        Args:
            evaluations: images seen and the selection metric, ascending.
            end: images of the whole training, after which it is too late to stop.
        """
        found: dict[int, float] = {}
        for images, value in evaluations:
            if images >= end:
                break
            for rung in self.up_to(images + 1):
                found.setdefault(rung, value)
        return found

    def why_not(self, mine_id: str, reached: Mapping[str, Mapping[int, float]]) -> str | None:
        """Say why a setting does not go on, judged at the last rung that it has passed; None if it does.

        Args:
            reached: by trial id, what each setting had at the rungs it has passed.
        """
        mine = reached.get(mine_id, {})
        if self.section is None or not mine:
            return None
        rung = max(mine)
        others = [values[rung] for one, values in reached.items() if one != mine_id and rung in values]
        rule = _below_median if self.section.kind == "median" else _not_among_best
        why = rule(self.section, self._gain(mine[rung]), [self._gain(value) for value in others])
        return None if why is None else f"{mine[rung]:.4g} after {rung:,} images {why}"

    def _gain(self, value: float) -> float:
        # NaN is worse than anything.
        return float("-inf") if value != value else value if self.rises else -value


def _below_median(section: PruningSection, mine: float, others: list[float]) -> str | None:
    """Median stopping (Golovin et al. 2017), with the values at the rung in place of running means."""
    if len(others) < section.others or mine >= median(others):
        return None
    return f"is worse than the median of the {len(others)} others"


def _not_among_best(section: PruningSection, mine: float, others: list[float]) -> str | None:
    """Asynchronous successive halving (Li et al. 2020); of fewer than `factor`, the best goes on."""
    n_best = max(1, (len(others) + 1) // section.factor)
    if sum(other > mine for other in others) < n_best:
        return None
    return f"is not among the best {n_best} of {len(others) + 1}"
