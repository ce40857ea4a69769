"""A trial on several processes ends as it would in one; run with gloo on the processor."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_trial
from tests.test_trial import find, finish
from trainables.architectures.stages import build_network
from trainables.datasets.loading import Dataset, load_dataset
from trainables.errors import SpecError
from trainables.parallel import ParallelTraining, synchronize_batch_norms
from trainables.record import RecordReader, Store, open_store
from trainables.seeding import seeded
from trainables.spec import RunOptions, TrialSpec
from trainables.training import Training
from trainables.trial import run_trial

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(tiny_trial().dataset, data_root=None)


def spec_of(**changes: object) -> TrialSpec:
    # 15 images: the parts are of 7 and 8.
    return tiny_trial(training={"steps": 6, "batch_size": 15, **changes})


def built(kind: type[Training], spec: TrialSpec, dataset: Dataset) -> Training:
    with seeded(spec.seed, "weights"):
        network = build_network(spec.architecture, n_outputs=dataset.n_outputs, channels=1)
    return kind(network, dataset, spec.training, seed=spec.seed, device=CPU)


@contextmanager
def parallel(spec: TrialSpec, dataset: Dataset) -> Iterator[ParallelTraining]:
    training = built(ParallelTraining, spec, dataset)
    assert isinstance(training, ParallelTraining)
    training.begin(spec, data_root=None, processes=2)
    try:
        yield training
    finally:
        training.close()


def check_equal(found: Training, expected: Training) -> None:
    mine, theirs = found.take_state(), expected.take_state()
    assert mine.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert torch.allclose(mine.tensors[name].float(), tensor.float(), rtol=2e-3, atol=2e-5), name
    assert mine.facts["loss_sum"] == pytest.approx(theirs.facts["loss_sum"], rel=1e-3)


RECIPES: dict[str, dict[str, object]] = {
    "batch norm, augmentation": {"augment": {"horizontal_flip": True, "shift_px": 2, "brightness": 0.2}},
    "weights of classes, clipping": {"class_weights": "balanced", "gradient_clip": 0.1},
    # Not Adam, whose first steps make of what is rounded away whole steps.
    "frozen": {"trainable": "first_last", "optimizer": {"kind": "sgd", "lr": 0.02, "weight_decay": 0.01}},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_do_what_one_would(dataset: Dataset, recipe: str) -> None:
    spec = spec_of(**RECIPES[recipe])
    expected = built(Training, spec, dataset)
    with parallel(spec, dataset) as found:
        for training in (found, expected):
            training.train_until(3)
            training.evaluate()
            training.train_until(6)
        check_equal(found, expected)


def test_a_state_goes_on_in_another_number_of_processes(dataset: Dataset) -> None:
    spec = spec_of()
    expected = built(Training, spec, dataset)
    expected.train_until(6)
    first = built(Training, spec, dataset)
    first.train_until(3)
    with parallel(spec, dataset) as found:
        found.restore_state(first.take_state())
        found.train_until(6)
        check_equal(found, expected)


def test_micro_batches_add_up_over_processes(dataset: Dataset) -> None:
    # Only the head learns, and fixed batch norms do not see what goes through the network at once.
    whole, parts = spec_of(trainable="head"), spec_of(trainable="head", micro_batch_size=3)
    expected = built(Training, whole, dataset)
    expected.train_until(6)
    with parallel(parts, dataset) as found:
        found.train_until(6)
        found.micro_batch_size = expected.micro_batch_size
        check_equal(found, expected)


def test_a_trial_on_two_processes_has_the_record_of_one(store: Store) -> None:
    spec = tiny_trial()
    options = RunOptions(state_every_s=0.0, processes=2)
    *_, last = run_trial(spec, store=store, options=options, data_root=None)
    assert last.status == "finished", last.cause
    other = open_store(store.uri, experiment="alone")
    found, expected = find(store, spec), finish(other, spec)
    assert found.metrics["test_auroc"] == pytest.approx(expected.metrics["test_auroc"], abs=0.02)
    mine, theirs = (
        RecordReader(s).history(record, "val_loss") for s, record in ((store, found), (other, expected))
    )
    assert mine["step"].tolist() == theirs["step"].tolist()
    assert mine["value"].to_numpy() == pytest.approx(theirs["value"].to_numpy(), rel=0.02)


def test_more_processes_than_images_in_a_batch_are_refused(dataset: Dataset) -> None:
    spec = spec_of(batch_size=2)
    training = built(ParallelTraining, spec, dataset)
    assert isinstance(training, ParallelTraining)
    with pytest.raises(
        SpecError, match="batch_size must be at least the number of GPUs of a trial, 3, got 2"
    ):
        training.begin(spec, data_root=None, processes=3)


def test_a_helper_that_dies_is_an_error_and_no_hang(dataset: Dataset) -> None:
    with parallel(spec_of(), dataset) as training:
        training.train_until(1)
        helper = training._helpers._processes[0]
        os.kill(helper.pid, signal.SIGKILL)
        helper.wait()
        with pytest.raises(RuntimeError):
            training.train_until(3)


def test_where_a_lost_helper_is_not_noticed_the_process_ends_with_it() -> None:
    # As on GPUs, where the first process may wait for the lost one for ever, and hears no signal.
    program = """
import os, signal, time
from tests.test_parallel import built, load_dataset, spec_of, tiny_trial
from trainables.parallel import ParallelTraining
spec = spec_of()
training = built(ParallelTraining, spec, load_dataset(tiny_trial().dataset, data_root=None))
for is_lost in (False, True):
    training.begin(spec, data_root=None, processes=2)
    training._helpers.end_when_one_is_lost()
    if is_lost:
        os.kill(training._helpers._processes[0].pid, signal.SIGKILL)
        time.sleep(60)
    training.close()
    time.sleep(0.5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "a process of this trial ended with exit code -9; the log of the worker says why" in done.stderr


def test_losses_that_wait_to_be_read_keep_no_gradients(dataset: Dataset) -> None:
    with parallel(spec_of(), dataset) as training:
        training.note_step(training._take_step())
        (loss,) = training._unread_losses
        assert loss.untyped_storage().nbytes() == loss.element_size()


def test_helpers_leave_with_the_process_that_started_them() -> None:
    program = """
import os, signal
from tests.test_parallel import built, load_dataset, spec_of, tiny_trial
from trainables.parallel import ParallelTraining
spec = spec_of()
training = built(ParallelTraining, spec, load_dataset(tiny_trial().dataset, data_root=None))
training.begin(spec, data_root=None, processes=2)
training.train_until(1)
print(training._helpers._processes[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(pid: int) -> bool:
    """Say whether a process is there and is not one that has ended and that nobody has taken note of."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""
    except OSError:
        return False


def test_alone_a_synchronized_batch_norm_is_an_ordinary_one(tmp_path: object) -> None:
    import torch.distributed as dist

    torch.manual_seed(0)
    mine, theirs = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    synchronize_batch_norms(mine)
    images = torch.randn(4, 3, 5, 5, requires_grad=True)
    copies = images.detach().clone().requires_grad_()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        found, expected = mine(images), theirs(copies)
        torch.testing.assert_close(found, expected)
        (found**3).sum().backward()
        (expected**3).sum().backward()
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(images.grad, copies.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], tensor)
    mine.eval()
    theirs.eval()
    torch.testing.assert_close(mine(images), theirs(images))
