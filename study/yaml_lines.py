"""YAML as plain values with the line of each, and the traps of YAML 1.1 as mistakes.

PyYAML reads `no` as false, `012` as 10 and `12:30` as 750, and lets a duplicate key win silently. Here each
of these is a mistake with its line. No tag constructs anything: the result is made of dicts, lists and
scalars. What nests or multiplies beyond reason is refused before it takes time or memory.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from trainables.validation import FieldPath, Problem, dotted

MAX_VALUES = 100_000  # a few nested aliases can stand for billions of values
MAX_KEYS = 1_000  # each that is unknown is compared with all that are known
MAX_DEPTH = 50  # Python's stack ends at a few hundred
_TAG = "tag:yaml.org,2002:"
_SCALARS = yaml.constructor.SafeConstructor()
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_WHOLE_NUMBERS = range(-(2**63), 2**63)
# Escapes such as "\x1b" and "\ud800": what steers a terminal, ends a path, or cannot be written as UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


class NotReadableError(Exception):
    """The text is no YAML mapping, so nothing more can be said about it.

    Attributes:
        line: 1-based.
    """

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass(frozen=True)
class Document:
    """A mapping that was read from YAML.

    Attributes:
        content: dicts with text keys, lists, and scalars of JSON's kinds.
        lines: the line of every key and list item, by its path.
        problems: what YAML reads otherwise than people expect.
    """

    content: dict[str, Any]
    lines: Mapping[FieldPath, int]
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: FieldPath) -> int:
        """Return the line of a path, or that of the nearest mapping or list around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(text: str) -> Document:
    """Read one YAML mapping.

    Raises:
        NotReadableError: not YAML, empty, several documents, or no mapping.
    """
    node = _compose(text)
    if not isinstance(node, MappingNode):
        raise NotReadableError(_line(node), f"expected a mapping (`name: …`), got {_kind(node)}")
    reader = _Reader()
    content = reader.read(node, ())
    return Document(content, reader.lines, reader.problems)


class _Loader(yaml.SafeLoader):
    """Composes nodes, and constructs nothing."""

    _depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self._depth > MAX_DEPTH:
            raise NotReadableError(self.line + 1, _TOO_DEEP)
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose(text: str) -> Node:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise NotReadableError(line, f"a character is not allowed in YAML: {error.reason}") from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotReadableError(mark.line + 1 if mark else 1, _reworded(error)) from None
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF", which is no character
        raise NotReadableError(loader.line + 1, f"not YAML: {error}") from None
    if node is None:
        raise NotReadableError(1, "the file is empty; see configs/demo.yaml for an example")
    return node


