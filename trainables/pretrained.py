"""Pretrained weights: published ones from torch hub's folder, and files of one's own.

Files are read as plain tensors only; a pickle that would run code is refused.
"""

import pickle
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from trainables.errors import WeightsError, unknown_choice
from trainables.identity import file_digest
from trainables.spec import SourceSpec

# Members only, not the alias DEFAULT: what that stands for changes from one torchvision to the next.
PUBLISHED: dict[str, str] = {
    f"torchvision/{weights}": weights.url
    for entries in (ResNet18_Weights, ResNet50_Weights)
    for weights in entries
}


def load_weights(source: SourceSpec, *, data_root: Path | None) -> dict[str, Tensor]:
    """Read the weights that `source.weights` or `source.file` names, onto the CPU.

    Published weights are taken from torch hub's folder, or downloaded into it. Either way the digest in
    the file's name is checked, which torch hub itself does for downloads only.

    Args:
        source: as it stands in a resolved spec: a file has its digest.
        data_root: folder of `source.file`.

    Raises:
        WeightsError: unknown, absent, altered or unreadable weights.
    """
    if source.weights is not None:
        return _read(_published_file(source.weights))
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
    content = READERS[path.suffix](path)
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise WeightsError(
                f"{path}: expected names and tensors only, got {key!r}: {type(value).__name__}; "
                "save the state_dict alone: torch.save(network.state_dict(), …)"
            )
    return {key: value.detach() for key, value in content.items()}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None


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
