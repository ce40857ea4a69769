import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.errors import WeightsError
from trainables.identity import file_digest
from trainables.pretrained import PUBLISHED, READERS, load_weights
from trainables.spec import SourceSpec

STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.num_batches_tracked": torch.tensor(40)}
NAME = "torchvision/Tiny_Weights.V1"


def own_file(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    source = SourceSpec(file=path.name, sha256=sha256 or file_digest(path))
    return load_weights(source, data_root=path.parent)


def assert_equal_states(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(
        found[key].equal(expected[key]) and found[key].dtype == expected[key].dtype for key in expected
    )


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty torch hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """Weights at a URL that needs no network, under the name NAME."""
    path = tmp_path / "server" / "tiny.pth"
    path.parent.mkdir()
    torch.save(STATE, path)
    path = path.rename(path.with_name(f"tiny-{file_digest(path)[:8]}.pth"))
    monkeypatch.setitem(PUBLISHED, NAME, path.as_uri())
    return path


def load_published(name: str = NAME) -> dict[str, Tensor]:
    return load_weights(SourceSpec(weights=name), data_root=None)


def test_published_entries_are_the_dated_weights_of_the_catalogs_resnets():
    assert PUBLISHED == {
        "torchvision/ResNet18_Weights.IMAGENET1K_V1": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "torchvision/ResNet50_Weights.IMAGENET1K_V1": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "torchvision/ResNet50_Weights.IMAGENET1K_V2": "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    }


def test_published_weights_are_downloaded_once_and_then_read_from_the_hub_folder(hub, published):
    assert_equal_states(load_published(), STATE)
    assert [path.name for path in hub.iterdir()] == [published.name]
    published.unlink()
    assert_equal_states(load_published(), STATE)


def test_published_weights_with_another_digest_are_not_kept(hub, published):
    published.write_bytes(b"another file")
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_published()
    assert list(hub.iterdir()) == []


def test_altered_file_in_the_hub_folder_is_refused(hub, published):
    load_published()
    altered = hub / published.name
    altered.write_bytes(altered.read_bytes()[:-1])
    found = hashlib.sha256(altered.read_bytes()).hexdigest()
    with pytest.raises(WeightsError) as caught:
        load_published()
    assert str(caught.value) == (
        f"{altered}: expected SHA-256 {published.stem[5:]} (the name of the file), found {found[:16]}; "
        "the file is damaged or another one: remove it and fetch it again"
    )


def test_absent_weights_without_a_network_say_what_to_put_where(hub, published):
    published.unlink()
    with pytest.raises(WeightsError) as caught:
        load_published()
    message = str(caught.value)
    assert message.startswith(f"{NAME}: {published.name} is not in {hub}, and could not be downloaded (")
    assert message.endswith(f"; fetch {published.as_uri()} elsewhere and put it there")


@pytest.mark.parametrize(
    "name", ["torchvision/ResNet50_Weights.IMAGENET1K_V3", "torchvision/ResNet50_Weights.DEFAULT"]
)
def test_unknown_published_weights_are_named_with_a_suggestion(name):
    with pytest.raises(
        WeightsError, match=r"source\.weights must be one of 'torchvision/ResNet18_.*did you mean"
    ):
        load_published(name)


@pytest.mark.parametrize("suffix", READERS)
def test_own_file_is_read_back_as_it_was_saved(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(STATE, path)
    assert_equal_states(own_file(path), STATE)


def test_parameters_come_back_as_plain_tensors(tmp_path):
    torch.save({"weight": nn.Parameter(torch.ones(2))}, tmp_path / "weights.pth")
    assert not own_file(tmp_path / "weights.pth")["weight"].requires_grad


def test_own_file_with_another_digest_is_refused(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    with pytest.raises(
        WeightsError, match=r"expected SHA-256 0{16} \(source\.sha256\), found [0-9a-f]{16}; the file"
    ):
        own_file(tmp_path / "weights.safetensors", sha256="0" * 64)


class RunsCode:
    """Leaves a trace when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save(STATE | {"extra": RunsCode(trace)}, path)
    with pytest.raises(
        WeightsError, match=r"refused, because it is no plain state_dict and reading it could run code"
    ):
        own_file(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the file does what the reader must not let it do


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"epoch": 3, "state_dict": STATE},
            "expected names and tensors only, got 'epoch': int; save the state_dict",
        ),
        ({0: torch.ones(1)}, "expected names and tensors only, got 0: Tensor"),
        ([torch.ones(1)], "expected a state_dict, got a list; save the state_dict alone"),
    ],
)
def test_file_with_other_content_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as caught:
        own_file(tmp_path / "weights.pth")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (".pth", "not a readable PyTorch file"),
        (".safetensors", "not a readable safetensors file"),
        (".h5", "weights are .safetensors, .pth or .pt files, got '.h5'"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, suffix, message):
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(WeightsError) as caught:
        own_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_empty_file_is_named(tmp_path):
    (tmp_path / "weights.pth").touch()
    with pytest.raises(
        WeightsError, match=r"weights\.pth: not a readable PyTorch file \(.+\); fetch it again"
    ):
        own_file(tmp_path / "weights.pth")


def test_own_file_needs_the_data_root_and_must_be_there(tmp_path):
    source = SourceSpec(file="weights.pth", sha256="0" * 64)
    with pytest.raises(
        WeightsError, match=r"source\.file weights\.pth: set TRANSFUSION_DATA to the folder that holds"
    ):
        load_weights(source, data_root=None)
    with pytest.raises(WeightsError, match=r"source\.file: no file at .*weights\.pth; put the weights there"):
        load_weights(source, data_root=tmp_path)


def test_only_published_weights_and_resolved_files_are_read_here(tmp_path):
    with pytest.raises(ValueError, match="load_weights takes published weights, or a file with its sha256"):
        load_weights(SourceSpec(file="weights.pth"), data_root=tmp_path)
