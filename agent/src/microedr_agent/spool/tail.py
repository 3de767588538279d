"""The segment that grows: made when the first frames come, synced with every write, sealed when full.

After an error its descriptor is dropped for good: a second fsync would report success for pages that the
kernel has thrown away. What was durable stays promised, and the next write makes a new segment.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microedr_agent.spool.accounts import LaneKey
from microedr_agent.spool.disk import Disk
from microedr_agent.spool.recovery import Run, Segment
from microedr_agent.spool.segment import Seal, SegmentHeader, SegmentName


@dataclass(frozen=True, slots=True)
class WaitingFrame:
    """A sealed frame that is not durable yet."""

    first_seq: int
    last_seq: int
    sealed: bytes
    previous_chain: bytes
    chain: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """Frames that became durable: the segment, which may be new to its owner, and where they lie in it."""

    segment: Segment
    run: Run


class Tail:
    """Where one lane of one epoch is written."""

    def __init__(self, directory: Path, key: LaneKey, segment_bytes: int, disk: Disk) -> None:
        self._directory = directory
        self._key = key
        self._segment_bytes = segment_bytes
        self._disk = disk
        self._fd = -1
        self._segment: Segment | None = None
        self._frames = 0
        self._last_chain = b""

    @property
    def segment(self) -> Segment | None:
        """The one being written; None when the next write makes one."""
        return self._segment

    def write(self, frames: Sequence[WaitingFrame], number: int) -> Written:
        """Append and sync; on return the frames, and the file's name, are durable.

        Args:
            frames: At least one, their sequences in order.
            number: For a new segment, should one be needed.

        Raises:
            OSError: Nothing of it is promised and the segment is given up.
        """
        is_new = self._segment is None
        try:
            segment, data = self._begin(frames[0], number) if self._segment is None else (self._segment, b"")
            begin = segment.size_bytes + len(data)
            data += b"".join(frame.sealed for frame in frames)
            end = segment.size_bytes + len(data)
            full = end >= self._segment_bytes
            if full:
                data += Seal(self._frames + len(frames), frames[-1].last_seq, frames[-1].chain).encode()
            self._disk.write(self._fd, data)
            self._disk.sync(self._fd)
            if is_new:
                self._disk.sync_directory(self._directory)
        except OSError:
            self.drop()
            raise
        segment.size_bytes += len(data)
        self._frames += len(frames)
        self._last_chain = frames[-1].chain
        run = Run(begin, end, frames[0].first_seq, frames[-1].last_seq)
        _extend(segment, run)
        if full:
            segment.sealed = True
            self._release()
        return Written(segment, run)

    def seal(self) -> int:
        """End the segment that grows; how many bytes that adds.

        Raises:
            OSError: It stays unsealed; what is in it is promised all the same.
        """
        if self._segment is None:
            return 0
        mark = Seal(self._frames, self._segment.last_seq, self._last_chain).encode()
        try:
            self._disk.write(self._fd, mark)
            self._disk.sync(self._fd)
            self._segment.size_bytes += len(mark)
            self._segment.sealed = True
        finally:
            self._release()
        return len(mark)

    def drop(self) -> None:
        """Let go of the segment as it is; a file without any durable frame is removed."""
        segment = self._segment
        if segment is not None and segment.runs:
            # A full disk gets back what the failed write took. Should it fail, recovery knows a torn tail.
            with contextlib.suppress(OSError):
                self._disk.truncate(self._fd, segment.size_bytes)
        self._release()
        if segment is not None and not segment.runs:
            with contextlib.suppress(OSError):
                self._disk.unlink(segment.path)

    def _begin(self, first: WaitingFrame, number: int) -> tuple[Segment, bytes]:
        name = SegmentName(number, self._key.lane, self._key.epoch)
        segment = Segment(name, self._directory / str(name), 0)
        self._fd = self._disk.create(segment.path)
        self._segment = segment
        self._frames = 0
        header = SegmentHeader(
            lane=name.lane,
            epoch=name.epoch,
            number=number,
            first_seq=first.first_seq,
            previous_chain=first.previous_chain,
            created_unix_ns=time.time_ns(),
        )
        return segment, header.encode()

    def _release(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._disk.close(self._fd)
        self._fd = -1
        self._segment = None


def _extend(segment: Segment, run: Run) -> None:
    last = segment.runs[-1] if segment.runs else None
    if last is not None and last.end_bytes == run.begin_bytes and last.last_seq + 1 == run.first_seq:
        last.end_bytes, last.last_seq = run.end_bytes, run.last_seq
    else:
        segment.runs.append(Run(run.begin_bytes, run.end_bytes, run.first_seq, run.last_seq))
