"""The loop every consumer runs on: fetch, consume each, flush, commit.

* Commits come after effects: a crash anywhere delivers again, it never skips.
* When what a record needs is away, nothing is fetched, the membership stays alive, and the same record
  is tried again after a pause. Order within a partition is kept.
* What can never be consumed becomes a dead letter (``dead_letters``), and the rest goes on.
* Partitions that leave take their unfinished work with them: their next owner gets it again.

Not here: what consuming means. That is the ``Consumer``, one per service.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import structlog

from microedr_chassis import catalogue
from microedr_chassis.backoff import Backoff
from microedr_chassis.bus.api import Bus, ConsumedRecord, Subscription, TopicPartition
from microedr_chassis.dead_letters import DeadLetterLimits, DeadLetters
from microedr_chassis.errors import (
    BusFullError,
    BusRecordError,
    BusUnavailableError,
    ChassisError,
    DeadLetterError,
    DeadLetterLimitError,
    RetryLaterError,
)
from microedr_chassis.lifecycle import Progress
from microedr_chassis.metrics import Metrics

_log = structlog.get_logger()

_AWAY = (RetryLaterError, BusUnavailableError, BusFullError)
_LAG_INTERVAL_S = 10.0
_STOP_TIMEOUT_S = 5.0
_REST_S = 0.005
"""After an empty fetch. A subscription whose bus was closed answers at once, and must not keep the loop to itself."""


class Consumer(Protocol):
    """What a service does with records. Called by one task, one call at a time."""

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """These are ours; may seek them, for a replay that rebuilds state."""

    async def revoked(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """These are another's; drop their state."""

    async def consume(self, record: ConsumedRecord) -> None:
        """Take one record. Effects may still be under way when this returns: ``flush`` waits for them.

        Raises:
            DeadLetterError: It can never be consumed.
            RetryLaterError: What it needs is away; the same record comes again. So after BusUnavailableError
                and BusFullError: remember nothing of a record before its effects were submitted.
        """

    async def flush(self) -> None:
        """Return when all effects of consumed records are durable. Called again after an error below.

        Raises:
            RetryLaterError: Not yet. So BusUnavailableError and BusFullError.
        """