def _reworded(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return "a tab stands here; YAML wants spaces"
    if "found another document" in problem:
        return "a second document begins here (---); put each study in a file of its own"
    if "mapping values are not allowed" in problem:
        return "a second colon or a wrong indentation; put text that contains ': ' in quotes"
    return f"not YAML: {problem}"


class _Reader:
    def __init__(self) -> None:
        self.lines: dict[FieldPath, int] = {}
        self.problems: list[Problem] = []
        self._open: list[Node] = []
        self._n_values = 0

    def read(self, node: Node, path: FieldPath) -> Any:
        if node in self._open:
            raise NotReadableError(_line(node), f"{dotted(path)}: an anchor contains itself")
        self._count(node, depth=len(self._open))
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self._add(path, f"the tag {_short(node.tag)} is not allowed; write plain values")
        self._open.append(node)
        value = self._mapping(node, path) if isinstance(node, MappingNode) else self._sequence(node, path)
        self._open.pop()
        return value

    def _count(self, node: Node, *, depth: int) -> None:
        self._n_values += 1
        if self._n_values > MAX_VALUES:
            raise NotReadableError(_line(node), f"more than {MAX_VALUES} values; the anchors multiply them")
        if depth > MAX_DEPTH:
            raise NotReadableError(_line(node), _TOO_DEEP)

    def _sequence(self, node: Node, path: FieldPath) -> list[Any]:
        assert isinstance(node, SequenceNode)
        for index, item in enumerate(node.value):
            self.lines[(*path, index)] = _line(item)
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, path: FieldPath) -> dict[str, Any]:
        if len(node.value) > MAX_KEYS:
            raise NotReadableError(_line(node), f"more than {MAX_KEYS} keys in one mapping")
        content: dict[str, Any] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged.append(value_node)
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            at = (*path, key)
            if key in content:
                message = f"is given twice, first in line {self.lines[at]}; YAML would keep only the last"
                self.problems.append(Problem(at, f"{dotted(at)} {message}"))
                self.lines[at] = _line(key_node)
                continue
            self.lines[at] = _line(key_node)
            content[key] = self.read(value_node, at)
        for key_node, value_node in self._merged(merged, path):
            key = self._key(key_node, path)
            if key is not None and key not in content:
                self.lines[(*path, key)] = _line(key_node)
                content[key] = self.read(value_node, (*path, key))
        return content

    def _merged(
        self, nodes: list[Node], path: FieldPath, around: tuple[Node, ...] = ()
    ) -> Iterator[tuple[Node, Node]]:
        """Yield the entries that `<<: *anchor` brings in; what the mapping has itself goes before them."""
        for node in nodes:
            if node in self._open or node in around:
                raise NotReadableError(_line(node), f"{dotted(path)}: an anchor contains itself")
            self._count(node, depth=len(around))
            inner = (*around, node)
            if isinstance(node, MappingNode):
                own = [pair for pair in node.value if pair[0].tag != f"{_TAG}merge"]
                yield from own
                merged = [value for key, value in node.value if key.tag == f"{_TAG}merge"]
                yield from self._merged(merged, path, inner)
            elif isinstance(node, SequenceNode):
                yield from self._merged(node.value, path, inner)
            else:
                self._add(path, "<<: stands before the anchor of a mapping")

    def _key(self, node: Node, path: FieldPath) -> str | None:
        if not isinstance(node, ScalarNode):
            self._add_at(node, path, f"a key must be text, got {_kind(node)}")
            return None
        if node.tag == f"{_TAG}str":
            if _UNPRINTABLE.search(node.value) is None:
                return node.value
            self._add_at(node, path, f"the key {node.value!r} must be of characters that can be printed")
            return None
        what = f" (YAML reads it as {_meaning(node)})" if _meaning(node) else ""
        self._add_at(node, path, f"the key {node.value} must be in quotes to be text{what}")
        return None

    def _scalar(self, node: ScalarNode, path: FieldPath) -> Any:
        tag, text = node.tag.removeprefix(_TAG), node.value
        if tag == "str":
            found = _UNPRINTABLE.search(text)
            if found is not None:
                self._add(path, f"the character {found[0]!r} is not allowed; write text that can be printed")
                return _UNPRINTABLE.sub("�", text)
            return text
        if tag == "null":
            return None
        if tag == "bool":
            if text.lower() not in ("true", "false"):
                meaning = _meaning(node)
                self._add(
                    path, f"YAML reads {text} as {meaning}; write {meaning}, or '{text}' in quotes for text"
                )
            return text.lower() in ("true", "yes", "on")
        if tag == "int":
            return self._whole_number(node, path)
        if tag == "float":
            return self._number(node, path)
        if tag == "timestamp":
            self._add(path, f"YAML reads {text} as a date; put it in quotes for text")
        else:
            self._add(path, f"the tag {_short(node.tag)} is not allowed; write plain values")
        return text

    def _whole_number(self, node: ScalarNode, path: FieldPath) -> int:
        try:
            value = int(_SCALARS.construct_yaml_int(node))
        except ValueError:  # `!!int abc`
            self._add(path, f"{node.value} is not a whole number")
            return 0
        if value not in _WHOLE_NUMBERS:
            self._add(path, f"must be a whole number of at most 63 bits, got one of {value.bit_length()}")
            return 0
        if _OCTAL.fullmatch(node.value):
            plain = int(node.value.replace("_", ""))
            self._add(path, f"YAML reads {node.value} as {value} (octal); write {value} or {plain}")
        elif ":" in node.value:
            self._add(
                path, f"YAML reads {node.value} as {value} (base 60); write {value}, or use quotes for text"
            )
        return value

    def _number(self, node: ScalarNode, path: FieldPath) -> float:
        try:
            value = float(_SCALARS.construct_yaml_float(node))
        except (ValueError, OverflowError):
            self._add(path, f"{node.value} is not a number")
            return 0.0
        if not math.isfinite(value):
            self._add(path, f"must be a finite number, got {node.value}")
        elif ":" in node.value:
            self._add(
                path, f"YAML reads {node.value} as {value} (base 60); write {value}, or use quotes for text"
            )
        return value

    def _add(self, path: FieldPath, message: str) -> None:
        joint = " " if message.startswith("must ") else ": "
        self.problems.append(Problem(path, f"{dotted(path)}{joint}{message}"))

    def _add_at(self, node: Node, path: FieldPath, message: str) -> None:
        """Add a problem of a key, which has no path of its own."""
        at = (*path, f"<line {_line(node)}>")
        self.lines[at] = _line(node)
        self.problems.append(Problem(at, f"{dotted(path)}: {message}" if path else message))


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, SequenceNode) else repr(node.value)


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _meaning(node: ScalarNode) -> str:
    """Say what YAML makes of a scalar that is not text."""
    tag = node.tag.removeprefix(_TAG)
    if tag == "bool":
        return "true" if node.value.lower() in ("true", "yes", "on") else "false"
    return {"int": "a number", "float": "a number", "timestamp": "a date", "null": "nothing"}.get(tag, "")
