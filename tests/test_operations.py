"""Operations and memory of networks, against what torchvision publishes and against counting by hand."""

import pytest
import torch
import torchvision
from torch import nn

from trainables.architectures.catalog import ARCHITECTURES
from trainables.architectures.spec import ArchitectureSpec
from trainables.architectures.stages import build_network
from trainables.counting import count_operations
from trainables.operations import Operations
from trainables.spec import TrainableSpec

PUBLISHED = {
    name: next(one for one in architecture.published if one.startswith("torchvision/"))
    for name, architecture in ARCHITECTURES.items()
    if any(one.startswith("torchvision/") for one in architecture.published)
}


def count(name: str, *, size_px: int = 32, n_outputs: int = 2, **trainable: int) -> Operations:
    return count_operations(
        ArchitectureSpec(name=name),
        TrainableSpec(**trainable),  # type: ignore[arg-type]
        size_px=size_px,
        channels=3,
        n_outputs=n_outputs,
    )


@pytest.mark.parametrize("name", ["alexnet", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0"])
def test_counts_are_those_that_torchvision_publishes(name: str) -> None:
    entry, member = PUBLISHED[name].removeprefix("torchvision/").split(".")
    meta = getattr(torchvision.models, entry)[member].meta
    counted = count(name, size_px=224, n_outputs=1000)
    assert counted.n_params == meta["num_params"]
    # Published are 10^9 multiply-adds, rounded to three digits.
    assert counted.forward_flops / 2e9 == pytest.approx(meta["_ops"], rel=0.01)


def test_a_training_step_costs_three_forward_passes_but_for_the_gradient_of_the_images() -> None:
    network = build_network("cbr_tiny", n_outputs=2, channels=3)
    by_hand: dict[str, int] = {}

    def note(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple, output) -> None:  # type: ignore[no-untyped-def,type-arg]
            by_hand[name] = 2 * output[0].numel() * module.weight[0].numel()  # type: ignore[union-attr,index]

        return hook

    for name, module in network.module.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note(name))
    network.module.eval()(torch.zeros(1, 3, 32, 32))
    counted = count("cbr_tiny")
    assert counted.forward_flops == sum(by_hand.values())
    assert counted.training_flops == 3 * sum(by_hand.values()) - next(iter(by_hand.values()))


def test_what_does_not_learn_costs_no_backward_pass_no_gradient_and_keeps_nothing() -> None:
    whole, head_only = count("resnet18"), count("resnet18", first=0, last=0)
    assert head_only.forward_flops == whole.forward_flops
    assert head_only.training_flops < 1.001 * head_only.forward_flops
    assert head_only.n_trainable_params == 512 * 2 + 2
    assert head_only.activation_bytes < whole.activation_bytes / 100


def test_memory_grows_with_the_micro_batch_and_with_the_optimizer() -> None:
    counted = Operations(1, 3, n_params=100, n_trainable_params=60, activation_bytes=1000)
    assert counted.memory_bytes(micro_batch=8, slots_per_param=1) == (100 + 60 + 60) * 4 + 8000
    assert counted.memory_bytes(micro_batch=8, slots_per_param=2) == (100 + 60 + 120) * 4 + 8000


def test_activations_are_what_autograd_keeps() -> None:
    # A larger image has proportionally larger maps; the head's are negligible.
    small, large = count("cbr_tiny", size_px=32), count("cbr_tiny", size_px=64)
    assert large.activation_bytes == pytest.approx(4 * small.activation_bytes, rel=0.05)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_counted_in_training_only(name: str) -> None:
    counted = count(name, size_px=299)
    assert counted.training_flops > 2.9 * counted.forward_flops
