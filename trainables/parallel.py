"""One network trained by several processes, one per GPU, each on its part of every batch.

The first process keeps the network, its optimizer and the record, as if it were alone. For a step it sends
the weights to its helpers, all pass their parts of the batch forward and backward, and the gradients add up
in the first one, which updates. So helpers have no state to save or to restore, and gradients of
micro-batches are sent once a step. Batch norms take their statistics over all parts, so that the result is
that of one process with the whole batch.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.batch_norm import BATCH_NORMS, BatchNorm
from trainables.batches import Drawn
from trainables.determinism import is_refused
from trainables.devices import to_device
from trainables.errors import SpecError
from trainables.spec import TrialSpec
from trainables.training import Training

# A collective that waits longer has lost a process; the first one waits while the helpers open their data.
LOST_AFTER = timedelta(minutes=15)
# The end of a process is seen a moment after the end of its connections.
SEEN_WITHIN_S = 2.0
_LOST = "a process of this trial ended with exit code {code}; the log of the worker says why"


class LostHelperError(RuntimeError):
    """A process of a parallel training is gone; only fresh ones can go on."""


class ParallelTraining(Training):
    """A training whose steps are shared with helpers; evaluations are its own. `begin` comes first."""

    _helpers: "Helpers"

    def begin(self, spec: TrialSpec, *, data_root: Path | None, processes: int) -> None:
        """Start the helpers.

        Args:
            spec: of this training, resolved.
            processes: this one and its helpers.

        Raises:
            SpecError: a batch has fewer images than there are processes.
        """
        if self.batch_size < processes:
            raise SpecError(
                f"training.batch_size must be at least the number of GPUs of a trial, {processes}, got "
                f"{self.batch_size}; lower resources.gpu"
            )
        self._helpers = Helpers(
            spec, data_root=data_root, processes=processes, device=self.device, may_fill=self.may_fill
        )
        try:
            self._part = Part(self, rank=0, processes=processes)
        except BaseException:
            self._helpers.close()
            raise

    def close(self) -> None:
        """End the helpers."""
        super().close()
        self._helpers.close()

    def _accumulate_gradient(self) -> Tensor:
        drawn = self.batches.draw(self.step)
        try:
            self._helpers.take_step(self.step, drawn.chosen, micro_batch_size=self.micro_batch_size)
            return self._part.take(drawn)
        except RuntimeError as error:
            # What torch refuses, it refuses to all: no helper was lost.
            if is_refused(error) or (ended := self._helpers.ended()) is None:
                raise
            raise LostHelperError(_LOST.format(code=ended)) from error


class Part:
    """What one process does in every step."""

    def __init__(self, training: Training, *, rank: int, processes: int) -> None:
        self._training, self._rank, self._processes = training, rank, processes
        module = training.network.module
        self._learning = [*training.learning_parameters().values()]
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self._sent = [*module.parameters(), *buffers]
        synchronize_batch_norms(module)

    def take(self, drawn: Drawn) -> Tensor:
        """Pass a part of a batch forward and backward; return the loss of the whole in the first process.

        There the gradients are those of the whole batch.
        """
        training = self._training
        self._receive_weights()
        edges = [len(drawn.chosen) * rank // self._processes for rank in range(self._processes + 1)]
        mine = slice(edges[self._rank], edges[self._rank + 1])
        images, labels = training.batches.fetch(drawn.chosen[mine], drawn.changes.part(mine))
        of_all = torch.from_numpy(np.array(training.dataset.train.labels[drawn.chosen]))
        total = training.objective.weight(to_device(of_all, training.device))
        # All take as many turns as the largest part needs, since batch norms wait for each other.
        sizes = [stop - start for start, stop in pairwise(edges)]
        # … and none is without images, which have no mean.
        n_turns = min(math.ceil(max(sizes) / training.micro_batch_size), min(sizes))
        return self._send_gradients(training.backward(images, labels, n_parts=n_turns, total=total))

    def _receive_weights(self) -> None:
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in self._sent])
        dist.broadcast(flat, src=0)
        if self._rank:
            parts = flat.split([tensor.numel() for tensor in self._sent])
            for tensor, part in zip(self._sent, parts, strict=True):
                tensor.detach().copy_(part.view(tensor.shape))

    def _send_gradients(self, loss: Tensor) -> Tensor:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._learning]
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1)])
        dist.reduce(flat, dst=0)
        *parts, of_all = flat.split([*(gradient.numel() for gradient in gradients), 1])
        for parameter, gradient, part in zip(self._learning, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view(gradient.shape)) if self._rank == 0 else None
        return of_all.squeeze().clone()  # a view would keep the gradients alive until the losses are read


class Helpers:
    """The other processes of a parallel training, as its first one sees them."""

    def __init__(
        self,
        spec: TrialSpec,
        *,
        data_root: Path | None,
        processes: int,
        device: torch.device,
        may_fill: bool = True,
    ) -> None:
        self._device, self._is_leaving = device, False
        self._folder = tempfile.TemporaryDirectory(prefix="transfusion-parallel-")
        meeting = Path(self._folder.name) / "meeting"
        told = {
            "spec": spec.model_dump_json(),
            "data_root": str(data_root) if data_root else None,
            "threads": torch.get_num_threads(),
            "device": device.type,
            "meeting": str(meeting),
            "may_fill": may_fill,
            "is_deterministic": torch.are_deterministic_algorithms_enabled(),
            "processes": processes,
        }
        self._processes = [_start(json.dumps({**told, "rank": rank})) for rank in range(1, processes)]
        try:
            if device.type == "cuda":
                self.end_when_one_is_lost()
            join(meeting, rank=0, processes=processes, device=device)
        except BaseException:
            self._end()
            raise

    def take_step(self, step: int, chosen: np.ndarray, *, micro_batch_size: int) -> None:
        """Let them take their part of a step.

        Args:
            chosen: the images of the whole batch.
        """
        self._tell({"step": step, "chosen": chosen.tolist(), "micro_batch_size": micro_batch_size})

    def end_when_one_is_lost(self) -> None:
        """From now on, end this process when a helper has ended that was not to leave.

        NCCL waits for a process that is gone until its time is over, in its first call for ever, and what
        waits there hears no signal. A lost helper costs the worker anyway: only fresh processes can go on.
        """
        for process in self._processes:
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        code = process.wait()
        if not self._is_leaving:
            print(_LOST.format(code=code), file=sys.stderr, flush=True)
            os._exit(1)

    def ended(self) -> int | None:
        """Return the exit code of one that has ended; None if all are there."""
        deadline = time.monotonic() + SEEN_WITHIN_S
        while time.monotonic() < deadline:
            for process in self._processes:
                if (code := process.poll()) is not None:
                    return code
            time.sleep(0.05)
        return None

    def close(self) -> None:
        """Let them leave, and wait until they have."""
        self._is_leaving = True
        try:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # what they take part in ends while they are there
        finally:
            self._end()
        _leave(self._device)

    def _end(self) -> None:
        self._is_leaving = True
        for process in self._processes:
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # one that has died
                    process.stdin.close()
        for process in self._processes:
            process.wait()
        self._folder.cleanup()

    def _tell(self, what: dict[str, Any]) -> None:
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(what) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise LostHelperError(_LOST.format(code=process.wait())) from None


def _start(told: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "trainables.parallel_helper"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(told + "\n")
    process.stdin.flush()
    return process


def join(meeting: Path, *, rank: int, processes: int, device: torch.device) -> None:
    """Join the group of a parallel training; returns when all have."""
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=processes,
        timeout=LOST_AFTER,
    )


def _leave(device: torch.device) -> None:
    """Leave the group; who leaves last finds nobody there."""
    if device.type == "cuda":
        # The end of a NCCL group that is not aborted waits for all of it. torch has no public name for that.
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()


def synchronize_batch_norms(module: nn.Module) -> None:
    """Let batch norms that train take mean and variance over the batches of all processes.

    torch's SyncBatchNorm does the same on GPUs only, and under another class.
    """
    for layer in module.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.forward = _Synchronized(layer)  # type: ignore[method-assign,assignment]


class _SumOverAll(torch.autograd.Function):
    """The sum over all processes, whose loss is the sum of theirs: so the gradients add up, too."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        of_all = mine.clone()
        dist.all_reduce(of_all)
        return of_all

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        of_all = gradient.contiguous().clone()
        dist.all_reduce(of_all)
        return of_all


