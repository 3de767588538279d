"""A fetch that is cancelled in the middle of a rebalance loses no word to the listener."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from microedr_chassis.bus.api import Subscription, TopicPartition, TopicSpec
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus
from microedr_chassis.errors import BusUnavailableError

EVERY = frozenset(TopicPartition("events", number) for number in range(4))


class SlowListener:
    """Takes its time the first time it is told anything."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, frozenset[TopicPartition]]] = []
        self.is_slow = True

    async def assigned(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Told."""
        await self._told("assigned", partitions)

    async def revoked(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Told."""
        await self._told("revoked", partitions)

    async def _told(self, what: str, partitions: Sequence[TopicPartition]) -> None:
        if self.is_slow:
            self.is_slow = False
            await asyncio.sleep(60)
        self.finished.append((what, frozenset(partitions)))


async def started(broker: MemoryBroker) -> MemoryBus:
    bus = MemoryBus(broker)
    await bus.start()
    await bus.ensure_topics([TopicSpec("events", 4, retention_s=60)])
    return bus


async def fetch_cancelled(subscription: Subscription) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await subscription.fetch(max_records=1, timeout_s=1.0)


async def test_a_cancelled_assignment_is_told_again() -> None:
    bus = await started(MemoryBroker())
    listener = SlowListener()
    subscription = await bus.subscribe(["events"], group="g", member="a", listener=listener)
    await fetch_cancelled(subscription)
    await subscription.fetch(max_records=1, timeout_s=0)

    assert listener.finished == [("assigned", EVERY)]


async def test_a_cancelled_revocation_is_told_again_before_another_owns_it() -> None:
    broker = MemoryBroker()
    bus = await started(broker)
    listener = SlowListener()
    listener.is_slow = False
    first = await bus.subscribe(["events"], group="g", member="a", listener=listener)
    await first.fetch(max_records=1, timeout_s=0)
    second = await (await started(broker)).subscribe(["events"], group="g", member="b")
    listener.is_slow = True
    await fetch_cancelled(first)
    await second.fetch(max_records=1, timeout_s=0)
    owned_too_early = second.assignment()
    await first.fetch(max_records=1, timeout_s=0)
    await second.fetch(max_records=1, timeout_s=0)

    assert not owned_too_early
    assert [what for what, _ in listener.finished] == ["assigned", "revoked"]
    assert first.assignment() | second.assignment() == EVERY
    assert not first.assignment() & second.assignment()


async def test_a_bus_that_is_away_says_so_and_goes_on_when_it_is_back() -> None:
    bus = await started(MemoryBroker())
    subscription = await bus.subscribe(["events"], group="g", member="a")
    bus.broker.away = True
    with pytest.raises(BusUnavailableError):
        await subscription.fetch(max_records=1, timeout_s=0)
    bus.broker.away = False
    await subscription.fetch(max_records=1, timeout_s=0)

    assert subscription.assignment() == EVERY
