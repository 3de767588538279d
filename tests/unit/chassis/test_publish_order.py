"""When one publish fails, nothing submitted after it slips through, so that order outlives the failure."""

import asyncio

import pytest

from microedr_chassis.bus.api import Record, TopicSpec
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.bus.window import COOL_DOWN_S
from microedr_chassis.errors import BusUnavailableError

RECORD = Record("events", b"host-1", b"value")


async def test_after_a_failure_everything_under_way_fails_and_submits_wait_a_moment() -> None:
    bus = MemoryBus()
    await bus.start()
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=60)])
    bus.broker.away = True
    first, second = bus.submit(RECORD), bus.submit(RECORD)
    with pytest.raises(BusUnavailableError):
        await first
    bus.broker.away = False
    with pytest.raises(BusUnavailableError):
        bus.submit(RECORD)
    await asyncio.sleep(COOL_DOWN_S * 1.5)
    _, offset = await bus.publish(RECORD)
    statistics = bus.statistics()

    with pytest.raises(BusUnavailableError):
        second.result()
    assert offset == 0
    assert (statistics.failed_total, statistics.refused_total, statistics.published_total) == (2, 1, 1)
    await bus.close()


async def test_a_publisher_that_went_away_leaves_nothing_behind() -> None:
    bus = MemoryBus()
    await bus.start()
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=60)])
    bus.submit(RECORD).cancel()
    await asyncio.sleep(0)

    assert bus.statistics().in_flight == 0
    await bus.close()
