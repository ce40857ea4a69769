"""Takes up a resumable state, or says why it does not fit."""

from collections.abc import Mapping

from torch import Tensor

from trainables.checkpoints import Contents
from trainables.errors import CheckpointError
from trainables.training import Training


def restore(training: Training, state: Contents) -> None:
    """Go on where a state was taken.

    Raises:
        CheckpointError: the state is of another network, or was written by another version of this program;
            part of it may have been taken up, so this training is of no more use.
    """
    expected = _shapes(training.network.module.state_dict())
    try:
        training.restore_state(state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the facts of the state are not those expected: {error!r}") from None
    except RuntimeError as error:
        # Of a GPU it tells nothing about the state.
        if type(error) is not RuntimeError or "CUDA" in str(error):
            raise
        raise CheckpointError(f"its weights are of another network: {_in_one_line(error)}") from None
    # They are loaded at the end, and would fail the trial there; before the first evaluation there are none.
    best = _shapes(training.selection.weights)
    if best and best != expected:
        unlike = sorted(name for name, _ in best.items() ^ expected.items())
        raise CheckpointError(f"its best weights are of another network, such as {unlike[0]!r}")


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _in_one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines()[:3])
