"""The sensor's side of the spool: append, commit, promise; acknowledge, evict, remove.

An event is promised once ``commit`` has returned an extent that covers it, and not before: the bytes
are then on the disk, and so is the name of the file. After an I/O error nothing more is done with
that descriptor (a second fsync would report success for pages the kernel has dropped); what was not
promised waits in memory, bounded, and goes into a new segment under the same sequences. Whatever is
given up is a ``Loss`` to be told, never an exception: the sensor goes on.
"""

import contextlib
import errno
import fcntl
import os
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from microedr.frame import FIRST_CHAIN, seal
from microedr.limits import MAX_BATCH_EVENTS, MAX_FRAME_RAW_BYTES
from microedr_agent.errors import SpoolError, SpoolLockedError
from microedr_agent.ipc_messages import Extent, SpoolRefusal
from microedr_agent.spool.accounts import LaneKey, Loss, LossReason
from microedr_agent.spool.disk import Disk
from microedr_agent.spool.holdings import Holdings
from microedr_agent.spool.recovery import recover
from microedr_agent.spool.tail import Tail, WaitingFrame

LANE = 0
"""The one lane in use; the format carries a lane number, for lanes by value to come."""
MAX_SEGMENT_BYTES = 8 * 1024 * 1024
MIN_SEGMENT_BYTES = 64 * 1024
SEGMENTS_PER_SPOOL = 16
"""A full spool gives up one segment at a time, so this is the share of it that one eviction costs."""
MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Frames in memory while the disk fails: half a minute at 833 events/s, within the sensor's memory."""
OVERHEAD_BYTES = 4096
"""Header, seal and accounts: what a write needs beside the frames."""
FIRST_BACKOFF_S = 0.2
LAST_BACKOFF_S = 30.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """The ledger of this epoch, and the state of the whole spool.

    ``emitted_total = acked_total + epoch_pending_events + evicted_total + refused_total + lost_total``.
    """

    emitted_total: int
    acked_total: int
    evicted_total: int
    refused_total: int
    lost_total: int
    """Damaged on disk, or dropped from memory while the disk failed."""
    epoch_pending_events: int
    pending_events: int
    """Of all epochs: what the backend has not acknowledged."""
    unsynced_events: int
    """Of these, how many are not on disk yet."""
    spool_bytes: int
    segments: int
    io_errors_total: int
    refused_acks_total: int
    """Acknowledgements of events that were never promised."""


