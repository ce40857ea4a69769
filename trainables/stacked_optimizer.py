"""The update of many networks at once: torch's SGD and Adam, with numbers of their own for every row."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from trainables.checkpoints import pack_optimizer, unpack_optimizer
from trainables.devices import to_device

_SLOTS = {torch.optim.SGD: ("momentum_buffer",), torch.optim.Adam: ("exp_avg", "exp_avg_sq")}


class StackedOptimizer:
    """Does what `optimizers` would do, each to its row.

    Their state lies in matrices like the weights; the optimizers hold views of it, so that each can be saved
    at any time.

    Args:
        optimizers: of one class, each with the same parameters in the same order. Learning rates, momenta,
            decays, … may differ; SGD's `nesterov` may not.
        weights: (n_optimizers, n_weights); changed in place.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], weights: Tensor) -> None:
        self._optimizers, self._weights = tuple(optimizers), weights
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._is_adam = isinstance(optimizers[0], torch.optim.Adam)
        names = _SLOTS[torch.optim.Adam if self._is_adam else torch.optim.SGD]
        if not self._is_adam and all(group["momentum"] == 0 for group in self._groups):
            names = ()
        packed = [pack_optimizer(optimizer)[0] for optimizer in optimizers]
        # A slot not used yet is 0: SGD begins with the gradient, and so does 0 · momentum + gradient.
        self._slots = {
            name: torch.stack([self._slot_row(tensors, name) for tensors in packed]) for name in names
        }
        self._steps = [tensors.get("0.step", torch.zeros(())).cpu().clone() for tensors in packed]
        for row, optimizer in enumerate(optimizers):
            self._make_views(row, optimizer)

    def step(self, gradient: Tensor, *, rates: Sequence[float], clips: Sequence[float | None]) -> None:
        """Update all rows.

        Args:
            gradient: (n_optimizers, n_weights); it is used up.
            rates: the learning rate of each.
            clips: the greatest norm of the gradient of each.
        """
        if any(clip is not None for clip in clips):
            self._clip(gradient, clips)
        if any(group["weight_decay"] for group in self._groups):
            decay = self._column([group["weight_decay"] for group in self._groups])
            gradient.addcmul_(self._weights, decay)
        if self._is_adam:
            self._step_adam(gradient, rates)
        else:
            self._step_sgd(gradient, rates)

    def dissolve(self) -> None:
        """Give every optimizer a state of its own."""
        for optimizer in self._optimizers:
            tensors, plain = pack_optimizer(optimizer)
            steps = {name: tensor.clone() for name, tensor in tensors.items() if not tensor.ndim}
            unpack_optimizer(optimizer, {**tensors, **steps}, plain)

    def _step_sgd(self, gradient: Tensor, rates: Sequence[float]) -> None:
        minus_rates = self._column([-rate for rate in rates])
        if self._slots:
            momenta, buffer = [group["momentum"] for group in self._groups], self._slots["momentum_buffer"]
            momentum = self._column(momenta)
            buffer.mul_(momentum).add_(gradient)
            gradient = gradient.addcmul_(buffer, momentum) if self._groups[0]["nesterov"] else buffer
        self._weights.addcmul_(gradient, minus_rates)

    def _step_adam(self, gradient: Tensor, rates: Sequence[float]) -> None:
        # All memory before anything is changed, since there may be no room for it.
        scratch = torch.empty_like(gradient)
        numbers = [
            _adam_numbers(group, rate, int(step) + 1)
            for group, rate, step in zip(self._groups, rates, self._steps, strict=True)
        ]
        new1, keep2, new2, of_root, epsilon, size = (
            self._column(column) for column in zip(*numbers, strict=True)
        )
        for step in self._steps:
            step += 1
        first, second = self._slots["exp_avg"], self._slots["exp_avg_sq"]
        first.lerp_(gradient, new1)
        second.mul_(keep2).addcmul_(gradient.square_(), new2)
        torch.mul(first, size, out=scratch)
        torch.sqrt(second, out=gradient).mul_(of_root).add_(epsilon)
        self._weights.addcdiv_(scratch, gradient)

    def _clip(self, gradient: Tensor, clips: Sequence[float | None]) -> None:
        most = self._column([float("inf") if clip is None else clip for clip in clips])
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_((most / (norms + 1e-6)).clamp(max=1.0))  # as torch's clip_grad_norm_

    def _column(self, numbers: Sequence[float]) -> Tensor:
        column = torch.tensor(numbers, dtype=self._weights.dtype).unsqueeze(1)
        return to_device(column, self._weights.device)

    def _slot_row(self, tensors: dict[str, Tensor], slot: str) -> Tensor:
        parameters = self._groups[0]["params"]
        parts = [
            tensors.get(f"{i}.{slot}", torch.zeros_like(parameter)) for i, parameter in enumerate(parameters)
        ]
        return torch.cat([part.reshape(-1).to(self._weights) for part in parts])

    def _make_views(self, row: int, optimizer: torch.optim.Optimizer) -> None:
        group, parameters = self._groups[row], self._groups[row]["params"]
        has_slots = self._is_adam or group["momentum"] != 0
        edges = pairwise(accumulate((parameter.numel() for parameter in parameters), initial=0))
        for parameter, (start, stop) in zip(parameters, edges, strict=True):
            state = optimizer.state[parameter]
            for name, matrix in self._slots.items() if has_slots else ():
                state[name] = matrix[row, start:stop].view(parameter.shape)
            if self._is_adam:
                state["step"] = self._steps[row]


def _adam_numbers(group: dict, rate: float, step: int) -> tuple[float, ...]:
    """Return 1 - beta1, beta2, 1 - beta2, what the root of the second moment is multiplied by, epsilon, and
    minus the step. The differences are taken here: in float32 they would lose digits.
    """
    beta1, beta2 = group["betas"]
    root = (1 - beta2**step) ** -0.5
    return 1 - beta1, beta2, 1 - beta2, root, group["eps"], -rate / (1 - beta1**step)