@runtime_checkable
class Deferring(Protocol):
    """Also implemented by a consumer whose effects may wait for other records, not only for the bus.

    Its ``flush`` is called on every turn, also when nothing came, and it says what may be committed.
    """

    def committable(self, consumed: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        """Positions to commit now that ``flush`` returned: at most what was consumed, ``consumed`` being what is new.

        What is held back is the consumer's to remember, until ``revoked``.
        """


class Runner:
    """Runs one ``Consumer`` as ``member`` of ``group`` from ``run`` to ``stop``."""

    def __init__(  # noqa: PLR0913 - each is a decision of the service
        self,
        bus: Bus,
        topics: Sequence[str],
        *,
        group: str,
        member: str,
        consumer: Consumer,
        progress: Progress,
        metrics: Metrics,
        co_partitioned: bool = False,
        max_records: int = 64,
        fetch_timeout_s: float = 0.5,
        limits: DeadLetterLimits | None = None,
    ) -> None:
        self._bus = bus
        self._topics = tuple(topics)
        self._group = group
        self._member = member
        self._consumer = consumer
        self._progress = progress
        self._metrics = metrics
        self._co_partitioned = co_partitioned
        self._max_records = max_records
        self._fetch_timeout_s = fetch_timeout_s
        self._dead_letters = DeadLetters(bus, group=group, metrics=metrics, limits=limits or DeadLetterLimits())
        self._backoff = Backoff(first_s=0.1, most_s=5.0)
        self._pending: deque[ConsumedRecord] = deque()
        self._uncommitted: dict[TopicPartition, int] = {}
        self._held_until_s: float | None = None
        self._lag_due_s = 0.0
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Consume until ``stop``. What was consumed by then is flushed and committed.

        Raises:
            DeadLetterLimitError: Too many records cannot be consumed.
        """
        self._ended.clear()
        try:
            subscription = await self._subscribe()
            if subscription is None:
                return
            try:
                while not self._stopping.is_set():
                    await self._turn(subscription)
            finally:
                await subscription.close()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Let ``run`` end after the record under way. Idempotent; returns when it did, or after five seconds."""
        self._stopping.set()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            _log.error("runner_stop_timed_out", group=self._group)

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Pass on; a runner that waits pauses what is new as well."""
        _log.info("partitions_assigned", group=self._group, partitions=[f"{t}/{p}" for t, p in partitions])
        if self._held_until_s is not None:
            await subscription.pause(partitions)
        await self._consumer.assigned(subscription, partitions)

    async def revoked(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Drop what is not committed of these, then pass on."""
        _log.info("partitions_revoked", group=self._group, partitions=[f"{t}/{p}" for t, p in partitions])
        gone = frozenset(partitions)
        self._pending = deque(record for record in self._pending if record.source not in gone)
        for partition in gone:
            self._uncommitted.pop(partition, None)
        await self._consumer.revoked(subscription, partitions)

    async def _subscribe(self) -> Subscription | None:
        while not self._stopping.is_set():
            try:
                return await self._bus.subscribe(
                    self._topics,
                    group=self._group,
                    member=self._member,
                    listener=self,
                    co_partitioned=self._co_partitioned,
                )
            except BusUnavailableError as error:
                await self._rest(self._postpone(error))
        return None

    async def _turn(self, subscription: Subscription) -> None:
        timeout_s = self._fetch_timeout_s
        if self._held_until_s is not None:
            timeout_s = min(timeout_s, max(self._held_until_s - time.monotonic(), 0.0))
        try:
            fetched = await subscription.fetch(max_records=self._max_records, timeout_s=timeout_s)
        except BusUnavailableError as error:
            await self._rest(self._postpone(error))
            return
        if not fetched:
            await asyncio.sleep(_REST_S)
        self._pending.extend(fetched)
        if self._held_until_s is not None and time.monotonic() < self._held_until_s:
            return
        try:
            await self._work(subscription)
        except _AWAY as error:
            await self._hold(subscription, error)
            return
        await self._release(subscription)
        await self._measure_lag(subscription)

    async def _work(self, subscription: Subscription) -> None:
        try:
            while self._pending and not self._stopping.is_set():
                record = self._pending[0]
                await self._consume(record)
                self._pending.popleft()
                self._uncommitted[record.source] = record.offset + 1
                self._metrics.counter(catalogue.RECORDS_CONSUMED, topic=record.topic).inc()
                self._progress.tick()
        except (*_AWAY, DeadLetterLimitError):
            await self._settle(subscription)  # what was consumed until then counts
            raise
        await self._settle(subscription)

    async def _consume(self, record: ConsumedRecord) -> None:
        try:
            await self._consumer.consume(record)
        except _AWAY:
            self._metrics.counter(catalogue.RECORDS_RETRIED, topic=record.topic).inc()
            raise
        except DeadLetterError as error:
            await self._dead_letters.bury(record, error.reason, str(error))
        except BusRecordError as error:
            await self._dead_letters.bury(record, "unpublishable", str(error))
        except ChassisError:
            raise  # ours is not the record's fault
        except Exception as error:  # noqa: BLE001 - whatever our own code raises
            # A record that makes us fail would make our successor fail: an attacker's way to stop detection.
            _log.exception("record_failed", topic=record.topic, partition=record.partition, offset=record.offset)
            await self._dead_letters.bury(record, "unexpected", f"{type(error).__name__}: {error}")
        else:
            self._dead_letters.passed()

    async def _settle(self, subscription: Subscription) -> None:
        deferring = self._consumer if isinstance(self._consumer, Deferring) else None
        if not self._uncommitted and deferring is None:
            return
        with self._metrics.histogram(catalogue.FLUSH_SECONDS).time():
            await self._consumer.flush()
        positions = self._uncommitted if deferring is None else deferring.committable(self._uncommitted)
        if positions:
            await subscription.commit(positions)
        self._uncommitted.clear()

    async def _hold(self, subscription: Subscription, error: Exception) -> None:
        pause_s = self._postpone(error)
        if self._held_until_s is None:
            await subscription.pause(tuple(subscription.assignment()))
        self._held_until_s = time.monotonic() + pause_s

    async def _release(self, subscription: Subscription) -> None:
        self._backoff.reset()
        self._progress.tick()
        if self._held_until_s is not None:
            self._held_until_s = None
            _log.info("runner_resumed", group=self._group)
            await subscription.resume(tuple(subscription.assignment()))

    def _postpone(self, error: Exception) -> float:
        pause_s = self._backoff.next_s()
        self._progress.degrade(f"{self._group} waits: {error}")
        _log.warning("runner_waits", group=self._group, error=str(error), retry_s=round(pause_s, 2))
        return pause_s

    async def _rest(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _measure_lag(self, subscription: Subscription) -> None:
        now_s = time.monotonic()
        if now_s < self._lag_due_s:
            return
        self._lag_due_s = now_s + _LAG_INTERVAL_S
        try:
            lags = await subscription.lag()
        except BusUnavailableError:
            return  # the next fetch tells
        records = Counter[str](dict.fromkeys(self._topics, 0))
        for partition, lag in lags.items():
            records[partition.topic] += lag
        for topic, lag in records.items():
            self._metrics.gauge(catalogue.LAG_RECORDS, topic=topic).set(lag)
