"""What the agent's processes say to each other: small messages of fixed shape, one per datagram.

``kind (1 byte) | version (1 byte) | fields``, little endian. Fixed structs rather than protobuf: a
peer may have been taken over, and what cannot vary needs no parser. Orders and results are opaque
bytes here; the responder alone looks into an order, and only after its signature held.

    sensor → uploader      SensorGreeting, Extent
    uploader → sensor      SpoolAck, SpoolRefusal
    responder → uploader   SessionNonce, ActionReport
    uploader → responder   ActionOrder, ActionReportAck
"""

import enum
import struct
import uuid
from dataclasses import dataclass

from microedr_agent.errors import IpcMessageError

VERSION = 1
"""Grows when any message changes; both ends come from one installation, so no other is understood."""
NONCE_BYTES = 16
MAX_DATAGRAM_BYTES = 32 * 1024
"""A signed order is at most 16 KiB and its signatures; all else is far smaller."""
_PREFIX = struct.Struct("<BB")
MAX_TEXT_BYTES = 1024
"""Texts for a person are cut to this."""


@dataclass(frozen=True, slots=True)
class SensorGreeting:
    """First message of the sensor: what the uploader needs for its hello."""

    epoch: uuid.UUID
    collector: str
    """"ebpf" and the like; empty: none runs."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Frames that are durable: whole ones, nothing between them, from ``begin_bytes`` to ``end_bytes`` of one segment.

    It is a promise: until the events are acknowledged or given up these bytes do not change.
    """

    epoch: uuid.UUID
    lane: int
    segment: int
    """Number in the segment's file name."""
    begin_bytes: int
    end_bytes: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class SpoolAck:
    """The backend has everything of this epoch and lane up to and including ``through_seq``."""

    epoch: uuid.UUID
    lane: int
    through_seq: int


@dataclass(frozen=True, slots=True)
class SpoolRefusal:
    """These events will never be taken: the backend refused them for good, or their frame cannot be read."""

    epoch: uuid.UUID
    lane: int
    first_seq: int
    last_seq: int
    reason: int
    """A ``LossReason`` of the contract: REFUSED or SPOOL_CORRUPT."""
    detail: str


@dataclass(frozen=True, slots=True)
class SessionNonce:
    """First message of the responder: orders are bound to it. 16 bytes."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class ActionOrder:
    """A serialised SignedAction, as it came."""

    signed: bytes


@dataclass(frozen=True, slots=True)
class ActionReport:
    """A serialised ActionResult. Sent again after a reconnect until its number is acknowledged."""

    number: int
    result: bytes


@dataclass(frozen=True, slots=True)
class ActionReportAck:
    """The backend has this report; the responder may forget it."""

    number: int


Message = (
    SensorGreeting | Extent | SpoolAck | SpoolRefusal | SessionNonce | ActionOrder | ActionReport | ActionReportAck
)

_EXTENT = struct.Struct("<16sBQQQQQ")
_ACK = struct.Struct("<16sBQ")
_REFUSAL = struct.Struct("<16sBQQH")
_NUMBER = struct.Struct("<Q")
_EPOCH_BYTES = 16


class _Kind(enum.IntEnum):
    GREETING = 1
    EXTENT = 2
    ACK = 3
    REFUSAL = 4
    NONCE = 5
    ORDER = 6
    REPORT = 7
    REPORT_ACK = 8


def encode_message(message: Message) -> bytes:
    """One datagram.

    Raises:
        IpcMessageError: The message is larger than a datagram may be, or a number does not fit.
    """
    try:
        kind, fields = _encode_fields(message)
    except struct.error as error:
        raise IpcMessageError(f"a {type(message).__name__} does not fit: {error}") from error
    raw = _PREFIX.pack(kind, VERSION) + fields
    if len(raw) > MAX_DATAGRAM_BYTES:
        raise IpcMessageError(f"{len(raw)} bytes are more than a datagram may hold, {MAX_DATAGRAM_BYTES}")
    return raw


def decode_message(raw: bytes) -> Message:
    """The message in one datagram.

    Raises:
        IpcMessageError: It is not exactly one message of this version.
    """
    if len(raw) < _PREFIX.size:
        raise IpcMessageError(f"{len(raw)} bytes are no message")
    kind, version = _PREFIX.unpack_from(raw)
    if version != VERSION:
        raise IpcMessageError(f"message version {version}, known is {VERSION}")
    try:
        return _decode_fields(kind, raw[_PREFIX.size :])
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise IpcMessageError(f"a message of kind {kind} does not parse: {error}") from error


def _text(text: str) -> bytes:
    # errors="ignore" drops a character that the cut went through.
    return text.encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore").encode()


def _encode_fields(message: Message) -> tuple[int, bytes]:  # noqa: PLR0911 - one return per kind
    match message:
        case SensorGreeting(epoch, collector):
            return _Kind.GREETING, epoch.bytes + _text(collector)
        case Extent(epoch, lane, segment, begin, end, first, last):
            return _Kind.EXTENT, _EXTENT.pack(epoch.bytes, lane, segment, begin, end, first, last)
        case SpoolAck(epoch, lane, through):
            return _Kind.ACK, _ACK.pack(epoch.bytes, lane, through)
        case SpoolRefusal(epoch, lane, first, last, reason, detail):
            return _Kind.REFUSAL, _REFUSAL.pack(epoch.bytes, lane, first, last, reason) + _text(detail)
        case SessionNonce(nonce):
            if len(nonce) != NONCE_BYTES:
                raise IpcMessageError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
            return _Kind.NONCE, nonce
        case ActionOrder(signed):
            return _Kind.ORDER, signed
        case ActionReport(number, result):
            return _Kind.REPORT, _NUMBER.pack(number) + result
        case ActionReportAck(number):
            return _Kind.REPORT_ACK, _NUMBER.pack(number)


def _decode_fields(kind: int, fields: bytes) -> Message:  # noqa: PLR0911 - one return per kind
    match kind:
        case _Kind.GREETING:
            return SensorGreeting(uuid.UUID(bytes=fields[:_EPOCH_BYTES]), fields[_EPOCH_BYTES:].decode())
        case _Kind.EXTENT:
            epoch, *numbers = _EXTENT.unpack(fields)
            return Extent(uuid.UUID(bytes=epoch), *numbers)
        case _Kind.ACK:
            epoch, lane, through = _ACK.unpack(fields)
            return SpoolAck(uuid.UUID(bytes=epoch), lane, through)
        case _Kind.REFUSAL:
            epoch, lane, first, last, reason = _REFUSAL.unpack_from(fields)
            detail = fields[_REFUSAL.size :].decode()
            return SpoolRefusal(uuid.UUID(bytes=epoch), lane, first, last, reason, detail)
        case _Kind.NONCE if len(fields) == NONCE_BYTES:
            return SessionNonce(fields)
        case _Kind.ORDER:
            return ActionOrder(fields)
        case _Kind.REPORT:
            (number,) = _NUMBER.unpack_from(fields)
            return ActionReport(number, fields[_NUMBER.size :])
        case _Kind.REPORT_ACK:
            return ActionReportAck(*_NUMBER.unpack(fields))
        case _:
            raise ValueError("no such kind, or not its size")
