"""A network's passes compiled by torch: fewer and larger kernels, where launching many takes longest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOST_GRAPHS = 64


class Compiled:
    """A network in training mode, compiled with the first step it takes part in.

    Attributes:
        has_run: a whole step was taken, so both passes are compiled.
    """

    def __init__(self, module: nn.Module) -> None:
        import torch._dynamo.config as dynamo  # takes seconds

        # A worker trains many settings, each with its graphs; at torch's 8 it would silently stop compiling.
        dynamo.recompile_limit, dynamo.fail_on_recompile_limit_hit = MOST_GRAPHS, True
        self._module = module
        # Dropout draws what it would draw otherwise. A batch that is cut into unequal parts has two shapes:
        # each is worth its own kernels.
        self._run = torch.compile(module, dynamic=False, options={"fallback_random": True})
        self.has_run = False

    def __call__(self, images: Tensor) -> Any:
        """Return the outputs of the module."""
        return self._run(images)

    def try_first(self, step: Callable[[], Tensor]) -> Tensor | str:
        """Take a step for the first time; if it cannot be compiled, return why, nothing changed.

        Args:
            step: sends images forward and backward; the gradients that it leaves are the caller's to drop.

        Raises:
            OutOfMemoryError: of the step, not of the compiler.
        """
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        try:
            result = step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of the compiler's many layers, and of the C++ compiler it calls
            for name, buffer in self._module.named_buffers():
                buffer.copy_(buffers[name])
            return f"{type(error).__name__}: {_first_line(error)}"
        self.has_run = True
        return result


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), "no reason given")
