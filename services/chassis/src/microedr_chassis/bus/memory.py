"""The bus in memory: for tests, and for ``microedr up --bus memory``; nothing outlives the process.

A ``MemoryBroker`` holds the logs and groups, each ``MemoryBus`` is one connection to it. All of
them live on one event loop.
"""

import asyncio
import bisect
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from microedr_chassis.bus.api import (
    BusStatistics,
    ConsumedRecord,
    RebalanceListener,
    Record,
    TopicPartition,
    TopicSpec,
)
from microedr_chassis.bus.assignment import assign
from microedr_chassis.bus.local import Bounds, LocalSubscription, Membership, Plan, Read
from microedr_chassis.bus.partition import partition_of
from microedr_chassis.bus.record import check_record
from microedr_chassis.bus.window import Place, PublishWindow
from microedr_chassis.errors import BusFencedError, BusRecordError, BusTopicError, BusUnavailableError

_MAX_FETCH_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class _Group:
    version: int = 0
    members: dict[str, Membership] = field(default_factory=dict)
    owners: dict[TopicPartition, str] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)


class MemoryBroker:
    """The logs, and the groups that read them; implements ``local.GroupStore``."""

    def __init__(self) -> None:
        self.away = False
        """Set by tests: everything answers BusUnavailableError until it is cleared."""
        self._topics: dict[str, TopicSpec] = {}
        self._logs: dict[TopicPartition, list[ConsumedRecord]] = {}
        self._groups: dict[str, _Group] = {}
        self._subscriptions: set[LocalSubscription] = set()

    def _answer(self) -> None:
        if self.away:
            raise BusUnavailableError("the memory bus is away")

    def ensure_topic(self, spec: TopicSpec) -> None:
        """Create it when it is missing."""
        self._answer()
        known = self._topics.setdefault(spec.name, spec)
        if known.partitions != spec.partitions:
            raise BusTopicError(f"topic {spec.name} has {known.partitions} partitions, not {spec.partitions}")
        for number in range(spec.partitions):
            self._logs.setdefault(TopicPartition(spec.name, number), [])

    def sources(self, topics: Sequence[str]) -> list[TopicPartition]:
        """Every partition of these topics."""
        self._answer()
        for topic in topics:
            if topic not in self._topics:
                raise BusTopicError(f"topic {topic} does not exist")
        return [TopicPartition(topic, number) for topic in topics for number in range(self._topics[topic].partitions)]

    def append(self, record: Record) -> Place:
        """Put ``record`` at the end of its log."""
        self._answer()
        spec = self._topics.get(record.topic)
        if spec is None:
            raise BusRecordError(f"topic {record.topic} does not exist")
        source = TopicPartition(record.topic, partition_of(record.key, spec.partitions))
        log = self._logs[source]
        now_ms = time.time_ns() // 1_000_000
        timestamp_ms = max(now_ms, log[-1].timestamp_unix_ms) if log else now_ms
        log.append(
            ConsumedRecord(*source, len(log), timestamp_ms, record.key, record.value, dict(record.headers)),
        )
        for subscription in self._subscriptions:
            if record.topic in subscription.topics:
                subscription.wake()
        return source, len(log) - 1

    def watch(self, subscription: LocalSubscription) -> None:
        """Wake it when there is something to read."""
        self._subscriptions.add(subscription)

    def forget(self, subscription: LocalSubscription) -> None:
        """See ``local.GroupStore``."""
        self._subscriptions.discard(subscription)

    async def join(self, membership: Membership) -> None:
        """See ``local.GroupStore``."""
        self.sources(membership.topics)
        group = self._groups.setdefault(membership.group, _Group())
        self._remove(group, membership.member)
        group.members[membership.member] = membership
        self._changed(membership.group)

    async def leave(self, membership: Membership) -> None:
        """See ``local.GroupStore``."""
        self.expel(membership)

    def expel(self, membership: Membership) -> None:
        """Remove the member as if it had died; nothing happens when it is out already."""
        group = self._groups[membership.group]
        if group.members.get(membership.member) == membership:
            self._remove(group, membership.member)
            self._changed(membership.group)

    def _remove(self, group: _Group, member: str) -> None:
        group.members.pop(member, None)
        group.owners = {source: owner for source, owner in group.owners.items() if owner != member}

    def _changed(self, name: str) -> None:
        self._groups[name].version += 1
        for subscription in self._subscriptions:
            if subscription.group == name:
                subscription.wake()

    def _group_of(self, membership: Membership) -> _Group:
        self._answer()
        group = self._groups[membership.group]
        if group.members.get(membership.member) != membership:
            raise BusFencedError(f"member {membership.member} of group {membership.group} was replaced")
        return group

    async def plan(self, membership: Membership) -> Plan:
        """See ``local.GroupStore``."""
        group = self._group_of(membership)
        return self._plan(group, membership)[0]

    def _plan(self, group: _Group, membership: Membership) -> tuple[Plan, set[TopicPartition]]:
        topics = sorted({topic for member in group.members.values() for topic in member.topics})
        target = assign(
            {name: member.topics for name, member in group.members.items()},
            self.sources(topics),
            group.owners,
            co_partitioned=membership.co_partitioned,
        )
        owned = frozenset(source for source, owner in group.owners.items() if owner == membership.member)
        wanted = {source for source, owner in target.items() if owner == membership.member}
        return Plan(group.version, owned, owned - wanted), wanted

    async def settle(self, membership: Membership, give_up: frozenset[TopicPartition]) -> Plan:
        """See ``local.GroupStore``."""
        group = self._group_of(membership)
        released = [source for source in give_up if group.owners.get(source) == membership.member]
        for source in released:
            del group.owners[source]
        _, wanted = self._plan(group, membership)
        busy = {
            source.partition for source in wanted if group.owners.get(source, membership.member) != membership.member
        }
        for source in wanted:
            if source not in group.owners and not (membership.co_partitioned and source.partition in busy):
                group.owners[source] = membership.member
        if released:
            self._changed(membership.group)
        return self._plan(group, membership)[0]

    async def commit(self, membership: Membership, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See ``local.GroupStore``."""
        self._answer()
        group = self._groups[membership.group]
        if group.members.get(membership.member) != membership:
            return
        for source, offset in next_offsets.items():
            if group.owners.get(source) == membership.member:
                group.committed[source] = offset

    async def bounds(self, group: str, sources: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """See ``local.GroupStore``."""
        self._answer()
        committed = self._groups[group].committed if group else {}
        return {source: Bounds(0, len(self._logs[source]), committed.get(source)) for source in sources}

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """See ``local.GroupStore``."""
        self._answer()
        return bisect.bisect_left(self._logs[source], timestamp_unix_ms, key=lambda record: record.timestamp_unix_ms)

    async def read(self, group: str, version: int, positions: Mapping[TopicPartition, int], max_records: int) -> Read:
        """See ``local.GroupStore``."""
        self._answer()
        current = self._groups[group].version if group else version
        if current != version:
            return Read(current, ())
        records: list[ConsumedRecord] = []
        size_bytes = 0
        for source, position in positions.items():
            for record in self._logs[source][position : position + max_records - len(records)]:
                records.append(record)
                size_bytes += len(record.value)
                if size_bytes >= _MAX_FETCH_BYTES:
                    return Read(current, records)
        return Read(current, records)


class MemoryBus:
    """Implements ``api.Bus`` over ``broker``, a new one when none is given."""

    def __init__(
        self, broker: MemoryBroker | None = None, *, queue_records: int = 10_000, queue_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self.broker = broker if broker is not None else MemoryBroker()
        self._window = PublishWindow(queue_records, queue_bytes)
        self._subscriptions: list[tuple[LocalSubscription, Membership | None]] = []

    async def start(self) -> None:
        """See ``api.Bus``."""
        self.broker.sources(())

    async def close(self) -> None:
        """See ``api.Bus``."""
        await asyncio.sleep(0)
        for subscription, _ in self._subscriptions:
            await subscription.close()
        self._subscriptions.clear()

    def crash(self) -> None:
        """Vanish without a word, as a killed process does; for tests."""
        for subscription, membership in self._subscriptions:
            self.broker.forget(subscription)
            if membership is not None:
                self.broker.expel(membership)
        self._subscriptions.clear()

    def statistics(self) -> BusStatistics:
        """See ``api.Bus``."""
        return self._window.statistics()

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See ``api.Bus``."""
        for spec in topics:
            self.broker.ensure_topic(spec)

    async def publish(self, record: Record) -> Place:
        """See ``api.Bus``."""
        return await self.submit(record)

    def submit(self, record: Record) -> "asyncio.Future[Place]":
        """See ``api.Bus``."""
        loop = asyncio.get_running_loop()
        size_bytes = check_record(record)
        self._window.admit(size_bytes)
        future: asyncio.Future[Place] = loop.create_future()
        loop.call_soon(self._append, record, size_bytes, future, self._window.generation)
        return future

    def _append(self, record: Record, size_bytes: int, future: "asyncio.Future[Place]", generation: int) -> None:
        try:
            if self._window.doomed(generation):
                raise BusUnavailableError("a record before this one failed")  # noqa: TRY301 - settled below as the others
            place = self.broker.append(record)
        except BusUnavailableError as error:
            self._window.cool_down(str(error))
            self._window.settle(future, size_bytes, error)
        except BusRecordError as error:
            self._window.settle(future, size_bytes, error)
        else:
            self._window.settle(future, size_bytes, place)

    async def subscribe(
        self,
        topics: Sequence[str],
        *,
        group: str,
        member: str,
        listener: RebalanceListener | None = None,
        co_partitioned: bool = False,
    ) -> LocalSubscription:
        """See ``api.Bus``."""
        membership = Membership(group, member, uuid.uuid4().hex, tuple(topics), co_partitioned)
        await self.broker.join(membership)
        return self._watch(LocalSubscription(self.broker, topics, membership, listener), membership)

    async def tail(self, topics: Sequence[str], *, since_unix_ms: int) -> LocalSubscription:
        """See ``api.Bus``."""
        sources = self.broker.sources(topics)
        positions = {source: await self.broker.offset_at(source, since_unix_ms) for source in sources}
        return self._watch(LocalSubscription(self.broker, topics, None, positions=positions), None)

    def _watch(self, subscription: LocalSubscription, membership: Membership | None) -> LocalSubscription:
        self._subscriptions.append((subscription, membership))
        self.broker.watch(subscription)
        return subscription
