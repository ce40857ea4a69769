"""Pretrained weights: published ones from the folders of torch hub and Hugging Face, and files of one's own.

Files are read as plain tensors only; a pickle that would run code is refused.
"""

import pickle
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import timm
import torch
import torchvision
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.architectures.catalog import ARCHITECTURES
from trainables.errors import WeightsError, unknown_choice
from trainables.resolution import file_digest
from trainables.spec import SourceSpec

TORCHVISION, TIMM = "torchvision/", "timm/"
TIMM_FILE = "model.safetensors"
# Files of 2017 name the layers of DenseNets as `norm.1`, which torchvision renames when it reads them.
_OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$"
)


def _url(name: str) -> str:
    entry, member = name.removeprefix(TORCHVISION).split(".")
    url: str = getattr(torchvision.models, entry)[member].url
    return url


PUBLISHED: dict[str, str] = {
    name: _url(name)
    for architecture in ARCHITECTURES.values()
    for name in architecture.published
    if name.startswith(TORCHVISION)
}


def load_weights(source: SourceSpec, *, data_root: Path | None) -> dict[str, Tensor]:
    """Read the weights that `source.weights` or `source.file` names, onto the CPU.

    Published weights are taken from the folder of torch hub (torchvision) or of Hugging Face (timm), or
    downloaded into it. Either way the digest that their publisher states is checked.

    Args:
        source: as it stands in a resolved spec: a file has its digest.
        data_root: folder of `source.file`.

    Raises:
        WeightsError: unknown, absent, altered or unreadable weights.
    """
    if source.weights is not None:
        if source.weights.startswith(TIMM):
            return _read(_timm_file(source.weights))
        content = _read(_published_file(source.weights))
        return {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in content.items()}
    if source.file is None or source.sha256 is None:
        raise ValueError("load_weights takes published weights, or a file with its sha256")
    if data_root is None:
        raise WeightsError(f"source.file {source.file}: set TRANSFUSION_DATA to the folder that holds it")
    path = data_root / source.file
    _check_digest(path, source.sha256, "source.sha256")
    return _read(path)


def _published_file(name: str) -> Path:
    if name not in PUBLISHED:
        raise WeightsError(unknown_choice("source.weights", name, PUBLISHED))
    url = PUBLISHED[name]
    file_name = PurePosixPath(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    # torchvision names a file `<network>-<first digits of its SHA-256>.pth`.
    digest = path.stem.rsplit("-", 1)[1]
    if not path.is_file():
        _download(name, url, path, digest)
    _check_digest(path, digest, "the name of the file")
    return path


def _download(name: str, url: str, path: Path, digest: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # torch hub calls a wrong digest RuntimeError
        raise WeightsError(
            f"{name}: {path.name} is not in {path.parent}, and could not be downloaded ({error}); "
            f"fetch {url} elsewhere and put it there"
        ) from None


def _timm_file(name: str) -> Path:
    """Return a file of Hugging Face, whose cache names files by their digest."""
    model = name.removeprefix(TIMM)
    if model not in timm.list_pretrained():
        raise WeightsError(f"source.weights: timm {timm.__version__} publishes no weights {name!r}")
    location: str = timm.get_pretrained_cfg(model).hf_hub_id
    cached = try_to_load_from_cache(location, TIMM_FILE)
    if not isinstance(cached, str):
        try:
            cached = hf_hub_download(location, TIMM_FILE)
        except Exception as error:  # whatever the client of the hub raises without a network
            raise WeightsError(
                f"{name}: {TIMM_FILE} of {location} is not in {HF_HUB_CACHE}, and could not be downloaded "
                f"({_first_line(error)}); fetch it on another machine (`hf download {location} {TIMM_FILE}`) "
                "and copy that folder here, or give the file as source: {file: …}"
            ) from None
    path = Path(cached)
    stated = path.resolve().name
    if len(stated) == 64:  # Hugging Face stores large files under their SHA-256
        _check_digest(path, stated, "the name of its blob")
    return path


def _check_digest(path: Path, expected: str, stated_in: str) -> None:
    found = file_digest(path)
    if not found.startswith(expected):
        raise WeightsError(
            f"{path}: expected SHA-256 {expected[:16]} ({stated_in}), found {found[:16]}; "
            "the file is damaged or another one: remove it and fetch it again"
        )


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in READERS:
        raise WeightsError(f"{path}: weights are .safetensors, .pth or .pt files, got {path.suffix!r}")
    content = _unwrapped(READERS[path.suffix](path))
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise WeightsError(
                f"{path}: expected names and tensors only, got {key!r}: {type(value).__name__}; "
                "save the state_dict alone: torch.save(network.state_dict(), …)"
            )
    weights = {key: value.detach() for key, value in content.items()}
    for key, value in weights.items():
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{path}: {key} is a sparse or quantized tensor; save plain ones")
        if value.is_floating_point() and bool(value.isnan().any()):
            raise WeightsError(
                f"{path}: {key} holds NaN: the training that made it failed; take an earlier one"
            )
    return weights


def _unwrapped(content: dict[str, Any]) -> dict[str, Any]:
    """Take the weights out of a training checkpoint, and the prefix of DataParallel off their names."""
    inner = content.get("state_dict")
    if isinstance(inner, dict):
        content = inner
    prefix = "module."
    if content and all(isinstance(key, str) and key.startswith(prefix) for key in content):
        return {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        reason = _first_line(error)
        raise WeightsError(f"{path}: not a readable safetensors file ({reason}); fetch it again") from None


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: refused, because it is no plain state_dict and reading it could run code; "
            "save it again with torch.save(network.state_dict(), …) or as .safetensors"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(
            f"{path}: not a readable PyTorch file ({_first_line(error)}); fetch it again"
        ) from None
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path}: expected a state_dict, got a {type(content).__name__}; save the state_dict alone"
        )
    return content


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_pickle,
    ".pt": _read_pickle,
}
