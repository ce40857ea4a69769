"""How fast trials are: measured on finished ones and on probes, by setting and machine; never guessed.

Of a finished trial counts what its last attempt did itself (`trainables.record.circumstances.Spent`), so a
trial that was resumed or that repeated some work gives true rates; its overhead is left out, because its
seconds from start to end hold the pause. One that was slowed by others on its machine counts as it was: the
median over the trials of a setting is taken. One whose micro-batch was halved for want of memory is left out,
and so are those that were trained in a stack or on several GPUs.
Records older than these tags give the training rate on a GPU alone: of a processor they do not say how many
threads it was given.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Protocol

from study.cost.setting import setting_of
from study.cost.splits import KnownSizes
from trainables.probes import Probe, SettingProbe, SizesProbe, SpeedProbe, StackProbe
from trainables.spec import TrialSpec

if TYPE_CHECKING:
    from trainables.record import TrialRecord  # which imports MLflow


@dataclass(frozen=True)
class Place:
    """A machine as far as it decides the speed.

    Attributes:
        hardware: the GPU's name, or for a trial without one the processor's.
        threads: of the CPU, for a trial without a GPU; 0 with one.
        is_compiled: its networks are, there.
        is_deterministic: its kernels are; without a GPU they always are.
        gpu_share: how much of a GPU a trial gets beside others; None where that is not known, which is no
            place that any trial will run at.
    """

    hardware: str
    threads: int
    is_compiled: bool = False
    is_deterministic: bool = False
    gpu_share: float | None = 1.0


class Ways(Protocol):
    """How a trial is run, as far as it decides the speed."""

    @property
    def threads(self) -> int: ...
    @property
    def is_compiled(self) -> bool: ...
    @property
    def is_deterministic(self) -> bool: ...
    @property
    def gpu_share(self) -> float | None: ...


def place_of(hardware: str, ways: Ways, *, is_gpu: bool) -> Place:
    """Return the place of trials that are run so."""
    if not is_gpu:
        return Place(hardware, ways.threads, ways.is_compiled)
    return Place(hardware, 0, ways.is_compiled, ways.is_deterministic, ways.gpu_share)


@dataclass(frozen=True)
class Speed:
    """Seconds per image trained and scored, and per trial besides; None where nothing was measured."""

    train_s: float | None = None
    score_s: float | None = None
    overhead_s: float | None = None

    def trained_faster(self, times: float) -> "Speed":
        """Return the speed of a trial of which training, and nothing else, is so many times as fast."""
        return self if self.train_s is None else replace(self, train_s=self.train_s / times)

    def seconds(self, *, images_trained: int | None, images_scored: int | None) -> float | None:
        """Return what a trial takes; None if a part of it is not known."""
        trained = _times(images_trained, self.train_s)
        scored = _times(images_scored, self.score_s)
        if trained is None or scored is None or self.overhead_s is None:
            return None
        return trained + scored + self.overhead_s


@dataclass
class _Samples:
    train_s: list[float] = field(default_factory=list)
    score_s: list[float] = field(default_factory=list)
    overhead_s: list[float] = field(default_factory=list)


class Measurements:
    """What a store knows of the speed of trials.

    Args:
        records: of any study.
        probes: the oldest first.

    Attributes:
        sizes: of the splits of datasets.
        gpu_memory_gb: by the GPU's name.
    """

    def __init__(self, records: "Iterable[TrialRecord]" = (), probes: Iterable[Probe] = ()) -> None:
        probes = list(probes)
        finished = [record for record in records if record.status == "finished"]
        speeds = [probe for probe in probes if isinstance(probe, SpeedProbe)]
        counted = [probe for probe in probes if isinstance(probe, SizesProbe)]
        self.sizes = KnownSizes(finished, counted)
        self.gpu_memory_gb = _gpu_memory(finished, speeds)
        self._samples: dict[tuple[str, Place], _Samples] = {}
        self._whole: dict[tuple[object, ...], list[float]] = {}
        self._seen: dict[tuple[bool, str], None] = {}
        for record in finished:
            self._take(record)
        self._probes = {(probe.setting, _place(probe)): probe for probe in speeds}
        for probe in speeds:
            self._see(probe.is_gpu, probe.hardware)
        self._stacks: dict[tuple[str, Place], list[StackProbe]] = {}
        for stack in (probe for probe in probes if isinstance(probe, StackProbe)):
            before = self._stacks.get((stack.setting, _place(stack)), [])
            of_series = [one for one in before if one.series == stack.series]
            self._stacks[stack.setting, _place(stack)] = [*of_series, stack]

    def hardware(self, *, is_gpu: bool) -> list[str]:
        """Return the hardware of a kind that anything was measured on, the newest measured last."""
        return [name for kind, name in self._seen if kind == is_gpu]

    def speed(self, spec: TrialSpec, place: Place) -> Speed:
        """Return the speed of trials like this one at a place: medians of records, else the newest probe."""
        setting = setting_of(spec)
        if setting is None:
            seconds = self._whole.get(_whole_key(spec, place.hardware))
            return Speed(0.0, 0.0, median(seconds)) if seconds else Speed()
        samples = self._samples.get((setting, place), _Samples())
        probe = self._probes.get((setting, place))
        parts = {
            name: median(values) if values else getattr(probe, name, None)
            for name, values in vars(samples).items()
        }
        return Speed(**parts)

    def stacks(self, spec: TrialSpec, place: Place) -> Sequence[StackProbe]:
        """Return the stacks of trials like this one that were last probed at a place."""
        return self._stacks.get((setting_of(spec) or "", place), ())

    def start_s(self, place: Place) -> float | None:
        """Return the seconds until a worker is ready, as last probed at a place."""
        found = [probe.start_s for (_, where), probe in self._probes.items() if where == place]
        return found[-1] if found else None

    def did_not_fit(self, spec: TrialSpec, place: Place) -> bool:
        """Say whether a probe ran out of GPU memory."""
        probe = self._probes.get((setting_of(spec) or "", place))
        return probe is not None and probe.train_s is None

    def _see(self, is_gpu: bool, hardware: str) -> None:
        self._seen.pop((is_gpu, hardware), None)
        self._seen[is_gpu, hardware] = None

    def _take(self, record: "TrialRecord") -> None:
        found, setting = record.circumstances, setting_of(record.spec)
        is_shared = found.spent is not None and (found.spent.stacked > 0 or found.spent.processes > 1)
        if found.hardware is None or found.was_halved or is_shared:
            return
        self._see(found.is_gpu, found.hardware)
        if setting is None:
            if found.is_first_attempt and record.seconds > 0:
                self._whole.setdefault(_whole_key(record.spec, found.hardware), []).append(record.seconds)
            return
        spent = found.spent
        if spent is None:
            if found.is_gpu:
                rate = _rate(record.metrics.get("train_seconds", 0), record.metrics.get("images_seen", 0))
                self._at(setting, Place(found.hardware, 0)).train_s.extend(rate)
            return
        samples = self._at(setting, place_of(found.hardware, spent, is_gpu=found.is_gpu))
        samples.train_s.extend(_rate(spent.training_s, spent.images_trained))
        samples.score_s.extend(_rate(spent.scoring_s, spent.images_scored))
        overhead = record.seconds - spent.training_s - spent.scoring_s
        if found.is_first_attempt and overhead >= 0:
            samples.overhead_s.append(overhead)

    def _at(self, setting: str, place: Place) -> _Samples:
        return self._samples.setdefault((setting, place), _Samples())


def _place(probe: SettingProbe) -> Place:
    return place_of(probe.hardware, probe, is_gpu=probe.is_gpu)


def _whole_key(spec: TrialSpec, hardware: str) -> tuple[object, ...]:
    return spec.architecture, spec.training.method, spec.dataset, hardware


def _rate(seconds: float, images: float) -> list[float]:
    return [seconds / images] if images > 0 and seconds > 0 and math.isfinite(seconds) else []


def _times(images: int | None, seconds: float | None) -> float | None:
    if images == 0 or seconds == 0:
        return 0.0
    return None if images is None or seconds is None else images * seconds


def _gpu_memory(records: "Iterable[TrialRecord]", probes: Iterable[SpeedProbe]) -> Mapping[str, float]:
    found = [(r.circumstances.hardware, r.circumstances.gpu_memory_gb) for r in records]
    found += [(probe.hardware, probe.gpu_memory_gb) for probe in probes]
    return {name: memory for name, memory in found if name is not None and memory is not None}
