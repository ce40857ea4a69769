"""What `transfusion probe` finds out, as data; `trainables.record.probes` keeps it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SettingProbe:
    """What was measured of trials of one setting, on one machine, as many at once as the study runs.

    Attributes:
        setting: what decides the speed, as `study.cost.setting` writes it.
        label: of the network, for people.
        hardware: the GPU's name, or for a trial without one the processor's.
        threads: of the CPU.
        at_once: trials, or stacks of them, on the cluster at the same time.
        gpu_share, is_compiled, is_deterministic: as the study file asked for; None of probes older than the
            first of them.
    """

    setting: str
    label: str
    hardware: str
    is_gpu: bool
    threads: int
    at_once: int
    gpu_share: float | None = field(default=None, kw_only=True)
    is_compiled: bool = field(default=False, kw_only=True)
    is_deterministic: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class SpeedProbe(SettingProbe):
    """How fast trials are.

    Attributes:
        gpu_memory_gb: of the GPU, 10^9 bytes.
        train_s, score_s: seconds per image; None if it did not fit the GPU.
        overhead_s: seconds per trial besides: opening its run, building the network, storing.
        start_s: seconds until a worker is ready for its first trial.
    """

    gpu_memory_gb: float | None
    train_s: float | None
    score_s: float | None
    overhead_s: float | None
    start_s: float


@dataclass(frozen=True)
class StackProbe(SettingProbe):
    """How fast trials are when they are trained together.

    Attributes:
        members: trials in a stack.
        alone_s: seconds per image of one trial alone, just before.
        stacked_s: seconds of the stack per image, those of all members counted; None if there was none.
        why_not: why there was none.
        series: what the sizes that were measured after each other have in common.
    """

    members: int
    alone_s: float
    stacked_s: float | None
    why_not: str | None
    series: str

    @property
    def gain(self) -> float | None:
        """Images/s of the stack, by those of its members one by one; None if there was none."""
        return self.alone_s / self.stacked_s if self.stacked_s else None


@dataclass(frozen=True)
class SizesProbe:
    """The sizes of the splits of a dataset, as its table tells them.

    Attributes:
        dataset: its specification as JSON, as `study.cost.splits` writes it.
        label: what people call it.
    """

    dataset: str
    label: str
    train: int
    val: int
    test: int


Probe = SpeedProbe | StackProbe | SizesProbe
