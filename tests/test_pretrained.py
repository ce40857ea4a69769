import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables import pretrained
from trainables.architectures.catalog import ARCHITECTURES
from trainables.errors import WeightsError
from trainables.pretrained import PUBLISHED, READERS, load_weights
from trainables.resolution import file_digest
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


def test_published_entries_are_the_dated_weights_of_the_catalog():
    assert PUBLISHED["torchvision/ResNet50_Weights.IMAGENET1K_V2"].endswith("/resnet50-11ad3fa6.pth")
    names = {name for entry in ARCHITECTURES.values() for name in entry.published}
    assert set(PUBLISHED) == {name for name in names if name.startswith("torchvision/")}
    assert not any(name.endswith("DEFAULT") for name in names)
    # The name of every file ends in the first digits of its digest, which is what is checked.
    digests = [url.rpartition("-")[2].removesuffix(".pth") for url in PUBLISHED.values()]
    assert all(len(digest) >= 8 and int(digest, 16) for digest in digests)


@pytest.mark.parametrize("name", [n for n, entry in ARCHITECTURES.items() if entry.published])
def test_all_weights_that_torchvision_has_for_an_architecture_are_listed(name):
    if ARCHITECTURES[name].published[0].startswith("timm/"):
        assert {n.removeprefix("timm/") for n in ARCHITECTURES[name].published} == set(
            timm.list_pretrained(f"{name}.*")
        )
        return
    members = torchvision.models.get_model_weights(name).__members__
    entry = torchvision.models.get_model_weights(name).__name__
    listed = {f"torchvision/{entry}.{member}" for member in members if member != "DEFAULT"}
    assert set(ARCHITECTURES[name].published) == listed


def test_names_that_torchvision_has_changed_are_changed_here(hub, published, monkeypatch):
    old = {"features.denseblock1.denselayer1.norm.1.weight": torch.ones(1)}
    torch.save(old, published)
    path = published.rename(published.with_name(f"tiny-{file_digest(published)[:8]}.pth"))
    monkeypatch.setitem(PUBLISHED, NAME, path.as_uri())
    assert list(load_published()) == ["features.denseblock1.denselayer1.norm1.weight"]


@pytest.fixture
def hugging_face(tmp_path, monkeypatch) -> Path:
    """A file as Hugging Face's cache holds it: a link to a blob that is named by its digest."""
    save_file(STATE, tmp_path / "weights")
    blob = (tmp_path / "weights").rename(tmp_path / file_digest(tmp_path / "weights"))
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda repository, _file: str(link))
    return blob


def test_timms_weights_are_read_from_the_cache_of_hugging_face(hugging_face):
    assert_equal_states(load_published("timm/inception_v4.tf_in1k"), STATE)


def test_an_altered_blob_is_refused(hugging_face):
    hugging_face.write_bytes(hugging_face.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"expected SHA-256 \w{16} \(the name of its blob\), found"):
        load_published("timm/inception_v4.tf_in1k")


def test_timms_weights_without_a_network_say_what_to_put_where(monkeypatch):
    def unreachable(repository: str, file: str) -> str:
        raise OSError(f"no route to {repository}/{file}")

    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(pretrained, "hf_hub_download", unreachable)
    with pytest.raises(WeightsError) as caught:
        load_published("timm/inception_v4.tf_in1k")
    message = str(caught.value)
    assert "model.safetensors of timm/inception_v4.tf_in1k is not in" in message
    assert "hf download timm/inception_v4.tf_in1k model.safetensors" in message
    with pytest.raises(WeightsError, match=r"publishes no weights 'timm/inception_v4\.nonsense'"):
        load_published("timm/inception_v4.nonsense")


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
        WeightsError, match=r"source\.weights must be one of 'torchvision/AlexNet_.*did you mean"
    ):
        load_published(name)


@pytest.mark.parametrize("suffix", READERS)
def test_own_file_is_read_back_as_it_was_saved(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(STATE, path)
    assert_equal_states(own_file(path), STATE)


@pytest.mark.parametrize(
    "wrapped",
    [
        {"epoch": 3, "state_dict": STATE},
        {f"module.{key}": value for key, value in STATE.items()},
        {"state_dict": {f"module.{key}": value for key, value in STATE.items()}, "optimizer": {"lr": 0.1}},
    ],
)
def test_weights_are_taken_out_of_a_training_checkpoint(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "weights.pth")
    assert_equal_states(own_file(tmp_path / "weights.pth"), STATE)


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
        ({"epoch": 3}, "expected names and tensors only, got 'epoch': int; save the state_dict"),
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
    with pytest.raises(WeightsError, match=r"source\.file: no file at .*weights\.pth; put it there"):
        load_weights(source, data_root=tmp_path)


def test_only_published_weights_and_resolved_files_are_read_here(tmp_path):
    with pytest.raises(ValueError, match="load_weights takes published weights, or a file with its sha256"):
        load_weights(SourceSpec(file="weights.pth"), data_root=tmp_path)
