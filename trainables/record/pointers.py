"""The tags of a run that point to its committed weights.

People can edit tags, so nothing of one is believed: a path must stay below the artifacts of its run.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from trainables.errors import CheckpointError
from trainables.record import names

# Neither `.` nor `..` nor a name that begins with a dot, no drive, no address, nothing percent-encoded.
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIMIT = 2**63


@dataclass(frozen=True)
class CheckpointRef:
    """Where weights lie, and how to know that they are whole.

    Attributes:
        name: `initial`, `best`, `final`, or `step-000100` of a series.
        path: the artifact path within the run.
        sha256: of the file, in hex.
        step: optimizer steps taken.
    """

    name: str
    path: str
    sha256: str
    step: int
    n_bytes: int


@dataclass(frozen=True)
class Pointers:
    """What the tags of a run point to.

    Attributes:
        checkpoints: by name, in the order of their steps.
        problems: one for each tag that points to nothing.
    """

    checkpoints: dict[str, CheckpointRef] = field(default_factory=dict)
    state: CheckpointRef | None = None
    problems: list[str] = field(default_factory=list)


def pointer(ref: CheckpointRef) -> str:
    """Return the value of the tag that points to a checkpoint."""
    return json.dumps(asdict(ref))


def read_pointers(tags: Mapping[str, str]) -> Pointers:
    """Return what the tags of a run point to; an empty one to nothing, a damaged one is named."""
    found: dict[str, CheckpointRef] = {}
    problems = []
    for tag, value in tags.items():
        if value and (tag == names.STATE or tag.startswith(names.CHECKPOINT_PREFIX)):
            try:
                found[tag] = parse_pointer(tag, value)
            except CheckpointError as error:
                problems.append(str(error))
    state = found.pop(names.STATE, None)
    checkpoints = {ref.name: ref for ref in sorted(found.values(), key=lambda ref: ref.step)}
    return Pointers(checkpoints, state, problems)


def parse_pointer(tag: str, text: str) -> CheckpointRef:
    """Read a pointer tag.

    Raises:
        CheckpointError: somebody has edited it into something else.
    """

    def damaged(expected: str, got: object) -> CheckpointError:
        return CheckpointError(
            f"tag {tag!r} does not point to a file of its run: expected {expected}, got {_short(got)}"
        )

    keys = [key.name for key in fields(CheckpointRef)]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged("JSON", text) from None
    if not isinstance(content, dict) or content.keys() != set(keys):
        raise damaged(f"an object with {', '.join(keys)}", text)
    if content["name"] != tag.removeprefix(names.CHECKPOINT_PREFIX):
        raise damaged("the name in the tag's own", content["name"])
    if not _matches(_PATH, content["path"]):
        raise damaged("a path below the artifacts of the run", content["path"])
    if not _matches(_SHA256, content["sha256"]):
        raise damaged("a SHA-256 of 64 hexadecimal digits", content["sha256"])
    for key in ("step", "n_bytes"):
        if type(content[key]) is not int or not 0 <= content[key] < _LIMIT:
            raise damaged(f"a whole number from 0 as {key}", content[key])
    return CheckpointRef(**content)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _short(value: object) -> str:
    # `ascii`, since an edited tag may hold what no terminal can print; a huge number has no decimal form.
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        return "a huge number"
    return text if len(text) <= 80 else f"{text[:80]}…"
