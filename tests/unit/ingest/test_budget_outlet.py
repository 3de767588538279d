"""The budget is shared fairly and never leaks; the outlet keeps order and gives up only what it counts."""

import asyncio

import pytest

from microedr_chassis import catalogue
from microedr_chassis.bus.api import Record, TopicSpec
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.metrics import MetricRegistry
from microedr_ingest.budget import ByteBudget
from microedr_ingest.outlet import Outlet

_TOPIC = "microedr.hosts.v1"


async def test_there_is_room_until_the_total_is_used() -> None:
    budget = ByteBudget(100)
    budget.take(99)
    assert not budget.is_full
    budget.take(50)

    assert budget.is_full
    assert budget.used_bytes == 149


async def test_waiters_come_in_turn_and_each_once() -> None:
    budget, order = ByteBudget(100), []

    async def want(name: str) -> None:
        await budget.room()
        budget.take(100)
        order.append(name)

    budget.take(100)
    waiting = [asyncio.create_task(want(name)) for name in "abc"]
    for expected in ("a", "ab", "abc"):
        await asyncio.sleep(0)
        budget.give_back(100)
        await asyncio.sleep(0.01)
        assert "".join(order) == expected
    await asyncio.gather(*waiting)


async def test_one_that_gives_up_waiting_passes_its_turn_on() -> None:
    budget = ByteBudget(100)
    budget.take(100)
    impatient = asyncio.create_task(budget.room())
    patient = asyncio.create_task(budget.room())
    await asyncio.sleep(0)
    budget.give_back(100)
    impatient.cancel()

    await asyncio.wait_for(patient, 1)
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def published(bus: MemoryBus, count: int) -> list[bytes]:
    tail = await bus.tail([_TOPIC], since_unix_ms=0)
    values: list[bytes] = []
    async with asyncio.timeout(5):
        while len(values) < count:
            values += [record.value for record in await tail.fetch(max_records=100, timeout_s=0.1)]
    return values


async def test_records_are_published_in_order_once_the_bus_is_back() -> None:
    bus, metrics = MemoryBus(), MetricRegistry().for_service("ingest")
    await bus.ensure_topics([TopicSpec(_TOPIC, 1, 60)])
    outlet = Outlet(bus, metrics)
    running = asyncio.create_task(outlet.run())
    bus.broker.away = True
    for number in range(200):
        outlet.offer(Record(_TOPIC, b"host-a", b"%d" % number))
    await asyncio.sleep(0.1)
    bus.broker.away = False
    await asyncio.wait_for(outlet.drain(), 5)
    running.cancel()

    assert await published(bus, 200) == [b"%d" % number for number in range(200)]
    assert metrics.value(catalogue.RECORDS_PUBLISHED, topic=_TOPIC) == 200


async def test_a_full_outlet_drops_the_oldest_and_counts_it() -> None:
    bus, metrics = MemoryBus(), MetricRegistry().for_service("ingest")
    await bus.ensure_topics([TopicSpec(_TOPIC, 1, 60)])
    outlet = Outlet(bus, metrics, max_pending=3)
    for number in range(5):
        outlet.offer(Record(_TOPIC, b"host-a", b"%d" % number))
    running = asyncio.create_task(outlet.run())
    await asyncio.wait_for(outlet.drain(), 5)
    running.cancel()

    assert await published(bus, 3) == [b"2", b"3", b"4"]
    assert metrics.value(catalogue.RECORDS_DROPPED, topic=_TOPIC, reason="full") == 2


async def test_a_record_that_can_never_be_published_does_not_stop_the_others() -> None:
    bus, metrics = MemoryBus(), MetricRegistry().for_service("ingest")
    await bus.ensure_topics([TopicSpec(_TOPIC, 1, 60)])
    outlet = Outlet(bus, metrics)
    running = asyncio.create_task(outlet.run())
    for value in (b"good", b"x" * 2_000_000, b"good too"):
        outlet.offer(Record(_TOPIC, b"host-a", value))
    await asyncio.wait_for(outlet.drain(), 5)
    running.cancel()

    assert await published(bus, 2) == [b"good", b"good too"]
    assert metrics.value(catalogue.RECORDS_DROPPED, topic=_TOPIC, reason="unpublishable") == 1