def _sum_over_all(mine: Tensor) -> Tensor:
    summed: Tensor = _SumOverAll.apply(mine)
    return summed


class _Synchronized:
    """The forward pass of a batch norm over all processes."""

    def __init__(self, layer: BatchNorm) -> None:
        self._layer, self._alone = layer, layer.forward

    def __call__(self, inputs: Tensor) -> Tensor:
        layer = self._layer
        if not layer.training:
            return self._alone(inputs)
        dims = [0, *range(2, inputs.ndim)]
        values = inputs.float()
        count = values.new_full((1,), values.numel() / values.shape[1])  # made there: nothing waits for it
        sums = _sum_over_all(torch.cat([values.sum(dims), count]))
        n, mean = sums[-1], sums[:-1] / sums[-1]
        shape = [1, -1, *([1] * (inputs.ndim - 2))]
        centred = values - mean.view(shape)
        # About the mean of all, not as a difference of squares, which would lose digits.
        variance = _sum_over_all(centred.square().sum(dims)) / n
        with torch.no_grad():
            self._note(mean, variance * (n / (n - 1)))
        scaled = centred * (variance + layer.eps).rsqrt().view(shape)
        if layer.affine:
            scaled = scaled * layer.weight.view(shape) + layer.bias.view(shape)
        return scaled.to(inputs.dtype)

    def _note(self, mean: Tensor, variance: Tensor) -> None:
        layer = self._layer
        if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
            return
        layer.num_batches_tracked += 1
        share = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance, share)
