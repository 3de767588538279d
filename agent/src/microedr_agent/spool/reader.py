"""The uploader's side of the spool: the frames it was promised, in order, each until it is acknowledged.

Only bytes within a promise are ever read. Frames under way are not kept in memory: after a broken
stream ``rewind`` begins again at the first one without an acknowledgement, and reads it anew.
"""

import os
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from microedr.frame import FrameError, read_header
from microedr_agent.errors import SpoolError
from microedr_agent.ipc_messages import Extent
from microedr_agent.spool.accounts import LaneKey
from microedr_agent.spool.extents import joined
from microedr_agent.spool.segment import SegmentName, belongs, frame_at, next_frame

_PEEK_BYTES = 64
"""A frame's header, and no more than is needed of what follows."""


@dataclass(frozen=True, slots=True)
class OutgoingFrame:
    """A whole frame, its checksum verified."""

    epoch: uuid.UUID
    lane: int
    first_seq: int
    last_seq: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class UnreadableFrames:
    """Promised events that the disk has lost since."""

    epoch: uuid.UUID
    lane: int
    first_seq: int
    last_seq: int
    detail: str


@dataclass(slots=True)
class _Place:
    """A promise and how far it has been read and acknowledged, in bytes."""

    extent: Extent
    acked_bytes: int
    read_bytes: int
    next_seq: int

    @property
    def key(self) -> LaneKey:
        return LaneKey(self.extent.epoch, self.extent.lane)

    @property
    def name(self) -> SegmentName:
        return SegmentName(self.extent.segment, self.extent.lane, self.extent.epoch)


@dataclass(slots=True)
class _Sent:
    place: _Place
    end_bytes: int
    last_seq: int
    done: bool = False


class SpoolReader:
    """Reads one spool by promises. One thread; reads block for the disk, at most a frame at a time."""

    def __init__(self, directory: Path, directory_fd: int = -1) -> None:
        """Read ``directory``; ``directory_fd``, when given, is how: the path then serves for messages only."""
        self._directory = directory
        self._directory_fd = directory_fd
        self._places: deque[_Place] = deque()
        self._sent: deque[_Sent] = deque()
        self._acked: dict[LaneKey, int] = {}
        self._fd = -1
        self._open_name: SegmentName | None = None

    def promise(self, extent: Extent) -> None:
        """Something more may be read."""
        last = self._places[-1] if self._places else None
        both = joined(last.extent, extent) if last else None
        if last is not None and both is not None:
            last.extent = both
        else:
            self._places.append(_Place(extent, extent.begin_bytes, extent.begin_bytes, extent.first_seq))

    def forget_promises(self) -> None:
        """The sensor is gone; the next one promises anew."""
        self._places.clear()
        self._sent.clear()
        self._close()

    def rewind(self) -> None:
        """Whatever is not acknowledged is to be read once more."""
        self._sent.clear()
        for place in self._places:
            place.read_bytes = place.acked_bytes
            place.next_seq = max(place.extent.first_seq, self._acked.get(place.key, 0) + 1)

    def acknowledge(self, epoch: uuid.UUID, lane: int, through_seq: int) -> None:
        """Frames up to ``through_seq`` are done."""
        key = LaneKey(epoch, lane)
        self._acked[key] = max(self._acked.get(key, 0), through_seq)
        self._advance()
        live = {place.key for place in self._places} | {key}
        self._acked = {known: seq for known, seq in self._acked.items() if known in live}

    def settle(self, epoch: uuid.UUID, lane: int, last_seq: int) -> None:
        """What ends with ``last_seq`` is done without an acknowledgement: refused, or unreadable."""
        for sent in self._sent:
            if (sent.place.key, sent.last_seq) == (LaneKey(epoch, lane), last_seq):
                sent.done = True
        self._advance()

    def next(self) -> OutgoingFrame | UnreadableFrames | None:
        """The next frame to be sent, or what cannot be; None when all that is promised was read.

        Raises:
            SpoolError: The disk or its permissions forbid to read; nothing is given up for that.
        """
        for place in self._places:
            while place.read_bytes < place.extent.end_bytes:
                found = self._read(place)
                if found is not None:
                    return found
        return None

    def close(self) -> None:
        """Idempotent."""
        self.forget_promises()
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
        self._directory_fd = -1

    def _advance(self) -> None:
        while self._sent:
            oldest = self._sent[0]
            if not oldest.done and oldest.last_seq > self._acked.get(oldest.place.key, 0):
                break
            oldest.place.acked_bytes = oldest.end_bytes
            self._sent.popleft()
        while self._places and self._places[0].acked_bytes >= self._places[0].extent.end_bytes:
            self._places.popleft()

    def _read(self, place: _Place) -> OutgoingFrame | UnreadableFrames | None:
        try:
            self._open(place.name)
            peek = os.pread(self._fd, min(_PEEK_BYTES, place.extent.end_bytes - place.read_bytes), place.read_bytes)
            try:
                header = read_header(peek)
            except FrameError:
                return self._skip_damage(place)
            end = place.read_bytes + header.sealed_bytes
            if end > place.extent.end_bytes or not belongs(header, place.name):
                return self._skip_damage(place)
            wanted_from = max(place.extent.first_seq, self._acked.get(place.key, 0) + 1)
            if header.last_seq < wanted_from or header.first_seq > place.extent.last_seq:
                place.read_bytes = end
                if not self._sent or self._sent[-1].place is not place:
                    place.acked_bytes = end
                return None
            sealed = os.pread(self._fd, header.sealed_bytes, place.read_bytes)
        except FileNotFoundError:
            # Given up by the sensor since it was promised, and accounted for there.
            place.read_bytes = place.acked_bytes = place.extent.end_bytes
            return None
        except OSError as error:
            raise SpoolError(f"{self._directory / str(place.name)}: {error.strerror}") from error
        if frame_at(sealed, 0, place.name) is None:
            return self._skip_damage(place)
        place.read_bytes = end
        place.next_seq = header.last_seq + 1
        self._sent.append(_Sent(place, end, header.last_seq))
        return OutgoingFrame(place.extent.epoch, place.extent.lane, header.first_seq, header.last_seq, sealed)

    def _skip_damage(self, place: _Place) -> UnreadableFrames | None:
        """Look for the next whole frame; what lies before it is lost."""
        rest = os.pread(self._fd, place.extent.end_bytes - place.read_bytes, place.read_bytes)
        found = next_frame(rest, 1, place.name)
        damaged_at = place.read_bytes
        if found is None:
            place.read_bytes = place.extent.end_bytes
            last_lost = place.extent.last_seq
        else:
            place.read_bytes += found.offset_bytes
            last_lost = min(found.header.first_seq - 1, place.extent.last_seq)
        first_lost = max(place.next_seq, self._acked.get(place.key, 0) + 1)
        place.next_seq = last_lost + 1
        self._sent.append(_Sent(place, place.read_bytes, last_lost))
        if last_lost < first_lost:
            return None
        detail = f"{place.name}: damaged from byte {damaged_at}"
        return UnreadableFrames(place.extent.epoch, place.extent.lane, first_lost, last_lost, detail)

    def _open(self, name: SegmentName) -> None:
        if self._open_name != name:
            self._close()
            if self._directory_fd < 0:
                self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(str(name), flags, dir_fd=self._directory_fd)
            self._open_name = name

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._open_name = None
