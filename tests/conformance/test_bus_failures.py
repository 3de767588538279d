"""What fails fails alone and loses nothing: kills, cancels, poison and full queues, on every backend."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest

from microedr_chassis import dead_letters
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record, Subscription, TopicPartition, TopicSpec
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.bus.record import DEAD_LETTER_EXTRA_BYTES, MAX_RECORD_BYTES
from microedr_chassis.dead_letters import DeadLetterLimits
from microedr_chassis.errors import BusFullError, BusRecordError, BusTopicError, DeadLetterError
from microedr_chassis.lifecycle import Progress
from microedr_chassis.metrics import MetricRegistry
from microedr_chassis.runner import Runner
from support.buses import (
    KAFKA,
    KEYS,
    PARTITIONS,
    PATIENCE_S,
    Backend,
    backends,
    by_key,
    fetch,
    fetch_until,
    kill,
    lines,
    numbers,
    publish,
    records,
)


async def test_what_a_killed_member_did_not_commit_is_delivered_again(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 30))
    if isinstance(bus, MemoryBus):
        victim_bus = await backend.bus()
        victim = await victim_bus.subscribe([backend.topic()], group=backend.group(), member="victim")
        seen = numbers(await fetch(victim, 30))
        assert isinstance(victim_bus, MemoryBus)
        victim_bus.crash()
    else:
        child = await backend.child("consume", backend.topic(), backend.group(), "victim")
        seen = [int(line) for line in await lines(child, 30)]
        await kill(child)
    heir = await bus.subscribe([backend.topic()], group=backend.group(), member="heir")
    again = await fetch(heir, 30)

    assert sorted(seen) == list(range(30))
    assert sorted(numbers(again)) == list(range(30))


# A killed process takes the memory bus with it.
@pytest.mark.parametrize("backend", backends("sqlite", *KAFKA), indirect=True)
async def test_a_killed_member_that_comes_back_under_its_name_goes_on_at_once(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 30))
    child = await backend.child("consume", backend.topic(), backend.group(), "victim")
    await lines(child, 30)
    await kill(child)
    again = await bus.subscribe([backend.topic()], group=backend.group(), member="victim")

    assert sorted(numbers(await fetch(again, 30))) == list(range(30))


async def test_a_full_queue_is_said_and_empties(backend: Backend) -> None:
    bus = await backend.bus_with_topics(queue_records=50)
    *fitting, last = records(backend.topic(), 51)
    waiting = [bus.submit(record) for record in fitting]
    with pytest.raises(BusFullError):
        bus.submit(last)
    full = bus.statistics()
    await asyncio.gather(*waiting)
    await bus.publish(Record(backend.topic(), b"host-1", b"51"))
    empty = bus.statistics()

    assert (len(waiting), full.in_flight, full.refused_total) == (50, 50, 1)
    assert (empty.in_flight, empty.in_flight_bytes, empty.published_total, empty.submitted_total) == (0, 0, 51, 51)


async def test_a_record_that_can_never_be_published_is_refused_alone(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    with pytest.raises(BusRecordError, match="bytes"):
        await bus.publish(Record(backend.topic(), b"host-1", b"x" * (MAX_RECORD_BYTES + DEAD_LETTER_EXTRA_BYTES)))
    with pytest.raises(BusRecordError, match="key"):
        await bus.publish(Record(backend.topic(), b"", b""))
    with pytest.raises(BusRecordError, match="does not exist"):
        await bus.publish(Record(backend.topic("nowhere"), b"host-1", b""))

    await bus.publish(Record(backend.topic(), b"host-1", b"x" * (MAX_RECORD_BYTES - 6)))


async def test_topics_are_made_once_and_never_with_another_partition_count(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await bus.ensure_topics([TopicSpec(backend.topic(), PARTITIONS, retention_s=3600)])
    with pytest.raises(BusTopicError, match=f"has {PARTITIONS} partitions, not 9"):
        await bus.ensure_topics([TopicSpec(backend.topic(), 9, retention_s=3600)])
    with pytest.raises(BusTopicError, match="does not exist"):
        await bus.subscribe([backend.topic("nowhere")], group=backend.group(), member="a")
    with pytest.raises(BusTopicError, match="does not exist"):
        await bus.tail([backend.topic("nowhere")], since_unix_ms=0)


async def test_a_cancelled_fetch_loses_nothing(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 200))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    fetched: list[ConsumedRecord] = []
    deadline_s = time.monotonic() + PATIENCE_S
    delay_s = 0.0001
    while len(fetched) < 200:
        assert time.monotonic() < deadline_s
        delay_s = delay_s * 1.5 if delay_s < 0.3 else 0.0001
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                fetched += await subscription.fetch(max_records=7, timeout_s=1.0)

    assert by_key(fetched) == {key: list(range(at, 200, len(KEYS))) for at, key in enumerate(KEYS)}


async def test_closing_ends_a_fetch_under_way(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await fetch_until([subscription], lambda _: bool(subscription.assignment()))
    fetching = asyncio.create_task(subscription.fetch(max_records=1, timeout_s=60.0))
    await asyncio.sleep(0.05)
    await subscription.close()
    await subscription.close()
    async with asyncio.timeout(PATIENCE_S):
        assert not await fetching


class Picky:
    """Can not consume every third record."""

    def __init__(self) -> None:
        self.consumed: list[int] = []
        self.is_done = asyncio.Event()

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Nothing to rebuild."""

    async def revoked(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Nothing to drop."""

    async def consume(self, record: ConsumedRecord) -> None:
        """As the class says."""
        number = int(record.value)
        if number % 3 == 0:
            raise DeadLetterError("third", f"{number} can be divided by three")
        self.consumed.append(number)
        if len(self.consumed) == 20:
            self.is_done.set()

    async def flush(self) -> None:
        """There are no effects."""


async def test_poison_records_go_to_the_dead_letter_topic_with_reason_and_origin(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    dead_letter_topic = topics.dead_letters(backend.topic())
    await bus.ensure_topics([TopicSpec(dead_letter_topic, 1, retention_s=3600)])
    places = await asyncio.gather(*[bus.submit(record) for record in records(backend.topic(), 30)])
    consumer = Picky()
    runner = Runner(
        bus,
        [backend.topic()],
        group=backend.group(),
        member="a",
        consumer=consumer,
        progress=Progress(),
        metrics=MetricRegistry().for_service("test"),
        fetch_timeout_s=0.1,
        limits=DeadLetterLimits(max_ratio=1.0),
    )
    running = asyncio.create_task(runner.run())
    tail = await bus.tail([dead_letter_topic], since_unix_ms=0)
    letters = await fetch(tail, 10)
    async with asyncio.timeout(PATIENCE_S):
        await consumer.is_done.wait()
    await runner.stop()
    await running

    assert sorted(consumer.consumed) == [number for number in range(30) if number % 3]
    assert sorted(numbers(letters)) == list(range(0, 30, 3))
    for letter in letters:
        source, offset = places[int(letter.value)]
        assert letter.headers["n"] == letter.value
        assert letter.headers[dead_letters.REASON] == b"third"
        assert letter.headers[dead_letters.DETAIL] == letter.value + b" can be divided by three"
        assert letter.headers[dead_letters.TOPIC] == source.topic.encode()
        assert letter.headers[dead_letters.PARTITION] == b"%d" % source.partition
        assert letter.headers[dead_letters.OFFSET] == b"%d" % offset


@pytest.mark.parametrize("backend", backends("sqlite", *KAFKA), indirect=True)
async def test_what_was_published_outlives_the_death_of_its_publisher(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    child = await backend.child("publish", backend.topic())
    durable = {int(line) for line in await lines(child, 300)}
    await kill(child)
    tail = await bus.tail([backend.topic()], since_unix_ms=0)
    found = numbers(await fetch_until([tail], lambda fetched: durable <= set(numbers(fetched))))

    assert found == list(range(len(found))), "in order and without a gap, also beyond what was confirmed"
