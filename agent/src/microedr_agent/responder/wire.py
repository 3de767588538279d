"""The protobuf wire format, read strictly: for bytes that reach a process with root's powers.

A general parser forgives much (unknown fields, repeated singular ones, groups) and costs 6 MB. Here
every field must be of the shape that was asked for; whatever else is there is an error. What the
fields mean is in ``action``, which tests compare with the contract.
"""

import enum
from collections.abc import Mapping

_MAX_VARINT_BITS = 64
_FIXED64_BYTES = 8
_CONTINUES = 0x80


class WireError(ValueError):
    """The bytes are not one message of the shape asked for."""


class Kind(enum.Enum):
    """How a field travels; the value is its wire type."""

    NUMBER = (0, "number")
    FIXED64 = (1, "fixed64")
    BYTES = (2, "bytes")
    TEXT = (2, "text")
    REPEATED_BYTES = (2, "repeated bytes")


Value = int | bytes | str
Fields = dict[int, list[Value]]


def read_fields(raw: bytes, shape: Mapping[int, Kind]) -> Fields:
    """The fields of one message, by number.

    Raises:
        WireError: A field is unknown, of another type, given twice, cut short, or not UTF-8.
    """
    fields: Fields = {}
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = shape.get(tag >> 3)
        if kind is None or tag & 7 != kind.value[0]:
            raise WireError(f"field {tag >> 3} of type {tag & 7} is not expected")
        values = fields.setdefault(tag >> 3, [])
        if values and kind is not Kind.REPEATED_BYTES:
            raise WireError(f"field {tag >> 3} is given twice")
        value, at = _value(raw, at, kind)
        values.append(value)
    return fields


def _value(raw: bytes, at: int, kind: Kind) -> tuple[Value, int]:
    if kind is Kind.NUMBER:
        return _varint(raw, at)
    length = _FIXED64_BYTES
    if kind is not Kind.FIXED64:
        length, at = _varint(raw, at)
    end = at + length
    if end > len(raw):
        raise WireError("a field is cut short")
    content = raw[at:end]
    if kind is Kind.FIXED64:
        return int.from_bytes(content, "little"), end
    if kind is Kind.TEXT:
        try:
            return content.decode(), end
        except UnicodeDecodeError as error:
            raise WireError("a text is not UTF-8") from error
    return content, end


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, _MAX_VARINT_BITS, 7):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < _CONTINUES:
            if number >> _MAX_VARINT_BITS or (byte == 0 and shift):
                break
            return number, at
    raise WireError("a number is cut short, too large or padded")


def write_number(field: int, number: int) -> bytes:
    """A varint field; empty for 0, which is what a missing field means."""
    return _write_varint(field << 3) + _write_varint(number) if number else b""


def write_fixed64(field: int, number: int) -> bytes:
    """A fixed64 field; empty for 0."""
    return _write_varint(field << 3 | 1) + number.to_bytes(_FIXED64_BYTES, "little") if number else b""


def write_text(field: int, text: str) -> bytes:
    """A string field; empty for the empty text."""
    content = text.encode(errors="replace")
    return _write_varint(field << 3 | 2) + _write_varint(len(content)) + content if content else b""


def _write_varint(number: int) -> bytes:
    out = bytearray()
    while number >= _CONTINUES:
        out.append(number & 0x7F | _CONTINUES)
        number >>= 7
    out.append(number)
    return bytes(out)
