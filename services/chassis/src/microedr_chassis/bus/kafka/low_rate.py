"""Tails and subscriptions to low-rate topics through aiokafka: no threads, everything on the event loop.

aiokafka calls its rebalance listener from a task of its own. Here it only leaves word for the fetch
that runs or comes next, and waits until that has told our listener.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener  # type: ignore[import-untyped]  # aiokafka has no types
from aiokafka import TopicPartition as AioPartition
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]  # as above

from microedr_chassis.bus.api import ConsumedRecord, RebalanceListener, TopicPartition
from microedr_chassis.bus.kafka.aio import NOT_OURS, make_consumer, question, record_of, source_of, stop_consumer
from microedr_chassis.bus.kafka.client import Wanted
from microedr_chassis.bus.kafka.leave import leave_group
from microedr_chassis.bus.kafka.offsets import Link
from microedr_chassis.errors import BusRetentionError, BusUnavailableError

_log = structlog.get_logger()

_RETRY_S = 0.5
_GET_MS = 1000


@dataclass(slots=True)
class _Rebalance:
    """Word for the fetch; ``told`` is set when our listener knows."""

    gained: bool
    sources: Sequence[TopicPartition]
    told: asyncio.Event = field(default_factory=asyncio.Event)


class LowRateSubscription(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Implements ``api.Subscription``; a tail when no group is wanted."""

    def __init__(self, link: Link, wanted: Wanted, listener: RebalanceListener | None = None) -> None:
        options = link.options
        self._link = link
        self._options = options
        self._wanted = wanted
        self._listener = listener
        self._consumer = make_consumer(options, wanted)
        self._rebalances: deque[_Rebalance] = deque()
        self._has_rebalance = asyncio.Event()
        self._ready: deque[ConsumedRecord] = deque()
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._settled = not wanted.group
        self._failure: BusRetentionError | None = None
        self._closed = False

    async def start(self) -> None:
        """Connect and join.

        Raises:
            BusUnavailableError: No broker answers.
        """
        try:
            async with question(self._options):
                await self._consumer.start()
            if self._wanted.group:
                self._consumer.subscribe(self._wanted.topics, listener=self)
        except BaseException:
            await stop_consumer(self._consumer, self._options, self._wanted)
            raise

    async def place_tail(self, sources: Sequence[TopicPartition], since_unix_ms: int) -> None:
        """Take every one of these, from this time on.

        Raises:
            BusUnavailableError: No broker answers.
        """
        starts = await self._link.offsets.at(sources, since_unix_ms)
        self._consumer.assign([AioPartition(*source) for source in sources])
        for source, offset in starts.items():
            self._consumer.seek(AioPartition(*source), offset)
        self._assigned = frozenset(sources)

    async def on_partitions_assigned(self, assigned: set[AioPartition]) -> None:
        """From aiokafka: place them, then have the listener told."""
        sources = sorted(source_of(partition) for partition in assigned)
        while sources and not self._closed:
            try:
                async with question(self._options):
                    await self._place(sources)
                break
            except BusUnavailableError as error:
                # Guessing would skip or repeat: ask until the broker answers.
                _log.warning("kafka_position_unknown", group=self._wanted.group, error=str(error))
                await asyncio.sleep(_RETRY_S)
        self._assigned = frozenset(sources)
        await self._leave_word(_Rebalance(gained=True, sources=sources))
        self._settled = True

    async def _place(self, sources: Sequence[TopicPartition]) -> None:
        """Where the group goes on; at the beginning where it never was."""
        firsts = await self._link.offsets.firsts(sources)
        for source, first in firsts.items():
            committed = await self._consumer.committed(AioPartition(*source))
            if committed is not None and committed < first:
                self._failure = BusRetentionError(
                    f"group {self._wanted.group} goes on at offset {committed} of {source.topic}/{source.partition}, "
                    f"but the log begins at {first}: what lies between was deleted unread"
                )
            self._consumer.seek(AioPartition(*source), first if committed is None else committed)

    async def on_partitions_revoked(self, revoked: set[AioPartition]) -> None:
        """From aiokafka: have the listener told, which may still commit."""
        self._settled = False
        await self._leave_word(_Rebalance(gained=False, sources=sorted(source_of(each) for each in revoked)))
        self._assigned = frozenset()

    async def _leave_word(self, rebalance: _Rebalance) -> None:
        if not rebalance.sources or self._closed:
            return
        self._rebalances.append(rebalance)
        self._has_rebalance.set()
        await rebalance.told.wait()

    async def fetch(self, *, max_records: int, timeout_s: float) -> Sequence[ConsumedRecord]:
        """See ``api.Subscription``."""
        deadline_s = time.monotonic() + timeout_s
        while not self._closed:
            await self._tell_listener()
            if self._failure is not None:
                raise self._failure
            if self._ready:
                return [self._ready.popleft() for _ in range(min(max_records, len(self._ready)))]
            remaining_s = deadline_s - time.monotonic()
            await self._get(max_records, max(0.0, remaining_s))
            if self._ready or self._rebalances:
                continue
            if self._link.is_away():
                raise BusUnavailableError(f"kafka at {self._options.servers} is away")
            if time.monotonic() >= deadline_s:
                return ()
        return ()

    async def _tell_listener(self) -> None:
        """What the group decided. A change leaves the queue when it was told, so that a cancelled fetch loses none."""
        while self._rebalances:
            rebalance = self._rebalances[0]
            if not rebalance.gained:
                # Unread here means uncommitted: it comes again, here or with the next owner.
                self._ready.clear()
            if self._listener is not None:
                if rebalance.gained:
                    await self._listener.assigned(self, rebalance.sources)
                else:
                    await self._listener.revoked(self, rebalance.sources)
            self._rebalances.popleft()
            rebalance.told.set()
        self._has_rebalance.clear()

    async def _get(self, max_records: int, timeout_s: float) -> None:
        """Wait for records or for word of a rebalance, whichever comes first."""
        if not self._settled:
            # aiokafka has records before our listener knows that they are ours.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._has_rebalance.wait()
            return
        # While the group settles, getmany waits for that, whatever its own timeout says.
        getting = asyncio.ensure_future(self._consumer.getmany(timeout_ms=_GET_MS, max_records=max_records))
        word = asyncio.ensure_future(self._has_rebalance.wait())
        try:
            await asyncio.wait({getting, word}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            word.cancel()
            if not getting.done():
                getting.cancel()
                with contextlib.suppress(asyncio.CancelledError, KafkaError):
                    await getting
            if not getting.cancelled():
                self._take(getting)

    def _take(self, getting: "asyncio.Future[Mapping[AioPartition, Sequence[Any]]]") -> None:
        try:
            batches = getting.result()
        except KafkaError as error:
            raise BusUnavailableError(f"kafka: {error!r}") from error
        for messages in batches.values():
            self._ready.extend(record_of(message) for message in messages)

    async def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See ``api.Subscription``; a tail commits nothing."""
        ours = {AioPartition(*source): offset for source, offset in next_offsets.items() if source in self._assigned}
        if not ours or not self._wanted.group:
            return
        async with question(self._options):
            # Left out silently: they are another's by now.
            with contextlib.suppress(*NOT_OURS):
                await self._consumer.commit(ours)

    async def seek(self, source: TopicPartition, offset: int) -> None:
        """See ``api.Subscription``. Not ours: nothing happens."""
        if source not in self._assigned:
            return
        at = await self._link.offsets.clamp(source, offset)
        self._withdraw({source})
        self._consumer.seek(AioPartition(*source), at)

    def _withdraw(self, sources: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Take back what was got of these and not returned; where each must go on."""
        positions: dict[TopicPartition, int] = {}
        for record in self._ready:
            if record.source in sources:
                positions.setdefault(record.source, record.offset)
        self._ready = deque(record for record in self._ready if record.source not in sources)
        return positions

    async def committed(self, source: TopicPartition) -> int | None:
        """See ``api.Subscription``."""
        if not self._wanted.group:
            return None
        async with question(self._options):
            committed: int | None = await self._consumer.committed(AioPartition(*source))
        return committed

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """See ``api.Subscription``."""
        return (await self._link.offsets.at([source], timestamp_unix_ms))[source]

    async def end_offset(self, source: TopicPartition) -> int:
        """See ``api.Subscription``."""
        return (await self._link.offsets.ends([source]))[source]

    async def pause(self, sources: Sequence[TopicPartition]) -> None:
        """See ``api.Subscription``."""
        ours = set(sources) & self._assigned
        self._consumer.pause(*(AioPartition(*source) for source in ours))
        for source, offset in self._withdraw(ours).items():
            self._consumer.seek(AioPartition(*source), offset)

    async def resume(self, sources: Sequence[TopicPartition]) -> None:
        """See ``api.Subscription``."""
        self._consumer.resume(*(AioPartition(*source) for source in set(sources) & self._assigned))

    def assignment(self) -> frozenset[TopicPartition]:
        """See ``api.Subscription``."""
        return self._assigned

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See ``api.Subscription``; of a tail: not yet fetched."""
        ours = sorted(self._assigned)
        firsts, ends = await self._link.offsets.firsts(ours), await self._link.offsets.ends(ours)
        ask = self._consumer.committed if self._wanted.group else self._consumer.position
        lags = {}
        async with question(self._options):
            for source in ours:
                done = await ask(AioPartition(*source))
                lags[source] = max(0, ends[source] - max(firsts[source], done or 0))
        return lags

    async def close(self) -> None:
        """See ``api.Subscription``."""
        if self._closed:
            return
        self._closed = True
        self._has_rebalance.set()
        for rebalance in self._rebalances:
            rebalance.told.set()
        coordinator = getattr(self._consumer, "_coordinator", None)
        member_id = str(getattr(coordinator, "member_id", ""))
        await stop_consumer(self._consumer, self._options, self._wanted)
        if self._wanted.group and member_id and not self._link.is_away():
            await leave_group(self._options, self._wanted.group, member_id)
