"""Messages of the contract as JSON for people: names of the contract, ids and addresses as text, numbers as numbers.

protobuf's own JSON writes bytes in base64 and 64-bit numbers as strings; neither can be compared with what
other tools print.
"""

import ipaddress
import uuid
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_UUID_FIELDS = frozenset({"event_id", "match_id"})
_UUID_BYTES = 16


def readable(message: Message) -> dict[str, Any]:
    """Fields that are set, by name, in the order of their numbers."""
    shown: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            shown[field.name] = dict(value)
        elif field.is_repeated:
            shown[field.name] = [_value(field, item) for item in value]
        else:
            shown[field.name] = _value(field, value)
    return shown


def complete(message: Message) -> dict[str, Any]:
    """As ``readable``, with the fields that are not set as well: 0, empty, or no message at all."""
    unset = {
        field.name: [] if field.is_repeated else _value(field, field.default_value)
        for field in message.DESCRIPTOR.fields
        if field.is_repeated or field.message_type is None
    }
    shown = {**unset, **readable(message)}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated and field.message_type is not None and not field.message_type.GetOptions().map_entry:
            shown[field.name] = [complete(item) for item in getattr(message, field.name)]
    return shown


def event_id_text(raw: bytes) -> str:
    """The id of an event as UUID text; hex when it is none."""
    return str(uuid.UUID(bytes=raw)) if len(raw) == _UUID_BYTES else raw.hex()


def _value(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return readable(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(field.name, value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum(field, value)
    return value


def _bytes(name: str, value: bytes) -> str:
    if name in _UUID_FIELDS:
        return event_id_text(value)
    if name == "ip" or name.endswith("_ip"):
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            return value.hex()
    return value.hex()


def _enum(field: Any, number: int) -> str:
    kind = field.enum_type
    known = kind.values_by_number.get(number) if kind is not None else None
    if kind is None or known is None:
        return str(number)
    # The value of number 0 is PREFIX_UNSPECIFIED in every enumeration of the contract.
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(known.name.removeprefix(prefix).lower())
