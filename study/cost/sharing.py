"""Which part of a GPU a trial gets under `gpu: auto`: as many share one as its memory holds."""

import math
from collections.abc import Mapping
from dataclasses import replace

from study.cost.counts import OperationCounts
from study.cost.workload import memory_bytes
from study.sections import Study
from trainables.errors import UserError
from trainables.hardware import gpu_names
from trainables.spec import TrialSpec

# For what the count of a trial's memory leaves out: CUDA's context, its libraries' workspaces, fragments.
MARGIN = 1.2
MOST_AT_ONCE = 8
# Ray counts parts of a GPU in ten-thousandths; rounded up, three thirds would not fit.
RESOLUTION = 10_000


def gpu_share(spec: TrialSpec, *, memory_gb: float, counts: OperationCounts) -> float:
    """Return 1/n for the most trials like this one, at most 8, that fit a GPU together; else a whole GPU.

    A GPU stays whole where the need is not known: for linear probes, and networks that cannot be counted.

    Args:
        memory_gb: of the GPU, 10^9 bytes.
    """
    operations = counts.of(spec) if spec.training.method == "gradient" else None
    if operations is None:
        return 1.0
    need = memory_bytes(spec.training, operations)
    n = int(min(MOST_AT_ONCE, memory_gb * 1e9 / (need * MARGIN)))
    return math.floor(RESOLUTION / n) / RESOLUTION if n > 1 else 1.0


def with_gpu_memory(study: Study, known_gb: Mapping[str, float]) -> Study:
    """Return a study of which `gpu: auto` can be told, with the memory of the GPU at hand, or the last seen.

    Args:
        known_gb: of GPUs that trials or probes ran on, by name, the newest last.

    Raises:
        UserError: no GPU's memory is known.
    """
    if not study.resources.wants_shares:
        return study
    names = [name for name in gpu_names() if name in known_gb] or list(known_gb)[-1:]
    if not names:
        raise UserError(
            "resources.gpu: auto shares GPUs by their memory, which no record and no probe tells yet; give "
            "resources.gpu_memory_gb, or measure it with: transfusion probe STUDY_FILE"
        )
    known = study.resources.model_copy(update={"gpu_memory_gb": known_gb[names[0]]})
    return replace(study, resources=known)
