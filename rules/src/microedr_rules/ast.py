"""What a rule demands of an event: a tree of and, or, not over tests of single fields.

Every rule language compiles to this and every stage of the engine evaluates this. Text is compared
without regard to case (``fold``) unless a test is ``cased``. The names of fields stand as the rule's
author wrote them; ``fields`` gives them a meaning.

An AgentEvent cannot tell an unset text from an empty one. So an empty text is null, does not exist,
and equals ``''``; it does not match the lone wildcard ``*``, which therefore means "has a value".
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

MAX_DEPTH = 40
"""Levels of and, or, not. Written rules reach 6; Python's own parser stops near 100."""

MAX_ATOMS = 20_000
"""Tests in one rule. The largest public rule has 4432."""


def fold(text: str) -> str:
    """``text`` as compared without regard to case.

    Case folding and not ``lower``: the lower case of a Greek sigma depends on its neighbours.
    """
    return text.casefold()


class Wild(enum.Enum):
    """Wildcards between the literal parts of a pattern."""

    ANY = "*"
    ONE = "?"


class Place(enum.Enum):
    """Where a literal must stand in a field's text."""

    WHOLE = "equals"
    INSIDE = "contains"
    START = "startswith"
    END = "endswith"


class Order(enum.Enum):
    """How a number compares."""

    LT = "<"
    LTE = "<="
    GT = ">"
    GTE = ">="
    NEQ = "!="


@dataclass(frozen=True, slots=True)
class Text:
    """A literal."""

    place: Place
    text: str
    cased: bool = False


@dataclass(frozen=True, slots=True)
class Pattern:
    """Literals and wildcards that must cover the whole text."""

    parts: tuple[str | Wild, ...]
    cased: bool = False


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression in RE2's syntax, searched anywhere, case counts unless ``flags`` has ``i``."""

    pattern: str
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cidr:
    """An address within a network."""

    network: IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Number:
    """A number equal to this one; text must spell it the same."""

    number: int | float


@dataclass(frozen=True, slots=True)
class Compare:
    """A number in order to this one. Text that is no number never matches."""

    order: Order
    number: int | float


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether the event has a value in the field."""

    exists: bool


@dataclass(frozen=True, slots=True)
class Null:
    """The field is missing or has no value."""


@dataclass(frozen=True, slots=True)
class SameAs:
    """The text of another field, without regard to case."""

    field: str
    place: Place = Place.WHOLE


Test = Text | Pattern | Regex | Cidr | Number | Compare | Exists | Null | SameAs


@dataclass(frozen=True, slots=True)
class Atom:
    """A test of one field. ``field`` None: a keyword, any text of the event will do."""

    field: str | None
    test: Test


@dataclass(frozen=True, slots=True)
class And:
    """All of these."""

    nodes: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of these."""

    nodes: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """Not this."""

    node: "Node"


Node = And | Or | Not | Atom


def all_of(nodes: "list[Node]") -> Node:
    """The conjunction of ``nodes``, nested ones drawn in; one node is itself.

    Raises:
        ValueError: There is none: an empty list of conditions never means yes.
    """
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.nodes if isinstance(node, And) else (node,))
    if not flat:
        raise ValueError("no conditions")
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def any_of(nodes: "list[Node]") -> Node:
    """The disjunction of ``nodes``; otherwise as ``all_of``."""
    flat: list[Node] = []
    for node in nodes:
        flat.extend(node.nodes if isinstance(node, Or) else (node,))
    if not flat:
        raise ValueError("no conditions")
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def atoms(node: Node) -> Iterator[tuple[Atom, bool]]:
    """Every atom of the tree, and whether it is demanded (True) or stands under an odd number of nots."""
    stack = [(node, True)]
    while stack:
        here, positive = stack.pop()
        if isinstance(here, Atom):
            yield here, positive
        elif isinstance(here, Not):
            stack.append((here.node, not positive))
        else:
            stack.extend((child, positive) for child in reversed(here.nodes))


def depth(node: Node) -> int:
    """Levels of the tree; an atom is one."""
    deepest = 0
    stack = [(node, 1)]
    while stack:
        here, level = stack.pop()
        deepest = max(deepest, level)
        if isinstance(here, Not):
            stack.append((here.node, level + 1))
        elif not isinstance(here, Atom):
            stack.extend((child, level + 1) for child in here.nodes)
    return deepest


def squeeze(parts: Sequence[str | Wild]) -> list[str | Wild]:
    """The same pattern with neighbouring literals joined, and neighbouring ``*``."""
    squeezed: list[str | Wild] = []
    for part in parts:
        last = squeezed[-1] if squeezed else None
        if isinstance(part, str) and isinstance(last, str):
            squeezed[-1] = last + part
        elif part != "" and (part is not Wild.ANY or last is not Wild.ANY):
            squeezed.append(part)
    return squeezed


def text_pattern(parts: list[str | Wild], *, cased: bool = False) -> Test:  # noqa: PLR0911 - one answer per shape
    """The simplest test that means the same as these literals and wildcards over the whole text."""
    squeezed = squeeze(parts)
    match squeezed:
        case []:
            return Text(Place.WHOLE, "", cased)
        case [Wild.ANY]:
            return Exists(exists=True)
        case [str(text)]:
            return Text(Place.WHOLE, text, cased)
        case [Wild.ANY, str(text), Wild.ANY]:
            return Text(Place.INSIDE, text, cased)
        case [Wild.ANY, str(text)]:
            return Text(Place.END, text, cased)
        case [str(text), Wild.ANY]:
            return Text(Place.START, text, cased)
        case _:
            return Pattern(tuple(squeezed), cased)
