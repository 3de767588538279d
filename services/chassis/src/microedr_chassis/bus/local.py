"""A subscription over a store that keeps the groups itself: shared by ``memory`` and ``sqlite``.

The store decides in one step each who owns what; this side moves one member through it: give up,
tell the listener, take, tell the listener, read.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from microedr_chassis.bus.api import ConsumedRecord, RebalanceListener, TopicPartition
from microedr_chassis.errors import BusFencedError, BusRetentionError, BusUnavailableError


@dataclass(frozen=True, slots=True)
class Membership:
    """One member's place in a group. ``incarnation`` tells two holders of one name apart."""

    group: str
    member: str
    incarnation: str
    topics: tuple[str, ...]
    co_partitioned: bool


class Bounds(NamedTuple):
    """What one log holds and where the group stands in it."""

    first: int
    end: int
    committed: int | None


class Plan(NamedTuple):
    """A member's part of its group's state ``version``."""

    version: int
    owned: frozenset[TopicPartition]
    give_up: frozenset[TopicPartition]


class Read(NamedTuple):
    """Records, or word that the group changed: its ``version`` is another than expected."""

    version: int
    records: Sequence[ConsumedRecord]


class GroupStore(Protocol):
    """What a backend does for its subscriptions, each call one step that happens or does not.

    All of them raise BusUnavailableError while the backend is away, and those that take a
    membership raise BusFencedError once another goes by its name.
    """

    async def join(self, membership: Membership) -> None:
        """Add the member; whoever had its name is out."""

    async def leave(self, membership: Membership) -> None:
        """Remove the member and free what it owns."""

    async def plan(self, membership: Membership) -> Plan:
        """What the member owns, and what of it another is to have."""

    async def settle(self, membership: Membership, give_up: frozenset[TopicPartition]) -> Plan:
        """Free ``give_up``, then take everything that is free and to be the member's."""

    async def commit(self, membership: Membership, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Remember the offsets of those the member owns."""

    async def bounds(self, group: str, sources: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Of each source; ``committed`` is None where the group never committed."""

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """First record at or after this time, else the end."""

    async def read(self, group: str, version: int, positions: Mapping[TopicPartition, int], max_records: int) -> Read:
        """From these positions on, in this order of sources; nothing when ``version`` is not the group's."""

    def forget(self, subscription: "LocalSubscription") -> None:
        """It is closed: never wake it again."""


class LocalSubscription:
    """Implements ``api.Subscription``; a tail when it is given positions instead of a membership."""

    def __init__(
        self,
        store: GroupStore,
        topics: Sequence[str],
        membership: Membership | None,
        listener: RebalanceListener | None = None,
        positions: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        self.topics = frozenset(topics)
        self._store = store
        self._membership = membership
        self._listener = listener
        self._positions = dict(positions or {})
        self._paused: set[TopicPartition] = set()
        self._announced: set[TopicPartition] = set(self._positions)
        self._version = -1
        self._awake = asyncio.Event()
        self._closed = False

    @property
    def group(self) -> str:
        """Empty for a tail."""
        return self._membership.group if self._membership is not None else ""

    def wake(self) -> None:
        """There may be something to read, or the group changed."""
        self._awake.set()

    async def fetch(self, *, max_records: int, timeout_s: float) -> Sequence[ConsumedRecord]:
        """See ``api.Subscription``."""
        deadline_s = time.monotonic() + timeout_s
        while not self._closed:
            self._awake.clear()
            try:
                records = await self._fetch_now(max_records)
            except BusFencedError:
                if self._closed:
                    return ()
                raise
            remaining_s = deadline_s - time.monotonic()
            if records or remaining_s <= 0:
                return records
            try:
                async with asyncio.timeout(remaining_s):
                    await self._awake.wait()
            except TimeoutError:
                return ()
        return ()

    async def _fetch_now(self, max_records: int) -> Sequence[ConsumedRecord]:
        """What is there at this moment, after whatever change of ownership is due."""
        while not self._closed:
            if self._version < 0 or self._announced != self._positions.keys():
                await self._rebalance()
            wanted = {source: at for source, at in self._positions.items() if source not in self._paused}
            read = await self._store.read(self.group, self._version, wanted, max_records)
            if self._membership is not None and read.version != self._version:
                self._version = -1
                continue
            self._advance(read.records)
            return read.records
        return ()

    def _advance(self, records: Sequence[ConsumedRecord]) -> None:
        """Go on after ``records``; whoever was read comes last in turn, so that none starves."""
        for record in records:
            self._positions.pop(record.source, None)
            self._positions[record.source] = record.offset + 1

    async def _rebalance(self) -> None:
        """Give up, take, tell. Cancelled anywhere, the next fetch does what is left."""
        if self._membership is None:
            self._version = 0
            return
        plan = await self._store.plan(self._membership)
        give_up = plan.give_up & self._announced
        if give_up and self._listener is not None:
            await self._listener.revoked(self, sorted(give_up))
        for source in plan.give_up:
            self._drop(source)
        plan = await self._store.settle(self._membership, plan.give_up)
        for source in self._positions.keys() - plan.owned:
            self._drop(source)
        gained = sorted(plan.owned - self._announced)
        await self._place(sorted(plan.owned - self._positions.keys()))
        if gained and self._listener is not None:
            await self._listener.assigned(self, gained)
        self._announced.update(gained)
        self._version = plan.version

    def _drop(self, source: TopicPartition) -> None:
        self._positions.pop(source, None)
        self._paused.discard(source)
        self._announced.discard(source)

    async def _place(self, sources: Sequence[TopicPartition]) -> None:
        """Begin where the group goes on, at the beginning where it never was.

        Raises:
            BusRetentionError: What comes next for the group is deleted.
        """
        if not sources:
            return
        for source, bounds in (await self._store.bounds(self.group, sources)).items():
            if bounds.committed is not None and bounds.committed < bounds.first:
                raise BusRetentionError(
                    f"group {self.group} goes on at offset {bounds.committed} of {source.topic}/{source.partition}, "
                    f"but the log begins at {bounds.first}: what lies between was deleted unread"
                )
            self._positions[source] = bounds.first if bounds.committed is None else bounds.committed

    async def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See ``api.Subscription``; a tail commits nothing."""
        ours = {source: offset for source, offset in next_offsets.items() if source in self._positions}
        if ours and self._membership is not None:
            await self._store.commit(self._membership, ours)

    async def seek(self, source: TopicPartition, offset: int) -> None:
        """See ``api.Subscription``. Not ours: nothing happens."""
        if source not in self._positions:
            return
        bounds = (await self._store.bounds(self.group, [source]))[source]
        self._positions[source] = min(max(offset, bounds.first), bounds.end)
        self._awake.set()

    async def committed(self, source: TopicPartition) -> int | None:
        """See ``api.Subscription``."""
        return (await self._store.bounds(self.group, [source]))[source].committed

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """See ``api.Subscription``."""
        return await self._store.offset_at(source, timestamp_unix_ms)

    async def end_offset(self, source: TopicPartition) -> int:
        """See ``api.Subscription``."""
        return (await self._store.bounds(self.group, [source]))[source].end

    async def pause(self, sources: Sequence[TopicPartition]) -> None:
        """See ``api.Subscription``."""
        self._paused.update(source for source in sources if source in self._positions)

    async def resume(self, sources: Sequence[TopicPartition]) -> None:
        """See ``api.Subscription``."""
        self._paused.difference_update(sources)
        self._awake.set()

    def assignment(self) -> frozenset[TopicPartition]:
        """See ``api.Subscription``."""
        return frozenset(self._positions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See ``api.Subscription``; of a tail: not yet fetched."""
        bounds = await self._store.bounds(self.group, list(self._positions))
        lags = {}
        for source, (first, end, committed) in bounds.items():
            done = self._positions.get(source, end) if self._membership is None else committed
            lags[source] = max(0, end - max(first, first if done is None else done))
        return lags

    async def close(self) -> None:
        """See ``api.Subscription``."""
        if self._closed:
            return
        self._closed = True
        self._awake.set()
        self._store.forget(self)
        if self._membership is not None:
            # A store that is away removes the member when the bus itself is closed.
            with contextlib.suppress(BusUnavailableError):
                await self._store.leave(self._membership)
