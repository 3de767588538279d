"""Which of our events a Sigma log source means."""

from dataclasses import dataclass

from microedr_rules.ast import Atom, Node, Not, Or, Place, Text
from microedr_rules.fields import EVENT_TYPES


@dataclass(frozen=True, slots=True)
class Source:
    """Kinds of events, and what else must hold for an event to belong to the log source."""

    kinds: tuple[str, ...]
    condition: Node | None = None
    gap: str = ""
    """Why there are no kinds."""


def _file_ops(*words: str) -> Node:
    return Or(tuple(Atom("file.op", Text(Place.WHOLE, word)) for word in words))


NOT_A_CLOSE = Not(Atom("net.phase", Text(Place.WHOLE, "close")))
"""A connection is told when it opens and when it ends; rules mean the first unless they say otherwise."""

_LINUX: dict[str, Source] = {
    "process_creation": Source(("proc_exec",)),
    "process_termination": Source(("proc_exit",)),
    "network_connection": Source(("net_conn",), NOT_A_CLOSE),
    "dns_query": Source(("dns_query",)),
    "dns": Source(("dns_query",)),
    "file_event": Source(("file_write",), _file_ops("create", "modify", "rename", "link", "truncate")),
    "file_change": Source(("file_write",), _file_ops("chmod", "chown", "modify")),
    "file_rename": Source(("file_write",), _file_ops("rename")),
    "file_delete": Source(("file_write",), _file_ops("delete")),
}


def source_of(product: str | None, category: str | None, service: str | None) -> Source:
    """The events a log source means; without kinds when our telemetry has none of them."""
    if product == "microedr":
        kind = EVENT_TYPES.get(category or "")
        if kind is None or service:
            return Source((), gap=f"product microedr has the categories {', '.join(EVENT_TYPES)} and no services")
        return Source((kind,), NOT_A_CLOSE if kind == "net_conn" else None)
    if service:
        return Source((), gap=f"log source service {service!r} is not in our telemetry")
    if product not in {"linux", None}:
        return Source((), gap=f"log source product {product!r} is not mapped")
    if category not in _LINUX:
        return Source((), gap=f"log source category {category!r} is not in our telemetry")
    return _LINUX[category]


def describe(product: str | None, category: str | None, service: str | None) -> str:
    """The log source as people write it, ``linux/process_creation``."""
    return "/".join(filter(None, (product, category, service)))
