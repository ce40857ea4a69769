"""The beginning of a network, with a new head (CheXtransfer, Ke et al. 2021)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from trainables.architectures.architecture import Stage

PROBED_PX = 96


class TruncatedNetwork(nn.Module):
    """A chain of modules up to one of them, then ReLU where a norm came last, global pooling and a linear
    head.

    The modules keep their names, so that weights of the whole network fit; the others are not there, and
    cost nothing.

    Args:
        whole: the network that is cut.
        chain: dotted names of modules that follow each other, from the input to the last that is kept.
        channels: of the images.
    """

    def __init__(self, whole: nn.Module, chain: tuple[str, ...], *, n_outputs: int, channels: int) -> None:
        super().__init__()
        self._chain = chain
        for name, child in whole.named_children():
            inner = [path.removeprefix(f"{name}.") for path in chain if path.startswith(f"{name}.")]
            if inner:  # a container of which a part is kept
                kept = OrderedDict((path, child.get_submodule(path)) for path in inner)
                self.add_module(name, nn.Sequential(kept))
            elif name in chain:
                self.add_module(name, child)
        # DenseNet's last norm has its ReLU in the forward pass of the whole network.
        self._ends_in_norm = isinstance(whole.get_submodule(chain[-1]), nn.BatchNorm2d)
        self.head = nn.Linear(self._width(channels), n_outputs)

    def _width(self, channels: int) -> int:
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self._features(torch.zeros(1, channels, PROBED_PX, PROBED_PX)).shape[1]
        finally:
            self.train(was_training)

    def _features(self, images: Tensor) -> Tensor:
        for path in self._chain:
            images = self.get_submodule(path)(images)
        return torch.relu(images) if self._ends_in_norm else images

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, n_outputs) logits of (n, channels, height, width) images."""
        return self.head(self._features(images).mean((2, 3)))


def kept_chain(chain: tuple[str, ...], last: Stage) -> tuple[str, ...]:
    """Return the beginning of a chain, up to the module in which the probe of a stage lies."""
    end = next(i for i, path in enumerate(chain) if last.probe == path or last.probe.startswith(f"{path}."))
    return chain[: end + 1]
