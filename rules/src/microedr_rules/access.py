"""Reading a field's value off an event, plainly. ``compile`` generates faster code of the same meaning."""

import ipaddress
from functools import reduce
from typing import Any

from microedr.v1.event_pb2 import AgentEvent
from microedr_rules.fields import Field, FieldType, lookup

_V4_BYTES = 4
_V6_BYTES = 16


def address_text(packed: bytes) -> str:
    """The usual spelling of 4 or 16 packed bytes; empty for any other length."""
    if len(packed) == _V4_BYTES:
        return ".".join(map(str, packed))
    return str(ipaddress.IPv6Address(packed)) if len(packed) == _V6_BYTES else ""


def packed_address(text: str) -> bytes | None:
    """An address as events hold it: IPv4-mapped IPv6 becomes 4 bytes. None: ``text`` is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


def raw(field: Field, event: AgentEvent) -> Any:
    """The value as the message holds it."""
    value: Any = None
    for path in field.paths:
        value = reduce(getattr, path, event)
        if value:
            break
    return value


def texts(field: Field, event: AgentEvent) -> tuple[str, ...]:  # noqa: PLR0911 - one answer per type
    """The value as one or more texts; an unset one is a single empty text."""
    value = raw(field, event)
    match field.type:
        case FieldType.TEXT:
            return (value,)
        case FieldType.TEXTS:
            return tuple(value) or ("",)
        case FieldType.NUMBER:
            return (str(value),)
        case FieldType.FLAG:
            return ("true" if (value if field.yes is None else value == field.yes) else "false",)
        case FieldType.WORD:
            return (dict(field.words).get(value, ""),)
        case FieldType.ADDRESS:
            return (address_text(value),)
        case FieldType.HEX:
            return (value.hex(),)


def text_of(event: AgentEvent, name: str) -> str:
    """The text of the field ``name`` of ``event``, several joined by commas; empty when there is none."""
    kind = event.WhichOneof("kind")
    field = lookup(kind, name) if kind else None
    return "" if field is None else ",".join(texts(field, event))
