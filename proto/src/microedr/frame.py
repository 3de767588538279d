"""Sealed frames: the one form events have in the spool, on the wire and, opened, on the bus.

A frame is ``header | body | chain``. The body is zstd over the length-prefixed EventBatch, which
is the bus record's value byte for byte. The chain is SHA-256 over the previous frame's chain,
this header and this body, so that a run of frames proves that none is missing or changed.
The layout is drawn in docs/wire-protocol.md. Not here: files (the agent's spool) and events.
"""

import enum
import hashlib
import struct
import uuid
from dataclasses import dataclass

import google_crc32c
import zstandard

from microedr.limits import (
    MAX_BATCH_EVENTS,
    MAX_FRAME_RATIO,
    MAX_FRAME_RAW_BYTES,
    MAX_MESSAGE_BYTES,
    SCHEMA_VERSION,
)

MAGIC = b"MEF1"
VERSION = 1
FIRST_CHAIN = bytes(32)
"""What the first frame of an epoch and lane is chained to."""

_HEADER = struct.Struct("<4sIBBHIQ16sIIQ")
_UNCHECKED_BYTES = 8  # magic and the checksum itself
HEADER_BYTES = _HEADER.size
CHAIN_BYTES = 32
MAX_SEALED_BYTES = MAX_MESSAGE_BYTES - 1024
"""Leaves room for the envelope around the frame within one gRPC message."""

_compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
_decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 20)


class FrameFault(enum.Enum):
    """What is wrong with a frame; the names are those of ``RefusalReason``."""

    MALFORMED = "malformed"
    CHECKSUM = "checksum"
    VERSION = "version"
    SCHEMA_VERSION = "schema_version"
    TOO_LARGE = "too_large"
    TOO_MANY_EVENTS = "too_many_events"


