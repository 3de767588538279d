"""The plain evaluator: slow, obvious, and the oracle every faster stage must agree with."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from microedr.v1.event_pb2 import AgentEvent
from microedr_rules import access
from microedr_rules.ast import (
    And,
    Atom,
    Cidr,
    Compare,
    Exists,
    Node,
    Not,
    Null,
    Number,
    Or,
    Order,
    Pattern,
    Place,
    Regex,
    SameAs,
    Test,
    Text,
    Wild,
    fold,
)
from microedr_rules.fields import Field, FieldType, keyword_fields, lookup
from microedr_rules.regexes import Searcher, compile_regex

_MAX_SHOWN_CHARS = 512
"""Of a value in ``matched_fields``: they travel with every match and are for reading."""


def evaluate(node: Node, event: AgentEvent, kind: str) -> bool:
    """Whether ``event``, which is of ``kind``, is what ``node`` demands."""
    match node:
        case And(nodes):
            return all(evaluate(child, event, kind) for child in nodes)
        case Or(nodes):
            return any(evaluate(child, event, kind) for child in nodes)
        case Not(child):
            return not evaluate(child, event, kind)
        case Atom():
            return holds(node, event, kind)


def holds(atom: Atom, event: AgentEvent, kind: str) -> bool:
    """Whether one test holds. A field that the kind does not have is null and nothing else."""
    if atom.field is None:
        return any(_test(field, atom.test, event, kind) for field in keyword_fields(kind))
    field = lookup(kind, atom.field)
    if field is None:
        return isinstance(atom.test, Null) or atom.test == Exists(exists=False)
    return _test(field, atom.test, event, kind)


def matched_fields(node: Node, event: AgentEvent, kind: str) -> dict[str, str]:
    """The fields, as the rule names them, whose tests made ``node`` true, with the values found."""
    found: dict[str, str] = {}
    stack: list[tuple[Node, bool]] = [(node, True)]
    while stack:
        here, wanted = stack.pop()
        if isinstance(here, Not):
            stack.append((here.node, not wanted))
        elif isinstance(here, And | Or):
            stack.extend((child, wanted) for child in reversed(here.nodes) if evaluate(child, event, kind) == wanted)
        elif wanted and holds(here, event, kind):
            found.update(_shown(here, event, kind))
    return found


def _shown(atom: Atom, event: AgentEvent, kind: str) -> dict[str, str]:
    if atom.field is not None:
        return {atom.field: access.text_of(event, atom.field)[:_MAX_SHOWN_CHARS]}
    for field in keyword_fields(kind):
        if _test(field, atom.test, event, kind):
            return {field.name: ",".join(access.texts(field, event))[:_MAX_SHOWN_CHARS]}
    return {}


def _test(field: Field, test: Test, event: AgentEvent, kind: str) -> bool:  # noqa: C901, PLR0911 - one answer per test
    texts = access.texts(field, event)
    match test:
        case Exists(exists):
            return _exists(field, texts) == exists
        case Null():
            return not _exists(field, texts)
        case Number(number):
            if field.type is FieldType.NUMBER:
                return bool(access.raw(field, event) == number)
            return any(fold(text) == str(number) for text in texts)
        case Compare(order, number):
            return any(compares(text, order, number) for text in texts)
        case Cidr(network):
            return any(_within(text, network) for text in texts)
        case SameAs(name, place):
            other = lookup(kind, name)
            others = access.texts(other, event) if other else ()
            return any(b and _placed(a, b, place, cased=False) for a in texts for b in others)
        case Text(place, literal, cased):
            return any(_spelled(field, text, literal, place, cased=cased) for text in texts)
        case Pattern(parts, cased):
            return any(covers(parts, text, cased=cased) for text in texts)
        case Regex():
            return any(_search(test, text) for text in texts)


def _exists(field: Field, texts: Sequence[str]) -> bool:
    return field.type in {FieldType.NUMBER, FieldType.FLAG} or any(texts)


def _spelled(field: Field, text: str, literal: str, place: Place, *, cased: bool) -> bool:
    if field.type is FieldType.ADDRESS and place is Place.WHOLE:
        # ::1 and 0:0:0:0:0:0:0:1 are one address.
        packed = access.packed_address(literal)
        if packed is not None:
            return access.packed_address(text) == packed
    return _placed(text, literal, place, cased=cased)


def _placed(text: str, literal: str, place: Place, *, cased: bool) -> bool:
    if not cased:
        text, literal = fold(text), fold(literal)
    match place:
        case Place.WHOLE:
            return text == literal
        case Place.INSIDE:
            return literal in text
        case Place.START:
            return text.startswith(literal)
        case Place.END:
            return text.endswith(literal)


def compares(text: str, order: Order, number: float) -> bool:
    """Whether ``text`` is a number in this order to ``number``."""
    try:
        value = int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return False
    match order:
        case Order.LT:
            return value < number
        case Order.LTE:
            return value <= number
        case Order.GT:
            return value > number
        case Order.GTE:
            return value >= number
        case Order.NEQ:
            return value != number


def _within(text: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    packed = access.packed_address(text)
    return packed is not None and ipaddress.ip_address(packed) in network


def covers(parts: Sequence[str | Wild], text: str, *, cased: bool = False) -> bool:
    """Whether literals and wildcards cover the whole of ``text``: every prefix is tried, in one table."""
    units: list[str | Wild] = []
    for part in parts:
        units.extend([part] if isinstance(part, Wild) else (part if cased else fold(part)))
    text = text if cased else fold(text)
    reachable = {0}
    for unit in units:
        if unit is Wild.ANY:
            reachable = set(range(min(reachable), len(text) + 1)) if reachable else set()
        else:
            reachable = {at + 1 for at in reachable if at < len(text) and (unit is Wild.ONE or text[at] == unit)}
    return len(text) in reachable


@lru_cache(maxsize=4096)
def _compiled(regex: Regex) -> Searcher:
    return compile_regex(regex)


def _search(regex: Regex, text: str) -> bool:
    return _compiled(regex).search(text) is not None
