"""Which events of a frame are new: the highest sequence seen per host, epoch and lane.

At-least-once delivery and agents that send again make duplicates; lost frames make gaps. Both show
in the sequences that a record of topic events carries in its headers.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from microedr import headers
from microedr_chassis.bus.api import ConsumedRecord, TopicPartition
from microedr_chassis.errors import DeadLetterError

_Sequence = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Admission:
    """What a record brings that was not seen before."""

    host_id: str
    epoch_id: str
    lane: int
    first_seq: int
    last_seq: int
    first_new: int
    """Index of the first new event; equal to the count when there is none."""
    gap: int
    """Sequences missing before the first event. A sequence met for the first time has no gap: what came
    before it may have been consumed by another member or be gone from the bus."""

    @property
    def all_duplicate(self) -> bool:
        """Whether nothing in it is new."""
        return self.first_new > self.last_seq - self.first_seq


class HighWater:
    """Remembers at most ``max_entries`` sequences, of each partition for itself; the least recently used goes first."""

    def __init__(self, max_entries: int = 200_000) -> None:
        self._max_entries = max_entries
        self._seen: OrderedDict[tuple[TopicPartition, _Sequence], int] = OrderedDict()
        self.evicted_total = 0
        """Sequences forgotten for room: duplicates of them would pass."""

    def __len__(self) -> int:
        return len(self._seen)

    def admit(self, record: ConsumedRecord) -> Admission:
        """``look`` and ``remember``. For a consumer that never asks for the same record again after this.

        Raises:
            DeadLetterError: ``bad_headers``.
        """
        admission = self.look(record)
        self.remember(record, admission)
        return admission

    def look(self, record: ConsumedRecord) -> Admission:
        """What ``record`` brings, remembering nothing yet.

        Raises:
            DeadLetterError: ``bad_headers``.
        """
        host_id, epoch_id, lane, first, last = _sequences(record)
        seen = self._seen.get((record.source, (host_id, epoch_id, lane)))
        if seen is None:
            return Admission(host_id, epoch_id, lane, first, last, first_new=0, gap=0)
        return Admission(
            host_id,
            epoch_id,
            lane,
            first,
            last,
            first_new=min(max(seen + 1 - first, 0), last - first + 1),
            gap=max(first - seen - 1, 0),
        )

    def remember(self, record: ConsumedRecord, admission: Admission) -> None:
        """The effects of ``record`` are on their way: from now on it is a duplicate."""
        key = (record.source, (admission.host_id, admission.epoch_id, admission.lane))
        self._seen[key] = max(admission.last_seq, self._seen.get(key, 0))
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_entries:
            self._seen.popitem(last=False)
            self.evicted_total += 1

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """These are another's now: when they come back, much will have passed unseen."""
        gone = frozenset(partitions)
        for key in [key for key in self._seen if key[0] in gone]:
            del self._seen[key]


def _sequences(record: ConsumedRecord) -> tuple[str, str, int, int, int]:
    try:
        host_id = record.headers[headers.HOST].decode("ascii")
        epoch_id = record.headers[headers.EPOCH].decode("ascii")
        lane = int(record.headers[headers.LANE])
        first, last = int(record.headers[headers.FIRST_SEQ]), int(record.headers[headers.LAST_SEQ])
    except (KeyError, ValueError) as error:
        raise DeadLetterError("bad_headers", f"{type(error).__name__}: {error}") from error
    if not 0 < first <= last:
        raise DeadLetterError("bad_headers", f"sequences {first} to {last}")
    return host_id, epoch_id, lane, first, last
