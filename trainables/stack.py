"""Several trainings whose steps are taken as one: the same network, many weights.

A small network leaves a large GPU idle: most of a step is waiting for the next kernel to be launched. Here
the weights of all members lie in the rows of one matrix, one forward and backward pass (`torch.func`'s vmap
over `functional_call`) serves all, and one update. Each member keeps its own batches, learning rate, running
statistics, losses and state: its parameters, its buffers and the slots of its optimizer are views of its row,
so that it can be evaluated and saved as if it trained alone.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainables.augmentation import Changes
from trainables.batch_norm import BATCH_NORMS, lone_values_named
from trainables.freezing import set_training_mode
from trainables.stacked_optimizer import StackedOptimizer
from trainables.training import Training, widened


class CannotStackError(Exception):
    """Why networks cannot be trained together; they can one by one."""


class Stack:
    """Trainings of one `stacking_key`, on one device and of the same dataset.

    While they are stacked, only `take_step` may train them; afterwards `dissolve` gives each memory of its
    own.

    Args:
        members: at any step each.

    Raises:
        CannotStackError: the network draws random numbers while it trains, which would not be those of its
            own seed, or does what vmap cannot.
        SpecError: the batch is too small for batch norm. No member is changed by either.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        self.members = tuple(members)
        self._first = self.members[0]
        set_training_mode(self._first.network, self._first.spec.trainable)
        # Of the skeleton only the structure and the modes of its layers are used.
        self._skeleton = copy.deepcopy(self._first.network.module).to("meta")
        if self._first.spec.precision == "bfloat16":
            if self._first.device.type == "cpu":
                raise CannotStackError("on processors autocast to bfloat16 does not reach into a stack")
            give_batch_norms_float32(self._skeleton)
        self._rehearse()
        self._has_stepped = False
        self._weights = torch.stack([_row(member.learning_parameters().values()) for member in self.members])
        self._parameters = {
            name: part.detach().requires_grad_() for name, part in self._parts(self._weights).items()
        }
        fixed = [_fixed(member) for member in self.members]
        self._fixed = {name: torch.stack([one[name] for one in fixed]) for name in fixed[0]}
        self._optimizer = StackedOptimizer([member.optimizer for member in self.members], self._weights)
        for row, member in enumerate(self.members):
            for name, parameter in member.learning_parameters().items():
                parameter.data = self._parameters[name].data[row]
            _set_fixed(member.network.module, {name: stacked[row] for name, stacked in self._fixed.items()})

    def take_step(self) -> None:
        """Take one optimizer step of every member.

        A loss that is not finite is noted like any other, and raised when its member's losses are read. The
        seconds are for the caller to share out (`Training.spend`).

        Raises:
            OutOfMemoryError: in a first step nothing was changed; later, running statistics may have moved.
            CannotStackError: of the first step: the backward pass does what vmap cannot; nothing was changed.
        """
        images, labels = self._batches()
        losses, parts = self._gradients(images, labels)
        gradient = torch.cat([part.reshape(len(self.members), -1) for part in parts], dim=1)
        self._optimizer.step(
            gradient,
            rates=[member.rate for member in self.members],
            clips=[member.spec.gradient_clip for member in self.members],
        )
        for member, loss in zip(self.members, losses.detach(), strict=True):
            member.note_step(loss, n_companions=len(self.members) - 1)

    def dissolve(self) -> None:
        """Give every member memory of its own, to go on alone or in another stack."""
        for member in self.members:
            for parameter in member.learning_parameters().values():
                parameter.data = parameter.data.clone()
            fixed = {name: tensor.clone() for name, tensor in _fixed(member).items()}
            _set_fixed(member.network.module, fixed)
            member.network.module.to(memory_format=member.memory_format)
        self._optimizer.dissolve()

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return losses and gradients; running statistics are as before if the first step fails."""
        before = {} if self._has_stepped else {name: t.clone() for name, t in self._fixed.items()}
        try:
            losses = self._losses(images, labels)
            # What takes no part in the loss has a gradient of 0.
            wanted = list(self._parameters.values())
            parts = torch.autograd.grad(losses.sum(), wanted, allow_unused=True, materialize_grads=True)
        except RuntimeError as error:
            for name, tensor in before.items():
                self._fixed[name].copy_(tensor)
            if self._has_stepped or isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
                raise
            raise CannotStackError(str(error).partition("\n")[0]) from None
        self._has_stepped = True
        return losses, parts

    def _batches(self) -> tuple[Tensor, Tensor]:
        """Return the images and labels of all members, (n_members, batch_size, …), fetched together."""
        drawn = [member.batches.draw(member.step) for member in self.members]
        chosen = np.concatenate([one.chosen for one in drawn])
        changes = Changes.joined([one.changes for one in drawn])
        images, labels = self._first.batches.fetch(chosen, changes)
        n, size = len(self.members), self._first.batch_size
        return images.view(n, size, *images.shape[1:]), labels.view(n, size, *labels.shape[1:])

    def _forward(
        self, images: Tensor, parameters: Mapping[str, Tensor], fixed: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the logits of every head, (n_members, batch_size, n_classes), the main one first.

        Of each argument the first dimension is the members'.

        Raises:
            SpecError: batch norm has one value of a channel.
        """

        def one(images: Tensor, parameters: Mapping[str, Tensor], fixed: Mapping[str, Tensor]) -> Any:
            return functional_call(self._skeleton, {**parameters, **fixed}, (images,))

        with lone_values_named(), self._first.computing():
            outputs = torch.vmap(one)(images, parameters, fixed)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of every member, (n_members,)."""
        main, *auxiliary = self._forward(images, self._parameters, self._fixed)
        loss = self._mean_losses(main, labels)
        for logits in auxiliary:
            loss = loss + self._first.network.auxiliary_weight * self._mean_losses(logits, labels)
        return loss

    def _mean_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return mean losses, (n_members,), of logits (n_members, batch_size, n_classes)."""
        objective, n = self._first.objective, len(self.members)
        flat = labels.flatten(0, 1)
        sums = objective.each(widened(logits).flatten(0, 1), flat).view(n, -1).sum(1)
        weights = objective.weights(flat).view(n, -1).sum(1, dtype=sums.dtype)
        return sums / torch.where(weights == 0, 1, weights)

    def _rehearse(self) -> None:
        """Take the forward pass of a step on the meta device, where nothing is computed."""
        first, n = self._first, len(self.members)

        def stacked(tensor: Tensor) -> Tensor:
            return tensor.new_empty((n, *tensor.shape), device="meta")

        size, shape = first.batch_size, first.dataset.train.images.shape[1:]
        images = torch.empty(n, size, *shape, device="meta")
        parameters = {name: stacked(p.data) for name, p in first.learning_parameters().items()}
        fixed = {name: stacked(tensor) for name, tensor in _fixed(first).items()}
        try:
            self._forward(images, parameters, fixed)
        except RuntimeError as error:
            raise CannotStackError(str(error).partition("\n")[0]) from None

    def _parts(self, matrix: Tensor) -> dict[str, Tensor]:
        """Cut a matrix with a row per member into views, (n_members, *shape), of the parameters."""
        shapes = {name: p.shape for name, p in self._first.learning_parameters().items()}
        edges = pairwise(accumulate((shape.numel() for shape in shapes.values()), initial=0))
        return {
            name: matrix[:, start:stop].view(len(matrix), *shape)
            for (name, shape), (start, stop) in zip(shapes.items(), edges, strict=True)
        }


def give_batch_norms_float32(module: nn.Module) -> None:
    """Let batch norms have their inputs in the precision of their statistics, which under vmap they need.

    What they return is in that of what they were given, as without vmap.
    """
    for layer in module.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.forward = partial(_in_float32, layer.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return forward(inputs.float()).to(inputs.dtype)


def _row(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _fixed(member: Training) -> dict[str, Tensor]:
    """Return what no gradient changes: buffers, and the parameters of stages that do not learn."""
    module = member.network.module
    parameters = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    return {**parameters, **dict(module.named_buffers())}


def _set_fixed(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, tensor in tensors.items():
        if name in parameters:
            parameters[name].data = tensor
        else:
            owner, _, buffer = name.rpartition(".")
            module.get_submodule(owner)._buffers[buffer] = tensor
