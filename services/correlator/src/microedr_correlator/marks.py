"""Which sequences of one host were folded into its window, and which are known to be missing."""

from collections import Counter, deque

from microedr.v1.event_pb2 import LossReason, LossRecord
from microedr_correlator.processes import Origin

MAX_ORIGINS = 64
"""Per host. Each start of its sensor begins one."""

MAX_GAPS = 256
"""Per host, remembered one by one."""


class LaneMarks:
    """The newest sequence folded, per epoch and lane of one host."""

    def __init__(self) -> None:
        self._last: dict[Origin, int] = {}
        self._same: dict[Origin, Origin] = {}

    def __contains__(self, origin: Origin) -> bool:
        return origin in self._last

    def same(self, origin: Origin) -> Origin:
        """An equal one, always the same object: thousands of entries point to it."""
        return self._same.get(origin, origin)

    def has_seen(self, origin: Origin, seqno: int) -> bool:
        """Whether the event that stands there was folded, or stood before all that were."""
        return seqno <= self._last.get(origin, 0)

    def admit(self, origin: Origin, first_seq: int, last_seq: int) -> tuple[int, int]:
        """Remember these sequences: how many at the front were seen before, and how many are missing before them.

        What stands before the first sequence of an origin met here is not missing: a replay begins somewhere.
        """
        seen = self._last.get(origin)
        if seen is None:
            if len(self._last) >= MAX_ORIGINS:
                oldest = next(iter(self._last))
                del self._last[oldest], self._same[oldest]
            self._last[origin] = last_seq
            self._same[origin] = origin
            return 0, 0
        if last_seq > seen:
            self._last[origin] = last_seq
        return max(0, min(seen, last_seq) - first_seq + 1), max(0, first_seq - seen - 1)


class Gaps:
    """Events of one host that will not come, with the time they were missed at and the reason."""

    def __init__(self) -> None:
        self._gaps: deque[tuple[int, str, int]] = deque(maxlen=MAX_GAPS)

    def add_missing(self, at_unix_ns: int, count: int) -> None:
        """Sequences were skipped."""
        self._gaps.append((at_unix_ns, "sequences", count))

    def add_loss(self, at_unix_ns: int, loss: LossRecord) -> None:
        """The agent itself says that it lost events."""
        reason = LossReason.Name(loss.reason).removeprefix("LOSS_REASON_").lower()
        self._gaps.append((at_unix_ns, reason, loss.count))

    def describe(self, since_unix_ns: int) -> str:
        """For a person: what is missing since then. Empty: nothing."""
        while self._gaps and self._gaps[0][0] < since_unix_ns:
            self._gaps.popleft()
        missing = Counter[str]()
        for _, reason, count in self._gaps:
            missing[reason] += count
        return ", ".join(f"{count} events missing ({reason})" for reason, count in sorted(missing.items()))
