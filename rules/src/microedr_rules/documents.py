"""YAML with places: a file's documents as plain values, and where in the file each of them stands.

Bounded against hostile files: size, nesting, and how much aliases add. Duplicate keys are errors: YAML
would silently keep the last, and the rule would demand less than its author wrote.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from microedr_rules.errors import Position, RuleError

MAX_FILE_BYTES = 256 * 1024
"""Of a rule or evidence file. The largest public rule has 48 KiB."""

MAX_NESTING = 40
"""Levels of lists and mappings; written rules reach 7, and the composer recurses."""

MAX_NODES = 50_000
"""Of one document with its aliases followed, so that a few nested aliases cannot stand for millions."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its value, the hash of its own text and the node tree that knows places."""

    value: Any
    text_hash: str
    node: yaml.Node

    def position(self, *place: str | int) -> Position:
        """Where the value at these keys and indices stands, or the nearest enclosing one that exists."""
        node, mark = self.node, self.node.start_mark
        for step in place:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
        return _position(mark)


def read_text(path: Path) -> str:
    """The text of a rule or evidence file.

    Raises:
        RuleError: It cannot be read, is too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RuleError(f"cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise RuleError(f"larger than the {MAX_FILE_BYTES} bytes a file may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RuleError("not UTF-8", Position(line, 1)) from error


def parse_documents(text: str) -> list[Document]:
    """The documents in ``text`` that are not empty.

    Raises:
        RuleError: It is not YAML, holds a duplicate key or exceeds a limit.
    """
    try:
        _check_nesting(text)
        documents = []
        for node in yaml.compose_all(text, Loader=_Loader):
            _check_node(node)
            value = _construct(node)
            if value is not None:
                documents.append(Document(value, _hash(text, node), node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(filter(None, (error.context, error.problem)))
        raise RuleError(f"not valid YAML: {detail}", _position(mark) if mark else None) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RuleError(f"not valid YAML: {error}") from error
    return documents


def _hash(text: str, node: yaml.Node) -> str:
    own = text[node.start_mark.index : node.end_mark.index].strip()
    return hashlib.sha256(own.encode()).hexdigest()[:16]


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _construct(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_nesting(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_NESTING:
                raise RuleError(f"nested deeper than {MAX_NESTING} levels", _position(event.start_mark))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_node(root: yaml.Node) -> None:
    """Refuse duplicate keys, cycles and too many nodes; aliases count as often as they are used."""
    seen = 0
    stack: list[tuple[yaml.Node, frozenset[int]]] = [(root, frozenset())]
    while stack:
        node, above = stack.pop()
        seen += 1
        if seen > MAX_NODES:
            raise RuleError(f"more than {MAX_NODES} values", _position(node.start_mark))
        if isinstance(node, yaml.ScalarNode):
            continue
        if id(node) in above:
            raise RuleError("an alias contains itself", _position(node.start_mark))
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inside = above | {id(node)}
        stack.extend((child, inside) for child in _children(node))


def _check_keys(node: yaml.MappingNode) -> None:
    keys: set[tuple[str, str]] = set()
    for key, _value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise RuleError("a key must be a plain text", _position(key.start_mark))
        if (key.tag, key.value) in keys:
            raise RuleError(f"duplicate key {key.value!r}", _position(key.start_mark))
        keys.add((key.tag, key.value))


def _child(node: yaml.Node, step: str | int) -> tuple[Any, yaml.Node] | None:
    """Where the child stands and the child; of a mapping's entry, the key says where."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        child = node.value[step]
        return child.start_mark, child
    return None
