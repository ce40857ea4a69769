"""Where a trial ran, and what its parts took there: what the estimate of other trials is made from."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from trainables.record import names

CPU = "cpu"  # what the tag `device` says of a trial without a GPU


@dataclass(frozen=True)
class Spent:
    """What the last attempt at a trial did itself; what it took over from an earlier one is left out.

    Attributes:
        images_trained, training_s: looked at in optimizer steps, and the seconds these took.
        images_scored, scoring_s: looked at in evaluations and the final scores, and their seconds.
        n_train, n_val, n_test: sizes of the splits.
        micro_batch: images at once in training, perhaps halved for want of memory.
        threads: of the CPU.
        stacked: with how many others, at most, it was trained at once; its seconds are its share of theirs.
        processes: that shared its batches.
        is_compiled: its network was to be (`trainables.compiling`); the seconds of that are left out.
        is_deterministic: only kernels that give the same bits every time were used.
        gpu_share: the part of each GPU that was meant for it, beside others; 1 without a GPU, None of records
            older than this field.
    """

    images_trained: int
    training_s: float
    images_scored: int
    scoring_s: float
    n_train: int
    n_val: int
    n_test: int
    micro_batch: int
    threads: int
    stacked: int = 0
    processes: int = 1
    is_compiled: bool = False
    is_deterministic: bool = False
    gpu_share: float | None = None

    def to_tag(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Circumstances:
    """Of the last attempt at a trial; None where the record is older than the tag, or the tag was edited.

    Attributes:
        hardware: the GPU's name, or for a trial without one the processor's.
        host: the machine's name.
        is_first_attempt: nothing of the trial was done by an earlier process.
        was_halved: it ran out of GPU memory and went on with a smaller micro-batch.
    """

    hardware: str | None = None
    is_gpu: bool = False
    gpu_memory_gb: float | None = None
    host: str | None = None
    is_first_attempt: bool = False
    was_halved: bool = False
    spent: Spent | None = None


def circumstances_of(tags: Mapping[str, str]) -> Circumstances:
    """Read the tags of a trial's run."""
    device = tags.get(names.DEVICE)
    is_gpu = device not in (None, CPU)
    return Circumstances(
        hardware=device if is_gpu else tags.get(names.CPU_MODEL),
        is_gpu=is_gpu,
        gpu_memory_gb=_positive(tags.get(names.GPU_MEMORY_GB)),
        host=tags.get(names.HOST),
        is_first_attempt=tags.get(names.ATTEMPT, "").startswith("1-"),
        was_halved=names.MICRO_BATCH_SIZE in tags,
        spent=_spent(tags.get(names.SPENT)),
    )


def _spent(text: str | None) -> Spent | None:
    if text is None:
        return None
    try:
        content = json.loads(text)
        spent = Spent(**content)
        numbers = [n for name, n in asdict(spent).items() if name != "gpu_share" or n is not None]
        is_sound = all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
    except (ValueError, TypeError, RecursionError):
        return None
    return spent if is_sound else None


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
