"""Kernels that give the same bits every time, where a study wants no others.

On processors all that networks here are made of is such. On GPUs torch takes faster ones by default, whose
threads add up in whatever order they come: two trainings then differ in the last digits, and soon in more.
"""

import os

import torch


def set_determinism(is_wanted: bool) -> None:
    """Let torch use such kernels only, until the next call; what has none raises RuntimeError then."""
    if is_wanted:
        # Without it torch of 2025 refuses matrix products on GPUs; later ones see to their memory themselves.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Only a mistaken kernel reads memory before it is written, and filling all of it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(is_wanted)


def is_refused(error: Exception) -> bool:
    """Say whether torch has raised an error because there is no such kernel."""
    return isinstance(error, RuntimeError) and "deterministic" in str(error)
