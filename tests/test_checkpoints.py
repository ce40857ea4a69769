"""Checkpoint files: round trips, whole or absent, never unpickled."""

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.checkpoints import (
    pack_optimizer,
    read_checkpoint,
    unpack_optimizer,
    write_checkpoint,
)
from trainables.errors import CheckpointError


def tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3), "empty": torch.zeros(0, 2)}


def test_tensors_and_facts_come_back_equal(tmp_path: Path) -> None:
    facts = {"step": 7, "best": [0.1, 3, 0], "nested": {"x": None}}
    sha256 = write_checkpoint(tmp_path / "c.safetensors", tensors(), facts=facts)
    contents = read_checkpoint(tmp_path / "c.safetensors", sha256=sha256)
    assert contents.facts == facts
    assert contents.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert torch.equal(contents.tensors[name], tensor)
        assert contents.tensors[name].dtype == tensor.dtype


def test_views_of_one_storage_are_written_as_tensors_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    write_checkpoint(tmp_path / "c", {"head": whole[:5], "tail": whole[5:].flip(0)}, facts={})
    assert torch.equal(read_checkpoint(tmp_path / "c").tensors["tail"], torch.tensor([9.0, 8, 7, 6, 5]))


def test_equal_contents_have_equal_digests(tmp_path: Path) -> None:
    digests = {write_checkpoint(tmp_path / str(i), tensors(), facts={"step": 1}) for i in range(2)}
    assert len(digests) == 1
    assert write_checkpoint(tmp_path / "other", tensors(), facts={"step": 2}) not in digests


@given(cut=st.integers(min_value=0, max_value=300))
def test_a_truncated_file_is_refused_wherever_it_was_cut(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("cut") / "c.safetensors"
    sha256 = write_checkpoint(file, tensors(), facts={})
    content = file.read_bytes()
    file.write_bytes(content[: min(cut, len(content) - 1)])
    with pytest.raises(CheckpointError, match=r"expected SHA-256 .* truncated or altered"):
        read_checkpoint(file, sha256=sha256)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(file)


def test_a_missing_file_and_a_pickle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint file is missing"):
        read_checkpoint(tmp_path / "absent")
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_checkpoint(tmp_path / "code.pt")


def test_nothing_partial_is_left_behind(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", tensors(), facts={})
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_optimizer_goes_on_as_if_never_stopped(kind: str, tmp_path: Path) -> None:
    def make(weight: Tensor) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        parameter = nn.Parameter(weight.clone())
        if kind == "sgd":
            return parameter, torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        return parameter, torch.optim.Adam([parameter], lr=0.1)

    def step(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()

    straight, optimizer = make(torch.ones(3))
    for _ in range(3):
        step(straight, optimizer)
    packed, plain = pack_optimizer(optimizer)
    write_checkpoint(tmp_path / "o", packed, facts={"plain": plain})
    stored = read_checkpoint(tmp_path / "o")
    resumed, fresh = make(straight.detach())
    unpack_optimizer(fresh, stored.tensors, stored.facts["plain"])
    for _ in range(2):
        step(straight, optimizer)
        step(resumed, fresh)
    assert torch.equal(straight, resumed)
