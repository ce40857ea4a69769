"""Whether pretrained weights fit a network, told before anything is changed."""

from collections.abc import Mapping

from torch import Tensor

from trainables.architectures.architecture import HEAD
from trainables.architectures.stages import Network
from trainables.errors import WeightsError

_LISTED = 6

Source = Mapping[str, Tensor]


def check_fit(
    network: Network, source: Source, *, copied: tuple[str, ...], drawn: tuple[str, ...], whole: Network
) -> None:
    """Compare pretrained weights with what is asked of them, and with the names of the network.

    Only what is used has to be there: a Slim-ResNet takes its first stages from a wider network. But a key
    that no stage of `network` or `whole` has betrays the weights of something else, used or not.

    Args:
        source: its head is not looked at.
        copied: stages whose every tensor must be there, with the network's shape.
        drawn: keys of which only mean and variance are used, so that the shape is free.
        whole: the network before stages were dropped; only its names count.

    Raises:
        WeightsError: a key is missing or unexpected, or a tensor has another shape or is not finite; names
            the keys and says what to do.
    """
    expected = {key: value for stage in copied for key, value in network.stage_state(stage).items()}
    needed = expected.keys() | set(drawn)
    known = network.module.state_dict().keys() | whole.module.state_dict().keys()
    missing = [key for key in needed - source.keys() if not _may_lack(key)]
    unexpected = [key for key in source.keys() - known if not _is_of_head(key, network, whole)]
    misshapen = [key for key in expected if key in source and source[key].shape != expected[key].shape]
    not_finite = [key for key in needed if key in source and not source[key].isfinite().all()]
    shapes = [
        f"{key} must have shape {tuple(expected[key].shape)}, got {tuple(source[key].shape)}"
        for key in misshapen
    ]
    parts = {"missing": missing, "unexpected": unexpected, "shape": shapes, "not finite": not_finite}
    report = "; ".join(f"{title}: {_list(keys)}" for title, keys in parts.items() if keys)
    if report:
        advice = _advice(missing + unexpected, [(expected[key], source[key]) for key in misshapen])
        raise WeightsError(f"the pretrained weights do not fit the network. {report}. {advice}")


def _is_of_head(key: str, *networks: Network) -> bool:
    return any(network.stage(HEAD).holds(key) for network in networks)


def _may_lack(key: str) -> bool:
    # Files older than PyTorch 0.4.1, some of torchvision's among them, lack this counter of batch norms.
    return key.endswith(".num_batches_tracked")


def _list(keys: list[str]) -> str:
    keys = sorted(keys)
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


def _advice(misnamed: list[str], misshapen: list[tuple[Tensor, Tensor]]) -> str:
    if misnamed:
        return "Use weights of this architecture, with the keys of its state_dict and no prefix before them."
    if len(misshapen) == 1:
        expected, given = misshapen[0]
        if expected.dim() == given.dim() == 4 and {expected.shape[1], given.shape[1]} == {1, 3}:
            return f"The weights are for images of {given.shape[1]} channel(s): set dataset.channels to that."
    if misshapen:
        return "Use weights of this architecture."
    return "The training they come from has diverged; use other weights."
