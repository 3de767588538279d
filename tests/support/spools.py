"""Builders for spool tests: batches of a known content, a disk that can fail, all that a reader sees."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microedr.batch import decode_batch, encode_batch
from microedr.frame import open_frame
from microedr.v1.event_pb2 import AgentEvent, EventBatch, ProcExit
from microedr_agent.ipc_messages import Extent
from microedr_agent.spool.disk import Disk
from microedr_agent.spool.reader import OutgoingFrame, SpoolReader, UnreadableFrames
from microedr_agent.spool.writer import SpoolWriter

MIB = 1024 * 1024


class FailingDisk(Disk):
    """Does what it is told, and fails the operations named in ``failing`` with ``error``; notes the order of all."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.done: list[tuple[str, str]] = []

    def _note(self, operation: str, subject: object = "") -> None:
        self.done.append((operation, str(subject)))
        if operation in self.failing:
            raise OSError(self.failing[operation], os.strerror(self.failing[operation]))

    def create(self, path: Path) -> int:
        """As Disk."""
        self._note("create", path.name)
        return super().create(path)

    def replace_content(self, path: Path) -> int:
        """As Disk."""
        self._note("replace_content", path.name)
        return super().replace_content(path)

    def write(self, fd: int, data: bytes) -> None:
        """As Disk; a failing one leaves half of it behind."""
        if "write" in self.failing:
            super().write(fd, data[: len(data) // 2])
        self._note("write", fd)
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        """As Disk."""
        self._note("sync", fd)
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        """As Disk."""
        self._note("sync_directory")
        super().sync_directory(path)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """As Disk."""
        self._note("truncate", size_bytes)
        super().truncate(fd, size_bytes)

    def close(self, fd: int) -> None:
        """As Disk."""
        self._note("close", fd)
        super().close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """As Disk."""
        self._note("rename", target.name)
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        """As Disk."""
        self._note("unlink", path.name)
        super().unlink(path)

    @contextmanager
    def broken(self, *operations: str, error: int = errno.EIO) -> Iterator[None]:
        """Let these operations fail for a while."""
        self.failing = dict.fromkeys(operations, error)
        try:
            yield
        finally:
            self.failing = {}


class Clock:
    """Monotonic time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s

    def advance(self, by_s: float) -> None:
        """Let time pass."""
        self.now_s += by_s


def batch(first_seq: int, count: int, padding: int = 0) -> bytes:
    """Events numbered as they must be; ``padding`` bytes each that do not compress."""
    events = [
        AgentEvent(seqno=seq, event_id=os.urandom(padding), proc_exit=ProcExit(exit_code=seq % 256))
        for seq in range(first_seq, first_seq + count)
    ]
    return encode_batch(EventBatch(events=events))


def append(writer: SpoolWriter, count: int = 1, padding: int = 0) -> None:
    """One frame of ``count`` events."""
    writer.append(batch(writer.next_seq, count, padding), count)


def fill(writer: SpoolWriter, frames: int, count: int = 1, padding: int = 0) -> list[Extent]:
    """Frames, each committed by itself."""
    extents: list[Extent] = []
    for _ in range(frames):
        append(writer, count, padding)
        extents += writer.commit()
    return extents


def read_all(directory: Path, extents: Iterator[Extent] | list[Extent]) -> list[OutgoingFrame | UnreadableFrames]:
    """What an uploader gets for these promises."""
    reader = SpoolReader(directory)
    for extent in extents:
        reader.promise(extent)
    found = []
    while (frame := reader.next()) is not None:
        found.append(frame)
    reader.close()
    return found


def sequences(found: list[OutgoingFrame | UnreadableFrames]) -> list[tuple[str, int]]:
    """``(epoch, sequence)`` of every event that was read, after checking that each is what it must be."""
    seen = []
    for frame in found:
        if isinstance(frame, OutgoingFrame):
            header, raw = open_frame(frame.sealed)
            numbers = [event.seqno for event in decode_batch(raw).events]
            assert numbers == list(range(frame.first_seq, frame.last_seq + 1))
            assert (header.epoch_id, header.first_seq) == (str(frame.epoch), frame.first_seq)
            seen += [(header.epoch_id, number) for number in numbers]
    return seen


def lost(found: list[OutgoingFrame | UnreadableFrames]) -> list[int]:
    """Sequences that the reader said it cannot read."""
    return [
        number
        for frame in found
        if isinstance(frame, UnreadableFrames)
        for number in range(frame.first_seq, frame.last_seq + 1)
    ]