class SpoolWriter:
    """Writes one spool; made by ``open``. One thread."""

    def __init__(
        self, directory: Path, max_bytes: int, *, disk: Disk, clock: Callable[[], float], lock_fd: int
    ) -> None:
        self.epoch = uuid.uuid4()
        self.next_seq = 1
        """Sequence of the next event to be appended."""
        self._key = LaneKey(self.epoch, LANE)
        self._max_bytes = max_bytes
        self._segment_bytes = max(MIN_SEGMENT_BYTES, min(MAX_SEGMENT_BYTES, max_bytes // SEGMENTS_PER_SPOOL))
        self._clock = clock
        self._lock_fd = lock_fd
        recovered = recover(directory)
        self.problems = tuple(recovered.problems)
        """Damage that recovery found, for the log."""
        self._holdings = Holdings(directory, recovered, self._key, disk=disk, clock=clock)
        self._tail = Tail(directory, self._key, self._segment_bytes, disk)
        self.trouble = ""
        """Why the disk takes nothing now; empty when it does."""
        self._chain = FIRST_CHAIN
        self._waiting: deque[WaitingFrame] = deque()
        self._waiting_bytes = 0
        self._retry_at_s = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._taken: tuple[Loss, ...] = ()
        self._telling: deque[tuple[int, tuple[Loss, ...]]] = deque()
        self._acked_total = self._io_errors_total = self._refused_acks_total = 0
        self._given_up = dict.fromkeys(LossReason, 0)

    @classmethod
    def open(
        cls,
        directory: Path,
        max_bytes: int,
        *,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> "SpoolWriter":
        """Recover what is there and begin a new epoch; nothing is written until the first commit.

        Raises:
            SpoolLockedError: Another sensor writes this spool.
            SpoolError: The directory cannot be used.
        """
        lock_fd = -1
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock_fd = _lock(directory)
            return cls(directory, max_bytes, disk=disk or Disk(), clock=clock, lock_fd=lock_fd)
        except OSError as error:
            if lock_fd >= 0:
                os.close(lock_fd)
            raise SpoolError(f"{directory}: {error.strerror}") from error

    @property
    def epoch_id(self) -> str:
        """The epoch as it stands in frames and events."""
        return str(self.epoch)

    def append(self, raw: bytes, count: int) -> None:
        """Seal a length-prefixed batch whose events are numbered from ``next_seq`` on. No I/O; promises nothing.

        Raises:
            ValueError: ``raw`` or ``count`` is beyond ``microedr.limits``; nothing was appended.
        """
        if not 0 < count <= MAX_BATCH_EVENTS or len(raw) > MAX_FRAME_RAW_BYTES:
            raise ValueError(f"{count} events in {len(raw)} bytes are no frame")
        sealed = seal(
            raw,
            lane=LANE,
            epoch=self.epoch,
            first_seq=self.next_seq,
            count=count,
            sealed_unix_ns=time.time_ns(),
            previous_chain=self._chain,
        )
        last_seq = self.next_seq + count - 1
        self._waiting.append(WaitingFrame(self.next_seq, last_seq, sealed.sealed, self._chain, sealed.chain))
        self._chain = sealed.chain
        self._waiting_bytes += len(sealed.sealed)
        self.next_seq += count
        while self._waiting_bytes > MAX_WAITING_BYTES and len(self._waiting) > 1:
            oldest = self._waiting.popleft()
            self._waiting_bytes -= len(oldest.sealed)
            self._give_up(oldest.first_seq, oldest.last_seq, LossReason.DISK_ERROR, "no room in memory")

    def commit(self) -> tuple[Extent, ...]:
        """Make what was appended durable; returns what can be promised now.

        Blocks for the disk's write and sync, some milliseconds. Never raises for the disk: after an error it
        returns what it could do and tries again in a later call, after a pause that grows to 30 s.
        """
        extents: list[Extent] = []
        if self._waiting and self._clock() >= self._retry_at_s:
            try:
                while self._waiting:
                    extents.append(self._write_some())
                self._backoff_s, self.trouble = FIRST_BACKOFF_S, ""
            except OSError as error:
                self._put_off(error)
        self._holdings.maintain(self._tail.segment)
        return tuple(extents)

    def extents(self) -> Iterator[Extent]:
        """Everything promised that is not accounted for: what a newly connected uploader needs to know."""
        return self._holdings.extents()

    def acknowledge(self, epoch: uuid.UUID, lane: int, through_seq: int) -> bool:
        """The backend has everything of this epoch and lane up to ``through_seq``; False when that cannot be."""
        key = LaneKey(epoch, lane)
        if through_seq > self._holdings.promised_through(key):
            self._refused_acks_total += 1
            return False
        newly = self._holdings.acknowledge(key, through_seq)
        if key == self._key:
            self._acked_total += newly
        return True

    def refuse(self, refused: SpoolRefusal) -> bool:
        """These events will never be taken; False when they were never promised or the reason is none."""
        key = LaneKey(refused.epoch, refused.lane)
        is_promised = 0 < refused.first_seq <= refused.last_seq <= self._holdings.promised_through(key)
        if not is_promised or refused.reason not in {LossReason.REFUSED, LossReason.SPOOL_CORRUPT}:
            self._refused_acks_total += 1
            return False
        reason = LossReason(refused.reason)
        lost = self._holdings.give_up(key, refused.first_seq, refused.last_seq, reason, refused.detail)
        if key == self._key:
            self._given_up[reason] += lost
        return True

    def take_losses(self) -> tuple[Loss, ...]:
        """Losses to be told in LossRecords; those that the last run did not tell come first.

        Call ``losses_reported`` once the records are appended. Without that they are handed out again after a restart.
        """
        telling = {loss for _, losses in self._telling for loss in losses}.union(self._taken)
        fresh = tuple(loss for loss in self._holdings.accounts.take_unreported() if loss not in telling)
        self._taken += fresh
        return fresh

    def losses_reported(self, through_seq: int) -> None:
        """All losses taken so far are told in events up to ``through_seq``; remembered once those are durable."""
        if self._taken:
            self._telling.append((through_seq, self._taken))
            self._taken = ()

    def statistics(self) -> SpoolStatistics:
        """Of this moment; walks the segments, does no I/O."""
        epoch_pending = self._holdings.accounts.open_count(self._key, 1, self.next_seq - 1)
        return SpoolStatistics(
            emitted_total=self.next_seq - 1,
            acked_total=self._acked_total,
            evicted_total=self._given_up[LossReason.EVICTED],
            refused_total=self._given_up[LossReason.REFUSED],
            lost_total=self._given_up[LossReason.DISK_ERROR] + self._given_up[LossReason.SPOOL_CORRUPT],
            epoch_pending_events=epoch_pending,
            pending_events=epoch_pending + self._holdings.pending_events(without=self._key),
            unsynced_events=sum(frame.last_seq - frame.first_seq + 1 for frame in self._waiting),
            spool_bytes=self._holdings.size_bytes,
            segments=self._holdings.count,
            io_errors_total=self._io_errors_total + self._holdings.io_errors_total,
            refused_acks_total=self._refused_acks_total,
        )

    def close(self) -> tuple[Extent, ...]:
        """Commit once more, seal, write the accounts, unlock. Idempotent; returns the last promises."""
        if self._lock_fd < 0:
            return ()
        extents = self.commit()
        with contextlib.suppress(OSError):
            self._holdings.grow(self._tail.seal())
        self._holdings.maintain(None, now=True)
        os.close(self._lock_fd)
        self._lock_fd = -1
        return extents

    def _write_some(self) -> Extent:
        """Write as much of what waits as fits the segment that grows, after making room for it."""
        room = self._segment_bytes - (self._tail.segment.size_bytes if self._tail.segment else 0)
        frames: list[WaitingFrame] = []
        for frame in self._waiting:
            if frames and room <= 0:
                break
            frames.append(frame)
            room -= len(frame.sealed)
        size = sum(len(frame.sealed) for frame in frames)
        while self._holdings.size_bytes + size + OVERHEAD_BYTES > self._max_bytes and self._evict("the spool is full"):
            pass
        before = self._tail.segment.size_bytes if self._tail.segment else 0
        written = self._tail.write(frames, self._holdings.accounts.next_number)
        for _ in frames:
            self._waiting.popleft()
        self._waiting_bytes -= size
        extent = self._holdings.add(written, grown_bytes=written.segment.size_bytes - before)
        while self._telling and self._telling[0][0] <= extent.last_seq:
            self._holdings.mark_reported(self._telling.popleft()[1])
        return extent

    def _put_off(self, error: OSError) -> None:
        """After an I/O error: pause, or give the oldest segment up where the disk is full."""
        self._io_errors_total += 1
        self.trouble = error.strerror or str(error)
        # A file of that number may be there, if it could not be removed.
        self._holdings.accounts.next_number += 1
        if error.errno in _FULL:
            self._evict("the disk is full")
        self._retry_at_s = self._clock() + self._backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._backoff_s = min(self._backoff_s * 2, LAST_BACKOFF_S)

    def _evict(self, why: str) -> bool:
        """Give up the oldest segment; False when there is none."""
        oldest = self._holdings.oldest()
        if oldest is None:
            return False
        if oldest is self._tail.segment:
            self._tail.drop()
        self._given_up[LossReason.EVICTED] += self._holdings.evict_oldest(why)
        return True

    def _give_up(self, first_seq: int, last_seq: int, reason: LossReason, detail: str) -> None:
        self._given_up[reason] += self._holdings.give_up(self._key, first_seq, last_seq, reason, detail)


def _lock(directory: Path) -> int:
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise SpoolLockedError(f"{directory.resolve()}: another sensor writes here") from error
    return fd
