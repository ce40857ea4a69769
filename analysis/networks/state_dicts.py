"""State dicts that are looked at without loading them into a network."""

from collections.abc import Mapping, Sequence

from torch import Tensor

StateDict = Mapping[str, Tensor]


def entry(weights: StateDict, name: str, *, shape: Sequence[int]) -> Tensor:
    """Return an entry of a state dict.

    Raises:
        ValueError: it is not there or has another shape: the state dict is of another network.
    """
    if name not in weights:
        raise ValueError(f"weights: {name} is missing; the state dict is of another network")
    found = weights[name]
    if tuple(found.shape) != tuple(shape):
        raise ValueError(
            f"weights: expected {name} of shape {tuple(shape)}, got {tuple(found.shape)}; the state dict is "
            "of another network"
        )
    return found.detach()
