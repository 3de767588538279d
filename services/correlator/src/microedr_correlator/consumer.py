"""Between the runner and the partitions: replays on assignment, publishes what they make, holds commits back."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice

import structlog

from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus, ConsumedRecord, Record, Subscription, TopicPartition
from microedr_chassis.errors import (
    BusFullError,
    BusRecordError,
    BusUnavailableError,
    RetryLaterError,
)
from microedr_chassis.metrics import Metrics
from microedr_correlator.clock import Clock
from microedr_correlator.partition import Partition
from microedr_correlator.replay import Start, find_starts
from microedr_correlator.settings import CorrelatorSettings
from microedr_correlator.tally import Tally

TOPICS = (topics.EVENTS, topics.MATCHES, topics.ACTIONS, topics.ACTION_RESULTS)

_PUBLISH_TIMEOUT_S = 20.0
_PUBLISHED_AT_ONCE = 1000

_log = structlog.get_logger()


class CorrelatorConsumer:
    """Implements ``runner.Consumer`` and ``runner.Deferring``."""

    def __init__(self, settings: CorrelatorSettings, bus: Bus, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._bus = bus
        self._clock = clock
        self._tally = Tally(metrics)
        self._partitions: dict[int, Partition] = {}
        self._positions: dict[TopicPartition, int] = {}
        """Next offset to consume."""
        self._committed: dict[TopicPartition, int] = {}
        self._outbox: deque[Record] = deque()
        self._paused: set[TopicPartition] = set()
        self._subscription: Subscription | None = None

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Seek each to where its replay begins."""
        self._subscription = subscription
        for number, group in groupby(sorted(partitions, key=lambda p: p.partition), key=lambda p: p.partition):
            starts = await find_starts(subscription, list(group), self._clock.unix_ns())
            for source, start in starts.items():
                if start.offset < start.committed:
                    await subscription.seek(source, start.offset)
            self._open(number, starts)

    async def revoked(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Drop the state of these; what it was not committed for, the next owner does again."""
        for source in partitions:
            self._positions.pop(source, None)
            self._committed.pop(source, None)
            self._paused.discard(source)
            gone = self._partitions.pop(source.partition, None)
            if gone is not None:
                self._tally.forget(source.partition)

    async def consume(self, record: ConsumedRecord) -> None:
        """Take one record into its partition's state."""
        partition = self._partitions[record.partition]
        try:
            partition.consume(record)
        finally:
            self._take_outputs(partition)

    async def flush(self) -> None:
        """Publish everything that is due and wait until it is durable."""
        for number, partition in self._partitions.items():
            partition.tick()
            self._take_outputs(partition)
            self._tally.count(number, partition)
        while self._outbox:
            await self._publish(list(islice(self._outbox, _PUBLISHED_AT_ONCE)))
        await self._adapt()

    def committable(self, consumed: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """All that was consumed, but for matches that wait or whose revision is not yet published."""
        self._positions.update(consumed)
        found: dict[TopicPartition, int] = {}
        for source, position in self._positions.items():
            partition = self._partitions.get(source.partition)
            if partition is None:
                continue
            held = partition.held_offset() if source.topic == topics.MATCHES else None
            safe = position if held is None else min(position, held)
            # During a replay positions are behind what was committed before. After a commit that
            # failed the same is asked for again: ``consumed`` has it still.
            if safe > self._committed[source] or (source in consumed and safe == self._committed[source]):
                found[source] = self._committed[source] = safe
        return found

    def _open(self, number: int, starts: Mapping[TopicPartition, Start]) -> None:
        silent = {source.topic: start.committed for source, start in starts.items()}
        partition = self._partitions[number] = Partition(self._settings, self._clock, silent)
        for source, start in starts.items():
            self._committed[source] = start.committed
            partition.reached(source.topic, start.offset)
            self._positions.pop(source, None)
        records = {source.topic: start.committed - start.offset for source, start in starts.items()}
        if any(records.values()):
            _log.info("replay_began", partition=number, records=records)

    def _take_outputs(self, partition: Partition) -> None:
        self._outbox.extend(partition.outputs)
        partition.outputs.clear()

    async def _publish(self, records: Sequence[Record]) -> None:
        """Publish from the front of the outbox; what failed stays there, in order.

        Raises:
            BusUnavailableError: Some were not published. So BusFullError and RetryLaterError.
        """
        under_way: list[asyncio.Future[tuple[TopicPartition, int]]] = []
        failure: Exception | None = None
        for record in records:
            try:
                under_way.append(self._bus.submit(record))
            except (BusFullError, BusUnavailableError) as error:
                failure = error
                break
            except BusRecordError as error:
                under_way.append(_failed(error))
        try:
            async with asyncio.timeout(_PUBLISH_TIMEOUT_S):
                results = await asyncio.gather(*under_way, return_exceptions=True)
        except TimeoutError:
            raise RetryLaterError(f"publishing took longer than {_PUBLISH_TIMEOUT_S:g} s") from None
        sent = [self._outbox.popleft() for _ in results]
        again = [record for record, result in zip(sent, results, strict=True) if self._is_again(record, result)]
        self._outbox.extendleft(reversed(again))
        if again or (failure is not None and not under_way):
            raise failure or BusUnavailableError(f"{len(again)} records could not be published")

    def _is_again(self, record: Record, result: object) -> bool:
        if isinstance(result, BusRecordError):
            # It would never be published; stopping for it would stop every other alert.
            _log.error("record_unpublishable", topic=record.topic, error=str(result))
            self._tally.unpublishable(record.topic)
            return False
        if isinstance(result, BaseException):
            return True
        self._tally.published(record.topic)
        return False

    async def _adapt(self) -> None:
        """Fetch no matches while too many wait."""
        if self._subscription is None:
            return
        full = {number for number, p in self._partitions.items() if len(p.waiting) > self._settings.max_waiting_matches}
        wanted = {TopicPartition(topics.MATCHES, number) for number in full}
        await self._switch(self._subscription, wanted)

    async def _switch(self, subscription: Subscription, wanted: set[TopicPartition]) -> None:
        ours = subscription.assignment()
        if wanted - self._paused:
            await subscription.pause(_ours(wanted - self._paused, ours))
        if self._paused - wanted:
            await subscription.resume(_ours(self._paused - wanted, ours))
        self._paused = wanted


def _ours(sources: Iterable[TopicPartition], ours: frozenset[TopicPartition]) -> list[TopicPartition]:
    return [source for source in sources if source in ours]


def _failed(error: Exception) -> "asyncio.Future[tuple[TopicPartition, int]]":
    future: asyncio.Future[tuple[TopicPartition, int]] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
