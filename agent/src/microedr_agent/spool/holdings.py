"""The segments of a spool and the account of what is in them: promise, acknowledge, give up, remove.

The accounts file is always written before a segment is removed, never after: a crash in between leaves
a segment that the next start removes again, and never a gap that nobody can explain.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from microedr_agent.ipc_messages import Extent
from microedr_agent.spool.accounts import FILE_NAME, Accounts, LaneKey, Loss, LossReason, encode_accounts
from microedr_agent.spool.disk import Disk
from microedr_agent.spool.recovery import Recovered, Run, Segment
from microedr_agent.spool.tail import Written

PERSIST_AFTER_S = 5.0
"""Acknowledgements not yet on disk are only sent again after a crash, so writing each would buy nothing."""


class Holdings:
    """What is on disk. ``active`` is the epoch and lane that is being written."""

    def __init__(
        self,
        directory: Path,
        recovered: Recovered,
        active: LaneKey,
        *,
        disk: Disk,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._active = active
        self._disk = disk
        self._clock = clock
        self.accounts: Accounts = recovered.accounts
        self.io_errors_total = 0
        self._segments: deque[Segment] = deque(recovered.segments)
        self._bytes = sum(segment.size_bytes for segment in self._segments)
        self._promised = dict(self.accounts.positions)
        for segment in self._segments:
            self._promised[segment.key] = max(self.promised_through(segment.key), segment.last_seq)
        self._dirty = True
        self._persist_at_s = self._retry_at_s = clock()

    @property
    def size_bytes(self) -> int:
        """Of all segments."""
        return self._bytes

    @property
    def count(self) -> int:
        """How many segments there are."""
        return len(self._segments)

    def promised_through(self, key: LaneKey) -> int:
        """The last sequence that was ever durable."""
        return self._promised.get(key, 0)

    def extents(self) -> Iterator[Extent]:
        """Everything promised that is not accounted for."""
        for segment in self._segments:
            for run in segment.runs:
                open_ranges = self.accounts.open_ranges(segment.key, run.first_seq, run.last_seq)
                yield from (extent_of(segment, run, first, last) for first, last in open_ranges)

    def add(self, written: Written, *, grown_bytes: int) -> Extent:
        """Frames became durable: promise them."""
        segment, run = written.segment, written.run
        if not self._segments or self._segments[-1] is not segment:
            self._segments.append(segment)
            self.accounts.next_number = max(self.accounts.next_number, segment.name.number + 1)
        self._bytes += grown_bytes
        self._promised[segment.key] = max(self.promised_through(segment.key), run.last_seq)
        return extent_of(segment, run, run.first_seq, run.last_seq)

    def grow(self, by_bytes: int) -> None:
        """The last segment took more bytes that hold no events: its seal."""
        self._bytes += by_bytes

    def acknowledge(self, key: LaneKey, through_seq: int) -> int:
        """Account for all up to ``through_seq``; how many events that newly acknowledges."""
        newly = self.accounts.acknowledge(key, through_seq)
        self._dirty = self._dirty or newly > 0
        return newly

    def give_up(self, key: LaneKey, first_seq: int, last_seq: int, reason: LossReason, detail: str) -> int:
        """Account for what is open of a range as lost; how many events that are."""
        lost = self.accounts.give_up(key, first_seq, last_seq, reason, detail)
        self._dirty = self._dirty or bool(lost)
        return sum(loss.count for loss in lost)

    def mark_reported(self, told: tuple[Loss, ...]) -> None:
        """LossRecords of these are durable."""
        self.accounts.mark_reported(told)
        self._dirty = True

    def oldest(self) -> Segment | None:
        """The next to be given up."""
        return self._segments[0] if self._segments else None

    def evict_oldest(self, why: str) -> int:
        """Give up the oldest segment; how many events of the active epoch that costs."""
        oldest = self._segments[0]
        lost = 0
        for run in oldest.runs:
            count = self.give_up(oldest.key, run.first_seq, run.last_seq, LossReason.EVICTED, why)
            lost += count if oldest.key == self._active else 0
        # A full disk may have no room for the accounts: then they follow once the segment is gone, and
        # should the agent stop in between, recovery finds the gap.
        with contextlib.suppress(OSError):
            self._persist()
        self._remove_oldest()
        return lost

    def maintain(self, growing: Segment | None, *, now: bool = False) -> None:
        """Write the accounts when it is time, and only then remove what they say is done.

        Args:
            growing: The segment being written: never removed.
            now: Write what has changed whether it is time or not.
        """
        if not self._dirty and not now:
            return
        removable = self._count_removable(growing)
        if not now and self._clock() < (self._retry_at_s if removable else self._persist_at_s):
            return
        try:
            self._persist()
        except OSError:
            self.io_errors_total += 1
            self._retry_at_s = self._persist_at_s = self._clock() + PERSIST_AFTER_S
            return
        for _ in range(removable):
            self._remove_oldest()

    def pending_events(self, *, without: LaneKey) -> int:
        """Events of other epochs and lanes that are still to be sent."""
        return sum(
            self.accounts.open_count(segment.key, run.first_seq, run.last_seq)
            for segment in self._segments
            if segment.key != without
            for run in segment.runs
        )

    def _count_removable(self, growing: Segment | None) -> int:
        count = 0
        for segment in self._segments:
            is_open = any(self.accounts.open_count(segment.key, run.first_seq, run.last_seq) for run in segment.runs)
            if segment is growing or is_open:
                break
            count += 1
        return count

    def _remove_oldest(self) -> None:
        segment = self._segments.popleft()
        self._bytes -= segment.size_bytes
        with contextlib.suppress(OSError):
            self._disk.unlink(segment.path)

    def _persist(self) -> None:
        """Replace the accounts file; on return it is durable under its name."""
        self.accounts.forget_all_but({self._active, *(segment.key for segment in self._segments)})
        temporary = self._directory / f"{FILE_NAME}.tmp"
        fd = self._disk.replace_content(temporary)
        try:
            self._disk.write(fd, encode_accounts(self.accounts))
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(temporary, self._directory / FILE_NAME)
        self._disk.sync_directory(self._directory)
        self._dirty = False
        self._persist_at_s = self._clock() + PERSIST_AFTER_S


def extent_of(segment: Segment, run: Run, first_seq: int, last_seq: int) -> Extent:
    """A promise of a range of events; the bytes are those of the whole run they lie in."""
    name = segment.name
    return Extent(name.epoch, name.lane, name.number, run.begin_bytes, run.end_bytes, first_seq, last_seq)
