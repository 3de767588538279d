"""sigma-lite: the short rule language of microedr, for one event at a time.

    id: R1001
    name: Fetch by a shell
    match:
      event_type: proc.exec
      any:
        - process.exe: /usr/bin/curl
        - process.exe: /usr/bin/wget
      contains:
        process.cmdline: ["| bash", "| sh"]
    severity: high

A block demands everything in it. It holds fields with the values they must equal (one of a list), and
operators: ``contains``, ``contains_all``, ``starts_with``, ``ends_with``, ``regex``, ``cidr``, ``gt``, ``gte``, ``lt``,
``lte``, ``exists``, each a mapping of fields to values; ``any``, ``all`` and ``none``, each a list of blocks.
Values are literal: ``*`` and ``?`` are themselves. A field that the event type does not have is an error here,
not a gap: these rules are written for our events.
"""

import ipaddress
from collections.abc import Callable
from typing import Any

from microedr_rules.ast import (
    Atom,
    Cidr,
    Compare,
    Exists,
    Node,
    Not,
    Number,
    Order,
    Place,
    Regex,
    Test,
    Text,
    all_of,
    any_of,
    atoms,
)
from microedr_rules.documents import Place as Where
from microedr_rules.errors import RuleError
from microedr_rules.fields import EVENT_TYPES, lookup, similar
from microedr_rules.logsource import NOT_A_CLOSE, Source
from microedr_rules.metadata import OWN_KEYS, read_own_keys, read_severity
from microedr_rules.parsed import ParsedRule
from microedr_rules.reading import Reader
from microedr_rules.regexes import compile_regex

_KEYS = OWN_KEYS | {
    "id",
    "name",
    "title",
    "description",
    "author",
    "status",
    "date",
    "modified",
    "tags",
    "references",
    "falsepositives",
    "severity",
    "level",
    "match",
}
_BLOCKS = ("any", "all", "none")
_MAX_ID_CHARS = 128


def parse_lite(reader: Reader, *, builtin: bool) -> ParsedRule:
    """The rule in a document with ``match:``.

    Raises:
        RuleError: Something in it is unknown, missing or wrong.
    """
    reader.mapping(keys=_KEYS)
    severity = read_severity(reader, "severity" if reader.value("severity") is not None else "level")
    status = reader.text("status")
    rule_id = reader.text("id", required=True)
    if len(rule_id) > _MAX_ID_CHARS or not rule_id.isprintable():
        raise reader.error(f"id must be at most {_MAX_ID_CHARS} printable characters", "id")
    kinds = _kinds(reader)
    condition = _Block(reader, kinds).node("match")
    if "net_conn" in kinds and not _asks_for_phase(condition):
        condition = all_of([condition, NOT_A_CLOSE])
    return ParsedRule(
        rule_id=rule_id,
        title=reader.text("name") or reader.text("title", required=True),
        severity=severity,
        own=read_own_keys(reader, severity=severity, status=status, builtin=builtin),
        condition=condition,
        source=Source(kinds),
        language="lite",
        description=reader.text("description").strip(),
        author=reader.text("author"),
        status=status,
        logsource=",".join(reader.texts("match", "event_type")),
        tags=reader.texts("tags"),
        references=reader.texts("references"),
        falsepositives=reader.texts("falsepositives"),
    )


def _kinds(reader: Reader) -> tuple[str, ...]:
    reader.mapping("match")
    types = reader.texts("match", "event_type")
    if not types:
        raise reader.error("event_type is missing", "match", "event_type")
    for name in types:
        if name not in EVENT_TYPES:
            raise reader.error(
                f"unknown event type {name!r}; known are {', '.join(EVENT_TYPES)}", "match", "event_type"
            )
    return tuple(dict.fromkeys(EVENT_TYPES[name] for name in types))


def _asks_for_phase(condition: Node) -> bool:
    return any(atom.field in {"net.phase", "payload.phase"} for atom, _positive in atoms(condition))


