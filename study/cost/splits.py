"""The sizes of splits: as published, or as earlier trials and probes on the same data found them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from study.extent import SplitSizes, published_sizes
from trainables.datasets.spec import DatasetSpec
from trainables.probes import SizesProbe

if TYPE_CHECKING:
    from trainables.record import TrialRecord  # which imports MLflow

# How large images are, and how their pixels are scaled, does not move one from split to split.
_NO_SAY = frozenset({"size_px", "channels", "normalize"})


def dataset_key(spec: DatasetSpec) -> str:
    """Return what decides the splits of a dataset, as text."""
    return spec.model_dump_json(exclude=set(_NO_SAY))


class KnownSizes:
    """Sizes by dataset; what was counted in the data goes before what was published."""

    def __init__(self, records: "Iterable[TrialRecord]", probes: Iterable[SizesProbe]) -> None:
        self._counted = {probe.dataset: SplitSizes(probe.train, probe.val, probe.test) for probe in probes}
        self._keys: dict[DatasetSpec, str] = {}
        for record in records:
            if (spent := record.circumstances.spent) is not None:
                sizes = SplitSizes(spent.n_train, spent.n_val, spent.n_test)
                self._counted[self._key(record.spec.dataset)] = sizes

    def of(self, spec: DatasetSpec) -> SplitSizes:
        """Return the sizes of a normal spec's splits."""
        return self._counted.get(self._key(spec)) or published_sizes(spec)

    def _key(self, spec: DatasetSpec) -> str:
        if spec not in self._keys:
            self._keys[spec] = dataset_key(spec)
        return self._keys[spec]
