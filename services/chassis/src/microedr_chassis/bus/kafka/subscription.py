"""A subscription to high-rate topics: the event loop's half of ``consumer``."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import structlog
from confluent_kafka import TopicPartition as KafkaPartition

from microedr_chassis.bus.api import ConsumedRecord, RebalanceListener, TopicPartition
from microedr_chassis.bus.kafka.client import Wanted
from microedr_chassis.bus.kafka.consumer import ConsumeThread
from microedr_chassis.bus.kafka.leave import leave_group
from microedr_chassis.bus.kafka.messages import Event, Failed, Fetched, Gained, Losing
from microedr_chassis.bus.kafka.offsets import Link
from microedr_chassis.errors import BusFencedError, BusUnavailableError

_log = structlog.get_logger()


class KafkaSubscription:
    """Implements ``api.Subscription``."""

    def __init__(self, link: Link, wanted: Wanted, listener: RebalanceListener | None) -> None:
        self._link = link
        self._group = wanted.group
        self._listener = listener
        self._wanted = wanted
        self._thread = ConsumeThread(link.options, wanted, self._on_event)
        self._lost: list[TopicPartition] = []
        self._events: deque[Event] = deque()
        self._has_event = asyncio.Event()
        self._asked = False
        self._ready: deque[ConsumedRecord] = deque()
        self._closed = False
        self._thread.start()

    def _on_event(self, event: Event) -> None:
        self._events.append(event)
        self._has_event.set()

    async def fetch(self, *, max_records: int, timeout_s: float) -> Sequence[ConsumedRecord]:
        """See ``api.Subscription``."""
        deadline_s = time.monotonic() + timeout_s
        while not self._closed:
            if self._ready:
                return [self._ready.popleft() for _ in range(min(max_records, len(self._ready)))]
            if not self._asked:
                self._thread.fetch(max_records, max(0.0, deadline_s - time.monotonic()))
                self._asked = True
            await self._next_event()
            if not self._ready and not self._asked:
                if self._link.is_away():
                    raise BusUnavailableError(f"kafka at {self._link.options.servers} is away")
                if time.monotonic() >= deadline_s:
                    return ()
        return ()

    async def _next_event(self) -> None:
        """Take what the thread says; it leaves the queue once dealt with, so that a cancelled fetch loses none."""
        while not self._events:
            self._has_event.clear()
            await self._has_event.wait()
        event = self._events[0]
        if isinstance(event, Gained | Losing):
            if self._listener is not None:
                if isinstance(event, Gained):
                    await self._listener.assigned(self, event.sources)
                else:
                    await self._listener.revoked(self, event.sources)
            self._events.popleft()
            self._thread.done()
            return
        if isinstance(event, Failed) and isinstance(event.error, BusFencedError) and self._thread.had_trouble():
            await self._begin_anew()
            event = Fetched(())
        self._events.popleft()
        self._asked = False
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Fetched):
            self._ready.extend(event.records)

    async def _begin_anew(self) -> None:
        """Join again with another consumer.

        When a broker dies in the middle of a join, librdkafka can come back with the id of before and
        the coordinator takes it for a stranger who goes by the name of the new one: itself.
        """
        _log.warning("kafka_consumer_fenced_by_itself", group=self._group, member=self._wanted.member)
        self._lost += sorted(self._thread.assigned)
        await self._thread.close()
        if self._lost and self._listener is not None:
            await self._listener.revoked(self, self._lost)
        self._lost = []
        self._ready.clear()
        self._thread = ConsumeThread(self._link.options, self._wanted, self._on_event)
        self._thread.start()

    async def _withdraw(self, sources: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Take back what was polled of these and not returned; where each must go on."""
        positions: dict[TopicPartition, int] = {}
        kept: deque[ConsumedRecord] = deque()
        while any(isinstance(event, Fetched) for event in self._events):
            await self._next_event()
        for record in self._ready:
            if record.source in sources:
                positions.setdefault(record.source, record.offset)
            else:
                kept.append(record)
        self._ready = kept
        return positions

    async def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See ``api.Subscription``."""
        offsets = dict(next_offsets)
        await self._thread.call(lambda: self._thread.commit(offsets))

    async def seek(self, source: TopicPartition, offset: int) -> None:
        """See ``api.Subscription``. Not ours: nothing happens."""
        if source not in self._thread.assigned:
            return
        at = await self._link.offsets.clamp(source, offset)
        await self._withdraw([source])
        await self._thread.call(partial(self._thread.seek, source, at))

    async def committed(self, source: TopicPartition) -> int | None:
        """See ``api.Subscription``."""
        return (await self._committed([source])).get(source)

    async def _committed(self, sources: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        def step() -> dict[TopicPartition, int]:
            asked = [KafkaPartition(*source) for source in sources]
            known = self._thread.consumer.committed(asked, timeout=self._link.options.connect_timeout_s)
            return {TopicPartition(each.topic, each.partition): each.offset for each in known if each.offset >= 0}

        return dict(await self._thread.call(step))

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """See ``api.Subscription``."""
        return (await self._link.offsets.at([source], timestamp_unix_ms))[source]

    async def end_offset(self, source: TopicPartition) -> int:
        """See ``api.Subscription``."""
        return (await self._link.offsets.ends([source]))[source]

    async def pause(self, sources: Sequence[TopicPartition]) -> None:
        """See ``api.Subscription``."""
        ours = [source for source in sources if source in self._thread.assigned]

        def step() -> None:
            self._thread.paused |= frozenset(ours)
            self._thread.consumer.pause([KafkaPartition(*source) for source in ours])

        if ours:
            await self._thread.call(step)
            for source, offset in (await self._withdraw(ours)).items():
                await self._thread.call(partial(self._thread.seek, source, offset))

    async def resume(self, sources: Sequence[TopicPartition]) -> None:
        """See ``api.Subscription``."""
        ours = [source for source in sources if source in self._thread.assigned]

        def step() -> None:
            self._thread.paused -= frozenset(ours)
            self._thread.consumer.resume([KafkaPartition(*source) for source in ours])

        if ours:
            await self._thread.call(step)

    def assignment(self) -> frozenset[TopicPartition]:
        """See ``api.Subscription``."""
        return self._thread.assigned

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See ``api.Subscription``."""
        ours = sorted(self._thread.assigned)
        if not ours:
            return {}
        committed = await self._committed(ours)
        firsts, ends = await self._link.offsets.firsts(ours), await self._link.offsets.ends(ours)
        return {source: max(0, ends[source] - max(firsts[source], committed.get(source, 0))) for source in ours}

    async def close(self) -> None:
        """See ``api.Subscription``."""
        if self._closed:
            return
        self._closed = True
        self._on_event(Fetched(()))
        member_id = await self._thread.close()
        if member_id and not self._link.is_away():
            await leave_group(self._link.options, self._group, member_id)