class _Block:
    """Builds the tree of one rule's ``match``."""

    def __init__(self, reader: Reader, kinds: tuple[str, ...]) -> None:
        self._reader = reader
        self._kinds = kinds
        self._operators: dict[str, Callable[[Any], Test]] = {
            "contains": lambda value: _literal(Place.INSIDE, value),
            "starts_with": lambda value: _literal(Place.START, value),
            "ends_with": lambda value: _literal(Place.END, value),
            "regex": _regex,
            "cidr": _cidr,
            "gt": lambda value: _compare(Order.GT, value),
            "gte": lambda value: _compare(Order.GTE, value),
            "lt": lambda value: _compare(Order.LT, value),
            "lte": lambda value: _compare(Order.LTE, value),
            "exists": _exists,
        }

    def node(self, *place: str | int) -> Node:
        """The conjunction of everything in the block at ``place``."""
        block = self._reader.mapping(*place)
        nodes: list[Node] = []
        for key in block:
            here = (*place, key)
            if place == ("match",) and key == "event_type":
                continue
            if key in _BLOCKS:
                nodes.append(self._list(key, here))
            elif key == "contains_all":
                nodes.extend(self._fields(here, self._operators["contains"], all_of))
            elif key in self._operators:
                nodes.extend(self._fields(here, self._operators[key], any_of))
            else:
                nodes.append(self._field(key, here, _equals, any_of))
        if not nodes:
            raise self._reader.error("the block is empty and would match every event", *place)
        return all_of(nodes)

    def _list(self, key: str, place: Where) -> Node:
        blocks = [self.node(*place, index) for index in range(len(self._reader.items(*place)))]
        if not blocks:
            raise self._reader.error(f"{key} is empty", *place)
        if key == "all":
            return all_of(blocks)
        return any_of(blocks) if key == "any" else Not(any_of(blocks))

    def _fields(self, place: Where, test: Callable[[Any], Test], join: Callable[[list[Node]], Node]) -> list[Node]:
        fields = self._reader.mapping(*place)
        if not fields:
            raise self._reader.error(f"{place[-1]} is empty", *place)
        return [self._field(name, (*place, name), test, join) for name in fields]

    def _field(self, name: str, place: Where, test: Callable[[Any], Test], join: Callable[[list[Node]], Node]) -> Node:
        self._check_field(name, place)
        value = self._reader.value(*place)
        values = self._reader.items(*place) if isinstance(value, list) else [value]
        if not values:
            raise self._reader.error(f"{name} has no values", *place)
        try:
            return join([Atom(name, test(one)) for one in values])
        except RuleError as error:
            raise self._reader.error(f"{name}: {error.detail}", *place) from error

    def _check_field(self, name: str, place: Where) -> None:
        for kind in self._kinds:
            if lookup(kind, name) is None:
                close = similar(kind, name)
                hint = f"; did you mean {close}?" if close else ""
                raise self._reader.error(
                    f"unknown field or operator {name!r} for {kind.replace('_', '.', 1)}{hint}", *place
                )


def _equals(value: Any) -> Test:
    if isinstance(value, bool):
        return Text(Place.WHOLE, "true" if value else "false")
    if isinstance(value, int | float):
        return Number(value)
    if isinstance(value, str):
        return Text(Place.WHOLE, value)
    raise RuleError("the value must be a text, a number or a list of them")


def _literal(place: Place, value: Any) -> Test:
    if isinstance(value, bool | dict | list) or value is None or value == "":
        raise RuleError("the value must be a text that is not empty, or a list of them")
    return Text(place, str(value))


def _regex(value: Any) -> Test:
    if not isinstance(value, str) or not value:
        raise RuleError("the value must be a regular expression")
    regex = Regex(value)
    compile_regex(regex)
    return regex


def _cidr(value: Any) -> Test:
    try:
        return Cidr(ipaddress.ip_network(value if isinstance(value, str) else ""))
    except ValueError as error:
        raise RuleError(f"not a network: {error}") from error


def _compare(order: Order, value: Any) -> Test:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError("the value must be a number")
    return Compare(order, value)


def _exists(value: Any) -> Test:
    if not isinstance(value, bool):
        raise RuleError("the value must be true or false")
    return Exists(value)