class FrameError(Exception):
    """A frame cannot be used. ``fault`` says why; the text is for a person."""

    def __init__(self, fault: FrameFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame says of itself; sequences are dense, so ``last_seq`` follows."""

    lane: int
    schema_version: int
    count: int
    first_seq: int
    epoch_id: str
    body_bytes: int
    raw_bytes: int
    sealed_unix_ns: int

    @property
    def last_seq(self) -> int:
        """Sequence of the last event in the frame."""
        return self.first_seq + self.count - 1

    @property
    def sealed_bytes(self) -> int:
        """Size of the whole frame."""
        return HEADER_BYTES + self.body_bytes + CHAIN_BYTES


@dataclass(frozen=True, slots=True)
class SealedFrame:
    """A frame and the chain value that the next one continues."""

    sealed: bytes
    chain: bytes


def seal(  # noqa: PLR0913 - the header's fields
    raw: bytes,
    *,
    lane: int,
    epoch: uuid.UUID,
    first_seq: int,
    count: int,
    sealed_unix_ns: int,
    previous_chain: bytes,
    schema_version: int = SCHEMA_VERSION,
) -> SealedFrame:
    """Seal ``raw``, a length-prefixed EventBatch of ``count`` events, from ``first_seq`` on."""
    body = _compressor.compress(raw)
    checked = _HEADER.pack(
        MAGIC, 0, VERSION, lane, schema_version, count, first_seq, epoch.bytes, len(body), len(raw), sealed_unix_ns
    )[_UNCHECKED_BYTES:]
    chain = hashlib.sha256(b"".join((previous_chain, checked, body))).digest()
    checked = b"".join((checked, body, chain))
    crc = google_crc32c.value(checked)
    return SealedFrame(b"".join((MAGIC, crc.to_bytes(4, "little"), checked)), chain)


def read_header(data: bytes) -> FrameHeader:
    """Read the header at the start of ``data``, which may go on beyond the frame.

    Nothing but the header is looked at: use ``verify`` before trusting the rest.

    Raises:
        FrameError: MALFORMED, VERSION, TOO_LARGE or TOO_MANY_EVENTS.
    """
    if len(data) < HEADER_BYTES:
        raise FrameError(FrameFault.MALFORMED, f"{len(data)} bytes are less than a header of {HEADER_BYTES}")
    magic, _crc, version, lane, schema_version, count, first_seq, epoch, body_bytes, raw_bytes, sealed_unix_ns = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise FrameError(FrameFault.MALFORMED, "does not begin with the frame magic")
    if version != VERSION:
        raise FrameError(FrameFault.VERSION, f"frame version {version}, known is {VERSION}")
    if raw_bytes > MAX_FRAME_RAW_BYTES or HEADER_BYTES + body_bytes + CHAIN_BYTES > MAX_SEALED_BYTES:
        raise FrameError(
            FrameFault.TOO_LARGE,
            f"{body_bytes} bytes holding {raw_bytes}; allowed are {MAX_SEALED_BYTES} holding {MAX_FRAME_RAW_BYTES}",
        )
    if count > MAX_BATCH_EVENTS:
        raise FrameError(FrameFault.TOO_MANY_EVENTS, f"{count} events, allowed are {MAX_BATCH_EVENTS}")
    if count == 0 or first_seq == 0:
        raise FrameError(FrameFault.MALFORMED, "a frame holds at least one event and sequences begin at 1")
    return FrameHeader(
        lane=lane,
        schema_version=schema_version,
        count=count,
        first_seq=first_seq,
        epoch_id=str(uuid.UUID(bytes=epoch)),
        body_bytes=body_bytes,
        raw_bytes=raw_bytes,
        sealed_unix_ns=sealed_unix_ns,
    )


def verify(sealed: bytes) -> FrameHeader:
    """Check that ``sealed`` is exactly one whole, undamaged frame.

    Raises:
        FrameError: MALFORMED, CHECKSUM, VERSION, TOO_LARGE or TOO_MANY_EVENTS.
    """
    header = read_header(sealed)
    if len(sealed) != header.sealed_bytes:
        raise FrameError(FrameFault.MALFORMED, f"{len(sealed)} bytes where the header says {header.sealed_bytes}")
    crc = int.from_bytes(sealed[4:_UNCHECKED_BYTES], "little")
    if google_crc32c.value(sealed[_UNCHECKED_BYTES:]) != crc:
        raise FrameError(FrameFault.CHECKSUM, "the CRC32C differs")
    return header


def chain_of(sealed: bytes) -> bytes:
    """The chain value that a whole frame carries."""
    return sealed[-CHAIN_BYTES:]


def continues(sealed: bytes, previous_chain: bytes) -> bool:
    """Whether a whole frame follows the one whose chain value is ``previous_chain``."""
    content = sealed[_UNCHECKED_BYTES:-CHAIN_BYTES]
    return hashlib.sha256(previous_chain + content).digest() == chain_of(sealed)


def open_frame(sealed: bytes) -> tuple[FrameHeader, bytes]:
    """Verify a frame and decompress its content: the length-prefixed EventBatch.

    Memory is bounded by ``MAX_FRAME_RAW_BYTES`` whatever the body claims.

    Raises:
        FrameError: As ``verify``, and SCHEMA_VERSION, TOO_LARGE (ratio, size) or MALFORMED (not zstd).
    """
    header = verify(sealed)
    if header.schema_version != SCHEMA_VERSION:
        raise FrameError(
            FrameFault.SCHEMA_VERSION, f"schema version {header.schema_version}, known is {SCHEMA_VERSION}"
        )
    if header.raw_bytes > header.body_bytes * MAX_FRAME_RATIO:
        raise FrameError(FrameFault.TOO_LARGE, f"{header.body_bytes} bytes claim to hold {header.raw_bytes}")
    body = sealed[HEADER_BYTES:-CHAIN_BYTES]
    try:
        # The decompressor trusts a content size in the body, so it must be the header's before it is used.
        if zstandard.frame_content_size(body) != header.raw_bytes:
            raise FrameError(FrameFault.TOO_LARGE, "the body claims another size than the header")
        raw = _decompressor.decompress(body, max_output_size=header.raw_bytes)
    except zstandard.ZstdError as error:
        raise FrameError(FrameFault.MALFORMED, f"the body is not zstd: {error}") from error
    if len(raw) != header.raw_bytes:
        raise FrameError(FrameFault.MALFORMED, "the body is shorter than the header says")
    return header, raw
