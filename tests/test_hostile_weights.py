"""Weights and checkpoints that are broken on purpose: nothing is run, and every file is named."""
# ruff: noqa: E501

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tests.hostility import Payload, read_or_refused, refused
from trainables.checkpoints import read_checkpoint, unpack_optimizer, write_checkpoint
from trainables.errors import CheckpointError, WeightsError
from trainables.pretrained import load_weights
from trainables.resolution import file_digest
from trainables.spec import SourceSpec

N_DAMAGES = 60

STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(40)}


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def saved(content: object, **options: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}".replace("__", "."), content)
    return stream.getvalue()


GOOD = save(STATE)
SAFETENSORS: dict[str, bytes] = {
    "no bytes": b"",
    "seven bytes": b"\0" * 7,
    "a length alone": b"\x08" + b"\0" * 7,
    "text": b"these are no weights",
    "a pickle": pickle.dumps(Payload()),
    "a file of torch": saved(STATE),
    "a file of torch with code": saved({"a": Payload()}),
    "cut in its header": GOOD[:40],
    "cut in its tensors": GOOD[:-4],
    "longer than its tensors": GOOD + b"more",
    "a header of no length": safetensors({}, length=0),
    "a header that ends early": safetensors({"a": entry()}, bytes(8), length=5),
    "a header that says 2 to the 63rd": safetensors({"a": entry()}, bytes(8), length=2**63),
    "a header that says 90 MB": safetensors({"a": entry()}, bytes(8), length=90_000_000),
    "a header of a list": safetensors([1, 2]),
    "a header of a number": safetensors(5),
    "a header that is not closed": safetensors(b'{"a": '),
    "a header of brackets": safetensors(b"[" * 50_000),
    "a header that is no text": safetensors(b"\xff" * 40),
    "a tensor that is no mapping": safetensors({"a": 5}),
    "a tensor without a type": safetensors({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "a type that is none": safetensors({"a": entry("F99")}, bytes(8)),
    "a type of objects": safetensors({"a": entry("O")}, bytes(8)),
    "a negative shape": safetensors({"a": entry(shape=[-2])}, bytes(8)),
    "a shape of text": safetensors({"a": entry(shape="2")}, bytes(8)),
    "a shape of terabytes": safetensors({"a": entry(shape=[2**40])}, bytes(8)),
    "a shape that overflows": safetensors({"a": entry(shape=[2**62, 2**62])}, bytes(8)),
    "a shape that is too small": safetensors({"a": entry(shape=[1])}, bytes(8)),
    "offsets beyond the file": safetensors({"a": entry(offsets=[0, 8])}, bytes(4)),
    "offsets that begin late": safetensors({"a": entry(offsets=[8, 16])}, bytes(16)),
    "offsets backwards": safetensors({"a": entry(offsets=[8, 0])}, bytes(8)),
    "offsets below zero": safetensors({"a": entry(offsets=[-8, 0])}, bytes(8)),
    "offsets that overlap": safetensors({"a": entry(), "b": entry()}, bytes(8)),
    "offsets that half overlap": safetensors({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
    "offsets with a hole": safetensors({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
    "metadata that are no text": safetensors({"__metadata__": {"facts": 5}}),
    "metadata of a list": safetensors({"__metadata__": []}),
}
BAD_FACTS: dict[str, str] = {
    "no JSON": "{",
    "a list": "[]",
    "a number": "5",
    "nothing": "null",
    "text": '"step"',
    "nested": "[" * 50_000,
    "a number of 5,000 digits": "9" * 5_000,
    "code": "__import__('os').system('touch canary-was-here')",
}
# Of source.file: its suffix, its bytes, words of the message.
PICKLES: dict[str, tuple[str, bytes, str]] = {
    "no bytes": (".pth", b"", "not a readable PyTorch file"),
    "text": (".pt", b"these are no weights", "refused|not a readable"),
    "code": (".pth", saved({"a": Payload()}), "refused, because it is no plain state_dict"),
    "code as the whole": (".pt", saved(Payload()), "refused, because it is no plain state_dict"),
    "code of an old file": (".pth", saved({"a": Payload()}, _use_new_zipfile_serialization=False), "refused, because"),
    "a pickle without torch": (".pt", pickle.dumps(Payload()), "refused|not a readable"),
    "a pickle in a zip": (".pth", zipped(data__pkl=pickle.dumps(Payload(), 2), version=b"3"), "refused, because"),
    "a zip of nothing": (".pth", zipped(), "refused|not a readable PyTorch file"),
    "a zip of code": (".pt", zipped(constants__pkl=pickle.dumps(Payload(), 2), version=b"3"), "refused|not a readable"),
    "a module": (".pth", saved(torch.nn.Linear(2, 2)), "refused, because it is no plain state_dict"),
    "an array of objects": (".pth", saved({"a": np.array([Payload()], object)}), "refused, because"),
    "cut": (".pth", saved(STATE)[:-200], "not a readable PyTorch file|refused"),
    "cut in the middle": (".pth", saved(STATE)[:300], "not a readable PyTorch file|refused"),
    "a tensor alone": (".pth", saved(torch.ones(2)), "expected a state_dict, got a Tensor"),
    "a list": (".pth", saved([torch.ones(2)]), "expected a state_dict, got a list"),
    "numbers": (".pth", saved({"a": 5}), "expected names and tensors only, got 'a': int"),
    "names that are numbers": (".pth", saved({5: torch.ones(2)}), "expected names and tensors only, got 5"),
    "a checkpoint of mixed things": (".pt", saved({"state_dict": {"a": "x"}}), "expected names and tensors only"),
    "sparse tensors": (".pth", saved({"a": torch.eye(2).to_sparse()}), "a is a sparse or quantized tensor"),
    "tensors of NaN": (".pth", saved({"a": torch.tensor([1.0, float("nan")])}), "a holds NaN"),
    "another suffix": (".bin", saved(STATE), "weights are .safetensors, .pth or .pt files"),
    "safetensors of NaN": (".safetensors", save({"a": torch.full((2,), float("nan"))}), "a holds NaN"),
    "safetensors that are called .pth": (".pth", GOOD, "refused|not a readable PyTorch file"),
}  # fmt: skip


def load(folder: Path, name: str, content: bytes) -> object:
    file = folder / name
    file.write_bytes(content)
    return load_weights(SourceSpec(file=name, sha256=file_digest(file)), data_root=folder)


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_are_refused(name: str, tmp_path: Path) -> None:
    with refused(tmp_path, "w.safetensors: not a readable safetensors file", kind=WeightsError):
        load(tmp_path, "w.safetensors", SAFETENSORS[name])
    (tmp_path / "c.safetensors").write_bytes(SAFETENSORS[name])
    with refused(tmp_path, "c.safetensors: not a readable safetensors file", kind=CheckpointError):
        read_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.filterwarnings("ignore")  # torch warns of what it sees in a file, before it refuses it
@pytest.mark.parametrize("name", PICKLES)
def test_hostile_files_of_weights_are_refused(name: str, tmp_path: Path) -> None:
    suffix, content, words = PICKLES[name]
    with refused(tmp_path, words, kind=WeightsError):
        load(tmp_path, f"w{suffix}", content)


@pytest.mark.parametrize("name", BAD_FACTS)
def test_a_checkpoint_with_hostile_facts_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    file.write_bytes(save(STATE, metadata={"facts": BAD_FACTS[name]}))
    with refused(tmp_path, "state.safetensors: not a readable safetensors file", kind=CheckpointError):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d.replace(b"steps", b"stepz")]
)
def test_a_checkpoint_of_another_digest_is_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    sha256 = write_checkpoint(file, STATE, facts={"step": 3})
    file.write_bytes(change(file.read_bytes()))
    with refused(
        tmp_path, "state.safetensors: expected SHA-256 .* truncated or altered", kind=CheckpointError
    ):
        read_checkpoint(file, sha256=sha256)


@pytest.mark.parametrize(
    ("tensors", "plain", "words"),
    [
        ({"9.exp_avg": torch.ones(2)}, {}, "'9.exp_avg', which is of no parameter"),
        ({"-1.exp_avg": torch.ones(2)}, {}, "'-1.exp_avg', which is of no parameter"),
        ({"x.exp_avg": torch.ones(2)}, {}, "'x.exp_avg', which is of no parameter"),
        ({"exp_avg": torch.ones(2)}, {}, "'exp_avg', which is of no parameter"),
        ({"0.": torch.ones(2)}, {}, "'0.', which is of no parameter"),
        ({"0.exp_avg": torch.ones(7)}, {}, "'0.exp_avg' of shape \\(7,\\), expected \\(3, 2\\)"),
        ({}, {"": 1}, "'', which is of no parameter"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(
    tensors: dict[str, torch.Tensor], plain: dict[str, object], words: str, tmp_path: Path
) -> None:
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 3).parameters())
    with refused(tmp_path, words, kind=CheckpointError):
        unpack_optimizer(optimizer, tensors, plain)
    assert not optimizer.state


@settings(
    max_examples=N_DAMAGES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_damage_anywhere_in_safetensors_is_refused_or_gives_tensors(
    damage: list[tuple[int, int]], tmp_path: Path
) -> None:
    content = bytearray(GOOD)
    for where, byte in damage:
        content[where] = byte
    with read_or_refused(tmp_path, "w.safetensors"):
        assert isinstance(load(tmp_path, "w.safetensors", bytes(content)), dict)
