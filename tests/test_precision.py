"""A GPU multiplies as exactly as the trial asks that computes with it, not as the one before."""

from collections.abc import Iterator

import pytest
import torch

from tests.conftest import tiny_trial
from trainables.architectures.stages import build_network
from trainables.datasets.loading import load_dataset
from trainables.precision import computing
from trainables.seeding import seeded
from trainables.spec import Precision
from trainables.stack import Stack
from trainables.training import Training, memory_format_of

CPU = torch.device("cpu")
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")


def of_gpus() -> tuple[bool, bool]:
    """Whether GPUs may use TF32 in matrix products and in convolutions, in this process now."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def torch_by_itself() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True


def training(precision: Precision) -> Training:
    spec = tiny_trial(training={"steps": 3, "batch_size": 16, "precision": precision})
    dataset = load_dataset(spec.dataset, data_root=None)
    with seeded(0, "weights"):
        network = build_network(spec.architecture, n_outputs=2, channels=1)
    return Training(network, dataset, spec.training, seed=0, device=CPU)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_backward_pass_multiplies_as_the_forward_pass_does(precision: Precision) -> None:
    found: list[tuple[bool, bool]] = []
    one = training(precision)
    for parameter in one.network.module.parameters():
        parameter.register_hook(lambda _: found.append(of_gpus()))
    one.train_until(1)
    assert set(found) == {(precision == "tf32",) * 2}
    assert torch.get_float32_matmul_precision() in ("high", "highest"), "libraries can still ask"


def test_one_trial_does_not_change_the_next() -> None:
    loose, exact = training("tf32"), training("float32")
    for one, expected in ((loose, True), (exact, False), (loose, True)):
        one.train_until(one.step + 1)
        assert of_gpus() == (expected, expected)
    exact.measure(exact.dataset.val)
    assert of_gpus() == (False, False)
    Stack([loose]).take_step()
    assert of_gpus() == (True, True)


def test_on_a_processor_tf32_is_float32() -> None:
    weights = []
    for precision in PRECISIONS:
        one = training(precision)
        one.train_until(3)
        weights.append(torch.cat([p.detach().flatten() for p in one.network.module.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_true_float32_on_gpus_is_not_channels_last(precision: Precision) -> None:
    assert memory_format_of(precision, CPU) == torch.channels_last
    plain = memory_format_of(precision, torch.device("cuda")) == torch.contiguous_format
    assert plain is (precision == "float32")


def test_only_bfloat16_is_autocast() -> None:
    for precision in PRECISIONS:
        with computing(precision, CPU):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert (product.dtype == torch.bfloat16) is (precision == "bfloat16")
