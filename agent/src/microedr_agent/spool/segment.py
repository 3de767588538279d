"""One segment file: header, sealed frames one after the other, and a seal once it is full.

    header   magic "MES1" | crc32c | version u16 | lane u8 | 0 u8 | epoch 16 | number u64 | first_seq u64
             | previous chain 32 | created_unix_ns u64                                         84 bytes
    frames   as in microedr.frame, each chained to the one before it
    seal     magic "MESS" | crc32c | frames u32 | 0 u32 | last_seq u64 | last chain 32          56 bytes

Little endian. A crc covers what follows it. The name is ``<number>.<lane>.<epoch>.seg``: numbers
grow over all epochs and lanes of a spool, so the order of files never depends on a clock.
Not here: writing (``writer``), what to do about damage (``recovery``).
"""

import mmap
import re
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c

from microedr.frame import MAGIC as FRAME_MAGIC
from microedr.frame import FrameError, FrameHeader, chain_of, read_header, verify
from microedr_agent.errors import SpoolFormatError

HEADER_MAGIC = b"MES1"
SEAL_MAGIC = b"MESS"
VERSION = 1
_HEADER = struct.Struct("<4sIHBB16sQQ32sQ")
_SEAL = struct.Struct("<4sIIIQ32s")
_UNCHECKED_BYTES = 8  # magic and the checksum itself
HEADER_BYTES = _HEADER.size
SEAL_BYTES = _SEAL.size
Content = bytes | mmap.mmap
"""A whole segment; only slices of it are copied."""
_NAME = re.compile(r"(\d{12})\.(\d{1,3})\.([0-9a-f]{32})\.seg", re.ASCII)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself."""

    lane: int
    epoch: uuid.UUID
    number: int
    first_seq: int
    previous_chain: bytes
    created_unix_ns: int

    def encode(self) -> bytes:
        """The first bytes of the file."""
        checked = _HEADER.pack(
            HEADER_MAGIC,
            0,
            VERSION,
            self.lane,
            0,
            self.epoch.bytes,
            self.number,
            self.first_seq,
            self.previous_chain,
            self.created_unix_ns,
        )[_UNCHECKED_BYTES:]
        return HEADER_MAGIC + checksum(checked) + checked


@dataclass(frozen=True, slots=True)
class Seal:
    """The last words of a full segment: nothing follows, and this much came before."""

    frames: int
    last_seq: int
    last_chain: bytes

    def encode(self) -> bytes:
        """The last bytes of the file."""
        checked = _SEAL.pack(SEAL_MAGIC, 0, self.frames, 0, self.last_seq, self.last_chain)[_UNCHECKED_BYTES:]
        return SEAL_MAGIC + checksum(checked) + checked


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What the name of a file says, known before it is opened."""

    number: int
    lane: int
    epoch: uuid.UUID

    def __str__(self) -> str:
        return f"{self.number:012d}.{self.lane}.{self.epoch.hex}.seg"


@dataclass(frozen=True, slots=True)
class ScannedFrame:
    """A whole, undamaged frame at a place in a segment."""

    offset_bytes: int
    header: FrameHeader
    chain: bytes

    @property
    def end_bytes(self) -> int:
        """Where the next one begins."""
        return self.offset_bytes + self.header.sealed_bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no frame of this segment."""

    offset_bytes: int
    end_bytes: int
    at_end: bool
    """Nothing good follows: most likely the write that was under way when the host stopped."""


def checksum(data: bytes) -> bytes:
    """CRC32C, 4 bytes."""
    value: int = google_crc32c.value(data)
    return value.to_bytes(4, "little")


def parse_name(name: str) -> SegmentName | None:
    """What ``name`` says; None when it is no segment's."""
    found = _NAME.fullmatch(name)
    if found is None or int(found[2]) > 255:  # noqa: PLR2004 - a lane is one byte
        return None
    return SegmentName(int(found[1]), int(found[2]), uuid.UUID(hex=found[3]))


def read_segment_header(data: bytes) -> SegmentHeader:
    """The header at the start of ``data``.

    Raises:
        SpoolFormatError: It is damaged or of another version.
    """
    if len(data) < HEADER_BYTES or data[:4] != HEADER_MAGIC:
        raise SpoolFormatError("does not begin with a segment header")
    if checksum(data[_UNCHECKED_BYTES:HEADER_BYTES]) != data[4:_UNCHECKED_BYTES]:
        raise SpoolFormatError("the CRC32C of the segment header differs")
    _, _, version, lane, _, epoch, number, first_seq, chain, created = _HEADER.unpack_from(data)
    if version != VERSION:
        raise SpoolFormatError(f"segment version {version}, known is {VERSION}")
    return SegmentHeader(lane, uuid.UUID(bytes=epoch), number, first_seq, chain, created)


def read_seal(data: bytes) -> Seal | None:
    """The seal that is exactly ``data``; None when it is none."""
    if len(data) != SEAL_BYTES or data[:4] != SEAL_MAGIC:
        return None
    if checksum(data[_UNCHECKED_BYTES:]) != data[4:_UNCHECKED_BYTES]:
        return None
    _, _, frames, _, last_seq, chain = _SEAL.unpack(data)
    return Seal(frames, last_seq, chain)


def frame_at(data: Content, offset: int, name: SegmentName) -> ScannedFrame | None:
    """The frame at ``offset`` of ``data``, a segment's content; None when there is no whole one of this segment."""
    try:
        header = read_header(data[offset : offset + 64])
        if offset + header.sealed_bytes > len(data) or not belongs(header, name):
            return None
        sealed = data[offset : offset + header.sealed_bytes]
        verify(sealed)
    except FrameError:
        return None
    return ScannedFrame(offset, header, chain_of(sealed))


def belongs(header: FrameHeader, name: SegmentName) -> bool:
    """Whether a frame is of this segment's epoch and lane.

    The epoch is a random number that no other user of the host knows: bytes of an event that look like
    a frame, found while looking for the next one behind a damage, never pass for one.
    """
    return header.lane == name.lane and header.epoch_id == str(name.epoch)


def scan_frames(data: Content, name: SegmentName) -> Iterator[ScannedFrame | Damage | Seal]:
    """Everything behind the header of a segment, in order.

    A damage ends where the next whole frame or the seal begins, so it costs the frames it lies in and
    no other. ``data`` may be an ``mmap``: only one frame at a time is copied out of it.
    """
    offset = HEADER_BYTES
    end = len(data)
    last_seq = 0
    while offset < end:
        if end - offset == SEAL_BYTES and (seal := read_seal(data[offset:])) is not None:
            yield seal
            return
        frame = frame_at(data, offset, name)
        if frame is not None and frame.header.first_seq > last_seq:
            yield frame
            offset, last_seq = frame.end_bytes, frame.header.last_seq
            continue
        following = _next_good(data, offset + 1, name)
        yield Damage(offset, following, following == end)
        offset = following


def next_frame(data: Content, offset: int, name: SegmentName) -> ScannedFrame | None:
    """The first whole frame at or behind ``offset``; None when there is none."""
    while (offset := data.find(FRAME_MAGIC, offset)) >= 0:
        if (frame := frame_at(data, offset, name)) is not None:
            return frame
        offset += 1
    return None


def _next_good(data: Content, offset: int, name: SegmentName) -> int:
    if (frame := next_frame(data, offset, name)) is not None:
        return frame.offset_bytes
    end = len(data)
    seal_at = end - SEAL_BYTES
    return seal_at if seal_at >= HEADER_BYTES and read_seal(data[seal_at:]) is not None else end
