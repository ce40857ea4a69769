"""The update of many rows is torch's of each, in the precision in which networks are trained."""

from typing import Any

import pytest
import torch
from torch import nn

from trainables.stacked_optimizer import StackedOptimizer

SGD: list[dict[str, object]] = [
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
    {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1},
    {"lr": 0.3, "momentum": 0.0, "weight_decay": 0.01},
]
NESTEROV: list[dict[str, object]] = [{"lr": lr, "momentum": 0.9, "nesterov": True} for lr in (0.1, 0.02)]
ADAM: list[dict[str, object]] = [
    {"lr": 0.001, "betas": (0.9, 0.999), "weight_decay": 0.0},
    {"lr": 0.01, "betas": (0.8, 0.9999), "weight_decay": 0.1, "eps": 1e-6},
]


def parameters_of(row: torch.Tensor) -> list[nn.Parameter]:
    return [nn.Parameter(row[:6].clone().view(2, 3)), nn.Parameter(row[6:].clone())]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.SGD, SGD), (torch.optim.SGD, NESTEROV), (torch.optim.Adam, ADAM)],
    ids=["sgd", "nesterov", "adam"],
)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_rows_are_updated_as_torch_updates_each(
    kind: type, settings: list[dict[str, object]], clip: float | None
) -> None:
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randn(len(settings), 10, generator=drawn)
    alone = [parameters_of(row) for row in weights]
    theirs = [kind(parameters, **one) for parameters, one in zip(alone, settings, strict=True)]
    mine = StackedOptimizer(
        [kind(parameters_of(row), **one) for row, one in zip(weights, settings, strict=True)], weights
    )
    for _ in range(200):
        gradient = torch.randn(weights.shape, generator=drawn)
        for parameters, optimizer, row in zip(alone, theirs, gradient, strict=True):
            parameters[0].grad, parameters[1].grad = row[:6].clone().view(2, 3), row[6:].clone()
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in theirs]
        mine.step(gradient, rates=rates, clips=[clip] * len(settings))
    expected = torch.stack([torch.cat([p.detach().reshape(-1) for p in one]) for one in alone])
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=2e-6)


def test_an_update_without_room_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    optimizers = [torch.optim.Adam(parameters_of(row), **one) for row, one in zip(weights, ADAM, strict=True)]
    stacked = StackedOptimizer(optimizers, weights)
    stacked.step(torch.ones(2, 10), rates=[0.1, 0.2], clips=[None, None])

    def state() -> list[torch.Tensor]:
        slots = [t for o in optimizers for one in o.state.values() for t in one.values()]
        return [tensor.clone() for tensor in (*slots, weights)]

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    before = state()
    with monkeypatch.context() as patched:
        for name in ("empty_like", "mul", "sqrt"):
            patched.setattr(torch, name, full)
        with pytest.raises(torch.OutOfMemoryError):
            stacked.step(torch.ones(2, 10), rates=[0.1, 0.2], clips=[None, None])
    assert all(torch.equal(*pair) for pair in zip(before, state(), strict=True))
