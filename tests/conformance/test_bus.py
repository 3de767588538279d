"""What comes out of the bus is what went in: content, order, place and time, on every backend."""

import asyncio
import time

from microedr_chassis.bus.api import ConsumedRecord, Record, TopicPartition
from microedr_chassis.bus.partition import partition_of
from support.buses import (
    KEYS,
    PARTITIONS,
    Backend,
    by_key,
    fetch,
    fetch_until,
    numbers,
    publish,
    records,
)


async def test_a_record_comes_back_as_it_was_published(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    record = Record(backend.topic(), b"host-1", bytes(range(256)), {"tenant_id": b"acme", "empty": b""})
    before_ms = time.time_ns() // 1_000_000
    source, offset = await bus.publish(record)
    subscription = await bus.subscribe([record.topic], group=backend.group(), member="a")
    (back,) = await fetch(subscription, 1)

    assert (back.topic, back.key, back.value, dict(back.headers)) == (
        record.topic,
        record.key,
        record.value,
        dict(record.headers),
    )
    assert (back.source, back.offset) == (source, offset)
    assert before_ms <= back.timestamp_unix_ms <= time.time_ns() // 1_000_000


async def test_records_of_a_key_are_consumed_in_the_order_they_were_published(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 600))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    fetched = await fetch(subscription, 600)

    assert by_key(fetched) == {key: list(range(at, 600, len(KEYS))) for at, key in enumerate(KEYS)}


async def test_every_key_goes_to_the_partition_that_all_backends_agree_on(backend: Backend) -> None:
    bus = await backend.bus_with_topics(partitions=7)
    keys = [f"4c1f-{number}-host".encode() for number in range(50)]
    places = await asyncio.gather(*[bus.submit(Record(backend.topic(), key, b"")) for key in keys])

    assert [source.partition for source, _ in places] == [partition_of(key, 7) for key in keys]


async def test_a_partition_nobody_committed_is_read_from_its_beginning(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 10))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")

    assert sorted(numbers(await fetch(subscription, 10))) == list(range(10))
    assert await subscription.committed(TopicPartition(backend.topic(), 0)) is None


async def test_paused_partitions_give_nothing_and_lose_nothing(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 60))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    before: list[ConsumedRecord] = []
    while not before:
        before += await subscription.fetch(max_records=5, timeout_s=1.0)
    held = TopicPartition(backend.topic(), partition_of(KEYS[0], PARTITIONS))
    await subscription.pause([held])
    others = sum(partition_of(KEYS[n % len(KEYS)], PARTITIONS) != held.partition for n in range(60))
    already = sum(record.source != held for record in before)
    during = await fetch_until([subscription], lambda fetched: len(fetched) >= others - already)
    during += await subscription.fetch(max_records=64, timeout_s=0.3)
    await subscription.resume([held])
    after = await fetch(subscription, 60 - len(before) - len(during))

    assert all(record.source != held for record in during)
    assert all(record.source == held for record in after)
    assert by_key(before + during + after) == {key: list(range(at, 60, len(KEYS))) for at, key in enumerate(KEYS)}


async def test_a_member_can_seek_within_what_the_log_holds(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 20, keys=[b"host-1"]))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await fetch(subscription, 20)
    source = TopicPartition(backend.topic(), partition_of(b"host-1", PARTITIONS))
    await subscription.seek(source, 15)
    tail = await fetch(subscription, 5)
    await subscription.seek(source, -7)
    everything = await fetch(subscription, 20)
    await subscription.seek(source, 1000)
    await bus.publish(Record(backend.topic(), b"host-1", b"20"))
    newest = await fetch(subscription, 1)

    assert numbers(tail) == [15, 16, 17, 18, 19]
    assert numbers(everything) == list(range(20))
    assert numbers(newest) == [20]


async def test_offsets_are_found_by_time(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    topic = backend.topic()
    await publish(bus, records(topic, 5, keys=[b"host-1"]))
    await asyncio.sleep(0.05)
    between_ms = time.time_ns() // 1_000_000
    await asyncio.sleep(0.05)
    await publish(bus, records(topic, 5, keys=[b"host-1"], start=5))
    subscription = await bus.subscribe([topic], group=backend.group(), member="a")
    await fetch(subscription, 10)
    source = TopicPartition(topic, partition_of(b"host-1", PARTITIONS))

    assert await subscription.offset_at(source, 0) == 0
    assert await subscription.offset_at(source, between_ms) == 5
    assert await subscription.offset_at(source, between_ms + 3_600_000) == 10
    assert await subscription.end_offset(source) == 10


async def test_a_tail_reads_every_partition_from_a_time_on(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 20))
    await asyncio.sleep(0.05)
    since_ms = time.time_ns() // 1_000_000
    await asyncio.sleep(0.05)
    await publish(bus, records(backend.topic(), 20, start=20))
    tails = [await bus.tail([backend.topic()], since_unix_ms=since_ms) for _ in range(2)]
    fetched = [await fetch(tail, 20) for tail in tails]
    await publish(bus, records(backend.topic(), 5, start=40))
    fetched = [batch + await fetch(tail, 5) for batch, tail in zip(fetched, tails, strict=True)]

    assert [sorted(numbers(batch)) for batch in fetched] == [list(range(20, 45))] * 2
    for tail in tails:
        assert set((await tail.lag()).values()) == {0}


async def test_a_fetch_without_records_ends_in_time(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await fetch_until([subscription], lambda _: bool(subscription.assignment()))
    began_s = time.monotonic()
    fetched = await subscription.fetch(max_records=1, timeout_s=0.3)

    assert not fetched
    assert 0.25 < time.monotonic() - began_s < 2.0
