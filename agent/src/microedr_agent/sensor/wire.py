"""Protobuf's wire format, as much of it as the sensor writes.

Why not protobuf: written by hand an event costs half the time, because what stays the same between events of
one process is kept as bytes, and the library's 4.5 MB stay out of the sensor. A test encodes the same facts
with the library and compares the messages.
"""

import struct

_LOW_BITS = 0x7F
_MORE = 0x80
_TWO_BYTES = 0x4000
_SMALL = 2048
_VARINT = 0
_FIXED64 = 1
_DELIMITED = 2
pack_fixed64 = struct.Struct("<Q").pack


def _long_varint(value: int) -> bytes:
    out = bytearray()
    while value > _LOW_BITS:
        out.append(value & _LOW_BITS | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL_VARINTS = tuple(_long_varint(value) for value in range(_SMALL))


def varint(value: int) -> bytes:
    """A number from 0 to 2**64 - 1."""
    if value < _SMALL:
        return _SMALL_VARINTS[value]
    if value < _TWO_BYTES:
        return bytes((value & _LOW_BITS | _MORE, value >> 7))
    return _long_varint(value)


def number_tag(field: int) -> bytes:
    """Before a varint."""
    return _long_varint(field << 3 | _VARINT)


def fixed64_tag(field: int) -> bytes:
    """Before eight bytes."""
    return _long_varint(field << 3 | _FIXED64)


def bytes_tag(field: int) -> bytes:
    """Before the length of a string, bytes or a message."""
    return _long_varint(field << 3 | _DELIMITED)


def number(tag: bytes, value: int) -> bytes:
    """A number; nothing when it is 0, as a reader takes what is missing for that."""
    return tag + varint(value) if value else b""


def text(tag: bytes, value: bytes) -> bytes:
    """Bytes or valid UTF-8; nothing when empty."""
    return tag + varint(len(value)) + value if value else b""


def message(tag: bytes, *parts: bytes) -> bytes:
    """A sub-message, there even when it is empty."""
    body = b"".join(parts)
    return tag + varint(len(body)) + body


def texts(tag: bytes, values: list[bytes]) -> bytes:
    """A repeated string; empty ones count."""
    return b"".join([tag + varint(len(value)) + value for value in values])
