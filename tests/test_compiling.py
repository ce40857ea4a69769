"""A compiled network learns what it would otherwise; one that cannot be compiled does, too, and says so."""

import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from study.config import parse_study
from study.cost.speed import Measurements, Place
from study.plan import make_plan
from study.tuning import worker_config
from tests.conftest import tiny_trial
from tests.test_speed import probed
from tests.test_trial import find, start
from trainables import compiling as compiling_module
from trainables.architectures.stages import build_network
from trainables.compiling import Compiled
from trainables.datasets.loading import load_dataset
from trainables.errors import StudyFileError
from trainables.record import Store
from trainables.seeding import seeded
from trainables.spec import RunOptions
from trainables.training import Training

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ here")


def training(*, batch_size: int = 16, **options: Any) -> Training:
    spec = tiny_trial(training={"steps": 4, "batch_size": batch_size})
    dataset = load_dataset(spec.dataset, data_root=None)
    with seeded(0, "weights"):
        network = build_network(spec.architecture, n_outputs=2, channels=1)
    return Training(network, dataset, spec.training, seed=0, device=torch.device("cpu"), **options)


def weights(one: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.network.module.state_dict().items()}


def compiling(monkeypatch: pytest.MonkeyPatch, run: Callable[[nn.Module, Tensor], Any]) -> None:
    """Let what is compiled do this."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda images: run(module, images))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@needs_a_compiler
def test_a_compiled_network_learns_what_it_would_learn_otherwise() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, plain = training(is_compiled=True), training()
    for one in (compiled, plain):
        one.train_until(4)
    assert compiled.notices == []
    assert compiled.compiled is not None
    assert compiled.compiled.has_run
    found, expected = weights(compiled), weights(plain)
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    loss, expected_loss = compiled.evaluate()["val_loss"], plain.evaluate()["val_loss"]
    assert loss == pytest.approx(expected_loss, rel=1e-4)


@needs_a_compiler
def test_a_compiled_network_drops_out_what_it_would_drop_otherwise() -> None:
    module, images = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train(), torch.ones(8, 1, 16, 16)
    outputs = []
    for run in (module, Compiled(module)):
        torch.manual_seed(3)
        outputs.append(run(images))
    assert torch.equal(*outputs)
    assert 0.3 < float((outputs[0] == 0).float().mean()) < 0.7


class _Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("InductorError: no C++ compiler\nwas found")


def failing_forward(module: nn.Module, images: Tensor) -> Tensor:
    module(images)  # which moves the running statistics
    torch.rand(1)
    raise RuntimeError("\nno C++ compiler\nwas found")


def failing_backward(module: nn.Module, images: Tensor) -> Tensor:
    return _Failing.apply(module(images))


@pytest.mark.parametrize("run", [failing_forward, failing_backward])
def test_what_cannot_be_compiled_is_trained_plainly_from_its_first_step_on(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[nn.Module, Tensor], Any]
) -> None:
    plain = training()
    plain.train_until(4)
    compiling(monkeypatch, run)
    refused = training(is_compiled=True)
    refused.train_until(4)
    assert refused.compiled is None
    (notice,) = refused.notices
    assert notice.startswith("its network is not compiled: RuntimeError: ")
    assert notice.endswith("no C++ compiler")
    assert same(weights(refused), weights(plain))


def test_too_little_memory_is_not_taken_for_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: nn.Module, images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiling(monkeypatch, full)
    with pytest.raises(torch.OutOfMemoryError):
        training(is_compiled=True).train_until(1)


def test_only_training_is_compiled_and_the_seconds_it_takes_are_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes = []

    def slow_at_first(module: nn.Module, images: Tensor) -> Any:
        if not modes:
            time.sleep(0.5)
        modes.append(module.training)
        return module(images)

    compiling(monkeypatch, slow_at_first)
    one = training(is_compiled=True)
    one.train_until(3)
    one.evaluate()
    assert modes == [True] * 3
    assert one.compiling_seconds >= 0.5
    assert one.training_seconds < 0.5
    assert one.seconds == one.training_seconds


def test_a_trial_says_why_it_is_not_compiled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling(monkeypatch, failing_forward)
    *_, last = start(store, tiny_trial(), RunOptions(is_compiled=True))
    assert last.status == "finished"
    assert last.notices == ("its network is not compiled: RuntimeError: no C++ compiler",)
    spent = find(store, tiny_trial()).circumstances.spent
    assert spent is not None
    assert spent.is_compiled, "such trials are as fast as this one was, on this machine"
    compiling(monkeypatch, lambda module, images: module(images))
    *_, last = start(store, tiny_trial(seed=1), RunOptions(is_compiled=True))
    assert last.notices == ()


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are found as always, but nothing is compiled for them, which would take a minute."""
    compile_ = torch.compile
    quick = partial(compile_, dynamic=False, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda module, **_: quick(module))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def notices_of_batches(*sizes: int) -> list[str]:
    notices = []
    for size in sizes:
        one = training(batch_size=size, is_compiled=True)
        one.train_until(1)
        notices += one.notices
    return notices


@pytest.mark.usefixtures("no_kernels")
def test_many_settings_in_one_process_are_all_compiled() -> None:
    assert notices_of_batches(*range(4, 14)) == []
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 10


@pytest.mark.usefixtures("no_kernels")
def test_a_process_that_holds_too_many_graphs_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling_module, "MOST_GRAPHS", 2)
    (notice,) = notices_of_batches(4, 8, 16)
    assert notice.startswith("its network is not compiled: ")


STUDY = """
name: s
trial: {dataset: digits_5_9, training: {steps: 1}}
grid: {architecture: [cbr_tiny, cbr_small]}
resources: {compile: true, by_architecture: {cbr_small: {compile: false}}}
"""


def test_the_study_file_says_what_is_compiled(store: Store) -> None:
    study = parse_study(STUDY)
    options = {
        entry.trial.spec.architecture.name: RunOptions.model_validate_json(
            worker_config([entry], study, store)["trials"][0]["options"]
        )
        for entry in make_plan(study, []).entries
    }
    assert {name: one.is_compiled for name, one in options.items()} == {"cbr_tiny": True, "cbr_small": False}


@pytest.mark.parametrize(
    "resources",
    [
        "compile: true, stack: 4",
        "compile: true, gpu: 2",
        "gpu: 2, by_architecture: {cbr_tiny: {compile: true}}",
    ],
)
def test_what_is_not_trained_by_one_process_alone_is_not_compiled(resources: str) -> None:
    text = STUDY.partition("resources:")[0] + f"resources: {{{resources}}}\n"
    with pytest.raises(StudyFileError, match="compile is for trials that are trained one by one, on one GPU"):
        parse_study(text)


def test_networks_that_are_not_compiled_may_have_several_gpus() -> None:
    resources = "resources: {gpu: 2, by_architecture: {cbr_small: {gpu: 1, compile: true}}}\n"
    assert parse_study(STUDY.partition("resources:")[0] + resources).resources.gpu == 2


def test_compiled_trials_are_fast_in_their_own_way() -> None:
    plain, compiled = probed(), probed(train_s=0.1, is_compiled=True)
    measured = Measurements([], [plain, compiled])
    assert measured.speed(tiny_trial(), Place("EPYC", 1)).train_s == 0.5
    assert measured.speed(tiny_trial(), Place("EPYC", 1, is_compiled=True)).train_s == 0.1
