"""Weights and resumable states as safetensors files with digests.

Nothing is ever unpickled: tensors are safetensors, everything else is JSON in the file's header. torch is
imported with the first tensor: whoever only reads records, as a plan does, can do without.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from trainables.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Contents:
    """What a checkpoint file holds.

    Attributes:
        tensors: by name.
        facts: plain values: the step, the trial, and what a state needs besides tensors.
    """

    tensors: "dict[str, Tensor]"
    facts: dict[str, Any]


def write_checkpoint(path: Path, tensors: "Mapping[str, Tensor]", *, facts: Mapping[str, Any]) -> str:
    """Write tensors and facts, and return the SHA-256 of the file in hex.

    The file appears whole or not at all.
    """
    from safetensors.torch import save_file

    owned = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(owned, partial, metadata={"facts": json.dumps(dict(facts))})
    os.replace(partial, path)
    return digest(path)


def read_checkpoint(path: Path, *, sha256: str | None = None) -> Contents:
    """Read a file written by `write_checkpoint`.

    Raises:
        CheckpointError: the file is missing, truncated or altered.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.name}: the checkpoint file is missing")
    try:
        if sha256 is not None and (found := digest(path)) != sha256:
            raise CheckpointError(
                f"{path.name}: expected SHA-256 {sha256[:12]}…, found {found[:12]}…; "
                "the checkpoint is truncated or altered"
            )
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            if not isinstance(facts, dict):
                raise ValueError(f"its facts are no mapping but a {type(facts).__name__}")
            # Copies: what is read is a view of the file, which would keep a deleted one on its disk.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return Contents(tensors, facts)
    # A header that was written by others can hold what torch has no type for, or JSON that never ends. A
    # file that has its digest is whole: then it is this machine that lacks memory, or a disk that fails.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        is_gone = isinstance(error, FileNotFoundError)  # meanwhile
        if sha256 is not None and isinstance(error, OSError | MemoryError) and not is_gone:
            raise
        raise CheckpointError(f"{path.name}: not a readable safetensors file ({error})") from None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pack_optimizer(optimizer: "torch.optim.Optimizer") -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Split an optimizer's state into named tensors and plain values.

    Hyper-parameters are not stored: they follow from the trial's spec and the step.
    """
    from torch import Tensor

    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{slot}"] = value
            else:
                plain[f"{index}.{slot}"] = value
    return tensors, plain


def unpack_optimizer(
    optimizer: "torch.optim.Optimizer", tensors: "Mapping[str, Tensor]", plain: Mapping[str, Any]
) -> None:
    """Give an optimizer the state that `pack_optimizer` took.

    Raises:
        CheckpointError: the state is of another optimizer or network; nothing has been changed.
    """
    import torch
    from torch import Tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **plain}.items():
        index, _, slot = name.partition(".")
        if not (index.isdecimal() and int(index) < len(parameters) and slot):
            raise CheckpointError(f"the state of the optimizer holds {name!r}, which is of no parameter")
        shape = parameters[int(index)].shape
        if isinstance(value, Tensor) and value.ndim and value.shape != shape:
            raise CheckpointError(
                f"the state of the optimizer holds {name!r} of shape {tuple(value.shape)}, "
                f"expected {tuple(shape)}"
            )
        if isinstance(value, Tensor) and value.ndim:
            # In the memory format of its parameter, which fused kernels insist on.
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
