"""Which frames are good: everything of them is checked before anything of them is published."""

from dataclasses import dataclass

from microedr.batch import BatchError, decode_batch
from microedr.frame import MAX_SEALED_BYTES, FrameError, FrameFault, FrameHeader, open_frame, read_header
from microedr.v1.event_pb2 import AgentEvent, AgentHeartbeat
from microedr.v1.transport_pb2 import RefusalReason
from microedr_ingest.errors import FrameRefusedError

_REASONS = {fault: RefusalReason.Value(f"REFUSAL_REASON_{fault.name}") for fault in FrameFault}

# Looked up once: a bound lookup for each event costs half as much again.
_which = AgentEvent.WhichOneof
_has = AgentEvent.HasField


@dataclass(frozen=True, slots=True)
class CheckedFrame:
    """A frame whose content may be published as it is."""

    header: FrameHeader
    raw: bytes
    """The record's value."""
    heartbeats: tuple[AgentHeartbeat, ...]


def check_frame(sealed: bytes, host_id: str) -> CheckedFrame:
    """Open ``sealed`` and check it against the host that sent it.

    Raises:
        FrameRefusedError: Something of it is wrong; the reason says what.
    """
    # A frame is good only if all of this holds:
    #
    # 1. It is whole, undamaged, of versions we know and within the limits (microedr.frame).
    # 2. Its content is one EventBatch.
    # 3. It has as many events as it says, in dense sequence from where it says.
    # 4. Every event is of one kind that we know.
    # 5. No event names another host than the certificate does.

    # 1.
    if len(sealed) > MAX_SEALED_BYTES:
        detail = f"{len(sealed)} bytes, allowed are {MAX_SEALED_BYTES}"
        raise FrameRefusedError(RefusalReason.REFUSAL_REASON_TOO_LARGE, detail, header=readable_header(sealed))
    try:
        header, raw = open_frame(sealed)
    except FrameError as error:
        raise FrameRefusedError(_REASONS[error.fault], str(error), header=readable_header(sealed)) from error

    # 2.
    try:
        events = list(decode_batch(raw).events)
    except BatchError as error:
        raise FrameRefusedError(RefusalReason.REFUSAL_REASON_MALFORMED, str(error), header=header) from error

    # 3.
    if len(events) != header.count:
        _refuse(header, "INCONSISTENT", f"{len(events)} events where the header says {header.count}")
    if [event.seqno for event in events] != list(range(header.first_seq, header.first_seq + header.count)):
        _refuse(header, "INCONSISTENT", f"sequences are not {header.first_seq} to {header.last_seq}")

    # 4.
    kinds = [_which(event, "kind") for event in events]
    if None in kinds:
        _refuse(header, "UNKNOWN_KIND", f"event {header.first_seq + kinds.index(None)} is of no known kind")

    # 5.
    named = {event.host_id for event in events}
    named.update(event.host.host_id for event in events if _has(event, "host"))
    if not named <= {"", host_id}:
        _refuse(header, "WRONG_HOST", "an event names another host than the certificate")

    heartbeats: tuple[AgentHeartbeat, ...] = ()
    if "agent_heartbeat" in kinds:
        heartbeats = tuple(
            e.agent_heartbeat for e, kind in zip(events, kinds, strict=True) if kind == "agent_heartbeat"
        )
    return CheckedFrame(header, raw, heartbeats)


def readable_header(sealed: bytes) -> FrameHeader | None:
    """What a bad frame says of itself, for the answer to it; None when it says nothing readable."""
    try:
        return read_header(sealed)
    except FrameError:
        return None


def _refuse(header: FrameHeader, reason: str, detail: str) -> None:
    raise FrameRefusedError(RefusalReason.Value(f"REFUSAL_REASON_{reason}"), detail, header=header)
