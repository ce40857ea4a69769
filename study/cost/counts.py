"""The operations of networks, counted once per machine and kept below the cache folder.

Counting imports torch and builds the network, which takes seconds; reading a count takes nothing. A count is
kept under everything that decides it: network, image, outputs, the code that counts, and the libraries that
build the network.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trainables
from trainables.architectures.spec import ArchitectureSpec
from trainables.datasets.cache import cache_folder, new_cache_file
from trainables.datasets.readers import find_reader
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError
from trainables.fields import SpecModel
from trainables.operations import Operations
from trainables.spec import TrainableSpec, TrialSpec

LIBRARIES = ("torch", "torchvision", "timm")
# Where only the data tell the number of classes. The head of 1,000 is a thousandth of a ResNet-50.
USUAL_OUTPUTS = 2


@dataclass(frozen=True)
class _Counted:
    """What decides a count."""

    architecture: ArchitectureSpec
    trainable: TrainableSpec
    size_px: int
    channels: int
    n_outputs: int

    @property
    def file(self) -> Path:
        content = {name: _plain(value) for name, value in vars(self).items()}
        text = json.dumps([content, _versions()], sort_keys=True)
        return cache_folder() / "operations" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@dataclass
class OperationCounts:
    """Counts of the networks of trials.

    Attributes:
        notices: what could not be counted or kept, for people.
    """

    notices: list[str] = field(default_factory=list)
    _known: dict[_Counted, Operations | None] = field(default_factory=dict)

    def of(self, spec: TrialSpec) -> Operations | None:
        """Return the operations of the network of a resolved trial; None of what is no network."""
        if spec.training.method == "fit":
            return None
        dataset = spec.dataset
        wanted = _Counted(
            spec.architecture,
            spec.training.trainable,
            dataset.size_px,
            dataset.channels,
            expected_outputs(dataset),
        )
        if wanted not in self._known:
            self._known[wanted] = _read(wanted.file) or self._count(wanted)
        return self._known[wanted]

    def _count(self, wanted: _Counted) -> Operations | None:
        from trainables.counting import count_operations

        try:
            found = count_operations(
                wanted.architecture,
                wanted.trainable,
                size_px=wanted.size_px,
                channels=wanted.channels,
                n_outputs=wanted.n_outputs,
            )
        except Exception as error:  # whatever a network of another package raises on the meta device
            label = wanted.architecture.label
            self.notices.append(f"the operations of {label} cannot be counted: {error}")
            return None
        try:
            with new_cache_file(wanted.file) as stream:
                stream.write(json.dumps(asdict(found)).encode())
        except DataError as error:
            self.notices.append(f"{error}; until then operations are counted each time")
        return found


def expected_outputs(dataset: DatasetSpec) -> int:
    """Return the number of classes of a normal spec, or the usual one where only the data tell it."""
    if dataset.superclasses is not None:
        merged = dataset.superclasses
        return USUAL_OUTPUTS if isinstance(merged, str) else len(merged)
    known = dataset.classes or find_reader(dataset.reader).known_classes(dataset)
    return dataset.n_classes or (len(known) if known else USUAL_OUTPUTS)


def _read(file: Path) -> Operations | None:
    """Return a count that was kept; None if there is none, or if the file is damaged."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    names = {field.name for field in fields(Operations)}
    is_whole = isinstance(content, dict) and content.keys() == names
    if not is_whole or not all(type(value) is int and value >= 0 for value in content.values()):
        return None
    return Operations(**content)


@cache
def _versions() -> dict[str, str]:
    """Return what a count depends on besides the network's description, without importing any of it."""
    found = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return {**found, "code": _code_digest()}


def _code_digest() -> str:
    folder = Path(trainables.__path__[0])
    files = [folder / "counting.py", folder / "freezing.py", *sorted((folder / "architectures").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _plain(value: object) -> Any:
    return value.model_dump(mode="json") if isinstance(value, SpecModel) else value
