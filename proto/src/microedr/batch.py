"""The length-prefixed EventBatch: a frame's content and a bus record's value."""

from google.protobuf.message import DecodeError

from microedr.v1.event_pb2 import EventBatch


class BatchError(Exception):
    """The bytes are not one length-prefixed EventBatch."""


def varint(number: int) -> bytes:
    """A non-negative number in protobuf's base-128 encoding."""
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_batch(batch: EventBatch) -> bytes:
    """``batch`` with its length in front."""
    content = batch.SerializeToString()
    return varint(len(content)) + content


def decode_batch(raw: bytes) -> EventBatch:
    """The batch in ``raw``.

    Raises:
        BatchError: The length does not fit or the content does not parse.
    """
    length = shift = index = 0
    for index, byte in enumerate(raw[:5], start=1):  # noqa: B007 - the size of the prefix is needed
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004
            break
    if index == 0 or index + length != len(raw):
        raise BatchError(f"{len(raw)} bytes do not hold one length-prefixed batch")
    try:
        return EventBatch.FromString(raw[index:])
    except DecodeError as error:
        raise BatchError(f"the batch does not parse: {error}") from error
