"""The tags of a run that point to its committed weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.record import names


@dataclass(frozen=True)
class CheckpointRef:
    """Where weights lie, and how to know that they are whole.

    Attributes:
        name: `initial`, `best`, `final`, or `step-000100` of a series.
        path: the artifact path within the run.
        sha256: of the file, in hex.
        step: optimizer steps taken.
    """

    name: str
    path: str
    sha256: str
    step: int
    n_bytes: int


def checkpoint_refs(tags: Mapping[str, str]) -> dict[str, CheckpointRef]:
    """Return the committed checkpoints that a run's tags point to, by name; an unreadable tag is none."""
    pointers = [
        parse_pointer(value) for tag, value in tags.items() if tag.startswith(names.CHECKPOINT_PREFIX)
    ]
    refs = [ref for ref in pointers if ref is not None]
    return {ref.name: ref for ref in sorted(refs, key=lambda ref: ref.step)}


def state_ref(tags: Mapping[str, str]) -> CheckpointRef | None:
    """Return the committed resumable state that a run's tags point to."""
    return parse_pointer(tags.get(names.STATE, ""))


def parse_pointer(text: str) -> CheckpointRef | None:
    """Read a pointer tag; None if somebody has edited it into something else."""
    try:
        content: dict[str, Any] = json.loads(text)
        ref = CheckpointRef(**content)
    except (ValueError, TypeError):
        return None
    return ref if isinstance(ref.step, int) and isinstance(ref.path, str) else None
