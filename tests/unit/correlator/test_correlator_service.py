"""The service on a real runner and bus: alerts come out, commits follow, what waits is not committed."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from microedr.v1.detection_pb2 import Alert
from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import TopicPartition
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus
from microedr_chassis.metrics import MetricRegistry, Metrics
from microedr_chassis.settings import load_settings
from microedr_correlator.app import GROUP, CorrelatorService
from microedr_correlator.settings import CorrelatorSettings
from support.host_story import HostStory

WAIT_S = 30


class System:
    """A bus and the correlators on it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker)
        self.tasks: list[asyncio.Task[None]] = []

    def correlator(self, member: str = "one", **settings: float) -> tuple[CorrelatorService, Metrics]:
        """Start one more."""
        metrics = MetricRegistry().for_service("correlator")
        service = CorrelatorService(
            load_settings(CorrelatorSettings, bus="memory:", member=member, **settings),
            bus=MemoryBus(self.broker),
            metrics=metrics,
        )
        self.tasks.append(asyncio.create_task(service.serve()))
        return service, metrics

    def alerts(self) -> list[Alert]:
        """On the bus by now."""
        sources = [TopicPartition(topics.ALERTS, number) for number in range(4)]
        return [Alert.FromString(record.value) for source in sources for record in self.broker._logs[source]]

    def committed(self, topic: str) -> int:
        """Records of ``topic`` that the group is done with."""
        committed = self.broker._groups[GROUP].committed
        return sum(offset for source, offset in committed.items() if source.topic == topic)


@pytest.fixture(name="system")
async def _system() -> AsyncIterator[System]:
    system = System()
    await system.bus.ensure_topics(topics.catalogue(4))
    yield system
    for task in system.tasks:
        task.cancel()
    await asyncio.gather(*system.tasks, return_exceptions=True)


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when it holds; fail when it does not within ``WAIT_S``."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is another's state
            await asyncio.sleep(0.01)


async def test_an_alert_is_raised_counted_and_committed(system: System) -> None:
    story = HostStory()
    service, metrics = system.correlator()
    bad = story.exec(20, 1)
    await system.bus.publish(story.frame())
    await system.bus.publish(story.match(bad))

    await eventually(lambda: bool(system.alerts()))
    await eventually(lambda: system.committed(topics.MATCHES) == 1)
    await service.stop()

    assert system.committed(topics.EVENTS) == 1
    assert metrics.value(catalogue.ALERTS_RAISED) == 1
    assert metrics.value(catalogue.EVENTS_CONSUMED) == 1
    assert metrics.value(catalogue.WINDOW_HOSTS) == 1
    assert metrics.value(catalogue.WINDOW_PROCESSES) == 1
    assert service.health().ok


async def test_a_match_that_waits_is_not_committed_and_the_next_owner_raises_it(system: System) -> None:
    story = HostStory()
    first, _ = system.correlator(match_wait_s=60)
    bad = story.exec(20, 1)
    await system.bus.publish(story.match(bad))
    await eventually(lambda: GROUP in system.broker._groups)
    await asyncio.sleep(0.1)
    await first.stop()
    assert system.committed(topics.MATCHES) == 0
    assert system.alerts() == []

    system.correlator(match_wait_s=60)
    await system.bus.publish(story.frame())

    await eventually(lambda: len(system.alerts()) == 1)
    assert system.alerts()[0].evidence_complete


async def test_without_its_event_a_match_is_raised_in_time_though_nothing_else_happens(system: System) -> None:
    story = HostStory()
    system.correlator(match_wait_s=0.2)
    await system.bus.publish(story.match(story.exec(20, 1)))

    await eventually(lambda: len(system.alerts()) == 1)

    assert not system.alerts()[0].evidence_complete
    await eventually(lambda: system.committed(topics.MATCHES) == 1)


async def test_while_the_bus_is_away_nothing_is_lost(system: System) -> None:
    story = HostStory()
    service, _ = system.correlator()
    bad = story.exec(20, 1)
    await system.bus.publish(story.frame())
    await system.bus.publish(story.match(bad))
    system.broker.away = True
    await eventually(lambda: not service.health().ok)
    system.broker.away = False

    await eventually(lambda: len(system.alerts()) == 1)
    await eventually(lambda: service.health().ok)


async def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(system: System) -> None:
    story = HostStory()
    system.correlator()
    bad = story.exec(20, 1)
    frame, match = story.frame(), story.match(bad)
    broken = type(frame)(frame.topic, frame.key, b"\xff\xff", frame.headers)
    for record in (broken, frame, match):
        await system.bus.publish(record)

    await eventually(lambda: len(system.alerts()) == 1)

    assert len(system.broker._logs[TopicPartition(topics.dead_letters(topics.EVENTS), 0)]) == 1


async def test_when_a_second_member_comes_each_host_is_still_told_once(system: System) -> None:
    stories = [HostStory(f"host-{number}") for number in range(12)]
    system.correlator("one")
    bad = {}
    for story in stories:
        bad[story.host_id] = story.exec(20, 1)
        await system.bus.publish(story.frame())
    await eventually(lambda: system.committed(topics.EVENTS) == len(stories))
    system.correlator("two")
    for story in stories:
        await system.bus.publish(story.match(bad[story.host_id]))

    await eventually(lambda: system.committed(topics.MATCHES) == len(stories))

    alerts = system.alerts()
    assert sorted(alert.host_id for alert in alerts) == sorted(story.host_id for story in stories)
    assert all(alert.evidence_complete for alert in alerts), "the new owner rebuilt its windows"
