"""What every bus backend promises; tests/conformance runs one suite against all of them.

* A record is durable when its publish returns: a crash of any process loses none of them.
* Records of one key of one topic are consumed in the order they were published.
* Within a group every partition has one owner at a time. Whatever was fetched and not committed
  when its owner leaves or dies is delivered again (at least once).
* Every backend maps a key to the same partition, ``partition.partition_of``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class TopicPartition(NamedTuple):
    """One ordered log."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """Something to publish."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConsumedRecord:
    """Something published, and where it stands."""

    topic: str
    partition: int
    offset: int
    timestamp_unix_ms: int
    key: bytes
    value: bytes
    headers: Mapping[str, bytes]

    @property
    def source(self) -> TopicPartition:
        """The log it stands in."""
        return TopicPartition(self.topic, self.partition)


class RebalanceListener(Protocol):
    """Told when partitions come and go.

    Called inside ``fetch``, before it returns records; when that fetch is cancelled or the call
    raises, the next fetch calls again with what is left to tell.
    """

    async def assigned(self, subscription: "Subscription", partitions: Sequence[TopicPartition]) -> None:
        """These are ours from now on. May seek them; fetching begins when this returns."""

    async def revoked(self, subscription: "Subscription", partitions: Sequence[TopicPartition]) -> None:
        """These are about to be another's. May still commit; state of them can be dropped."""


class Subscription(Protocol):
    """One member's view of some topics. Not safe for use by two tasks at once, but for ``close``."""

    async def fetch(self, *, max_records: int, timeout_s: float) -> Sequence[ConsumedRecord]:
        """Up to ``max_records``; empty when none came within ``timeout_s``.

        Cancelling is safe: what was not returned is fetched again.

        Raises:
            BusUnavailableError: The backend is away. Fetch again after a pause.
            BusFencedError: Another subscription took this member's name.
            BusRetentionError: What the group is to consume next was deleted by age.
        """

    async def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Remember durably where the group goes on: the offset after the last one done with.

        Partitions that are no longer ours are left out silently: their new owner decides.

        Raises:
            BusUnavailableError: Nothing was remembered.
            BusFencedError: As in ``fetch``; not every backend knows it already here.
        """

    async def seek(self, source: TopicPartition, offset: int) -> None:
        """Go on from ``offset``; clamped to what the log still holds."""

    async def committed(self, source: TopicPartition) -> int | None:
        """Where the group goes on. None: it never committed."""

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """Offset of the first record at or after this time; the end when there is none."""

    async def end_offset(self, source: TopicPartition) -> int:
        """The offset the next record will have."""

    async def pause(self, sources: Sequence[TopicPartition]) -> None:
        """Fetch nothing from these until ``resume``; membership stays alive meanwhile."""

    async def resume(self, sources: Sequence[TopicPartition]) -> None:
        """End a ``pause``."""

    def assignment(self) -> frozenset[TopicPartition]:
        """What is ours now."""

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Records not yet committed, per partition of ours."""

    async def close(self) -> None:
        """Leave the group at once, so that others take over without waiting. Idempotent."""


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """Counted since the bus was made; ``submitted = published + failed + in_flight``."""

    submitted_total: int = 0
    published_total: int = 0
    failed_total: int = 0
    refused_total: int = 0
    """Submits answered with BusFullError or, right after a failure, BusUnavailableError."""
    in_flight: int = 0
    in_flight_bytes: int = 0


class Bus(Protocol):
    """A connection to a backend."""

    async def start(self) -> None:
        """Connect; returns when the backend answers.

        Raises:
            BusUnavailableError: It does not, within the backend's own timeout.
        """

    async def close(self) -> None:
        """Publish what was submitted, then disconnect. Idempotent."""

    def statistics(self) -> BusStatistics:
        """Of this moment; does no I/O."""

    async def ensure_topics(self, topics: Sequence["TopicSpec"]) -> None:
        """Create those that are missing.

        Raises:
            BusTopicError: One exists with another partition count.
        """

    async def publish(self, record: Record) -> tuple[TopicPartition, int]:
        """Publish and wait until it is durable; returns where it stands.

        Raises:
            BusUnavailableError: It may or may not have been published. Publish it again.
            BusRecordError: This record can never be published (too large, unknown topic).
        """

    def submit(self, record: Record) -> "asyncio.Future[tuple[TopicPartition, int]]":
        """As ``publish`` without a task of its own: the hot path. Needs a running loop.

        When one fails, all submitted after it to the same partition fail too, and for a moment
        (0.1 s) every submit is refused: whoever publishes in order starts again at the first one
        that failed and no later one overtakes it.

        Raises:
            BusFullError: The backend's queue is full. Wait for a future under way, then again.
            BusUnavailableError: As in ``publish``, known at once.
            BusRecordError: As in ``publish``, known at once.
        """

    async def subscribe(
        self,
        topics: Sequence[str],
        *,
        group: str,
        member: str,
        listener: RebalanceListener | None = None,
        co_partitioned: bool = False,
    ) -> Subscription:
        """Join ``group`` as ``member``, a name that is stable over restarts and unique in the group.

        A partition the group never committed is read from its beginning. A second subscription
        under the same name takes the first one's place. With ``co_partitioned`` the topics
        have equal partition counts and a member gets the same partition numbers of each.

        Raises:
            BusUnavailableError: The backend is away.
            BusTopicError: One of the topics does not exist.
        """

    async def tail(self, topics: Sequence[str], *, since_unix_ms: int) -> Subscription:
        """Read every partition of ``topics`` from this time on, alone, committing nothing."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is to be."""

    name: str
    partitions: int
    retention_s: int
    compacted: bool = False
    """Only the newest record of a key is sure to be kept."""
