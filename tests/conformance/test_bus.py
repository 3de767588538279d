"""What ``bus.api`` promises, held against every backend: one suite, Kafka being a real broker.

``kafka`` is served by confluent-kafka, ``kafka-low-rate`` by aiokafka.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from microedr_chassis.bus.api import ConsumedRecord, Record, Subscription, TopicPartition, TopicSpec
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.bus.partition import partition_of
from microedr_chassis.bus.record import DEAD_LETTER_EXTRA_BYTES, MAX_RECORD_BYTES
from microedr_chassis.errors import BusFencedError, BusFullError, BusRecordError, BusTopicError
from support.buses import (
    KEYS,
    PARTITIONS,
    PATIENCE_S,
    Backend,
    Listener,
    by_key,
    fetch,
    fetch_until,
    kill,
    lines,
    numbers,
    positions,
    publish,
    records,
)

KAFKA = ("kafka", "kafka-low-rate")


def backends(*names: str) -> list[object]:
    """For tests that not every backend can be put to."""
    return [pytest.param(name, marks=pytest.mark.kafka) if name in KAFKA else name for name in names]


@pytest.fixture(params=backends("memory", "sqlite", *KAFKA))
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    servers = request.getfixturevalue("kafka_servers") if request.param in KAFKA else None
    made = Backend(request.param, tmp_path, servers)
    yield made
    await made.close()


async def test_a_record_comes_back_as_it_was_published(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    record = Record(backend.topic(), b"host-1", bytes(range(256)), {"tenant_id": b"acme", "empty": b""})
    before_ms = time.time_ns() // 1_000_000
    source, offset = await bus.publish(record)
    subscription = await bus.subscribe([record.topic], group="g", member="a")
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
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
    fetched = await fetch(subscription, 600)

    assert by_key(fetched) == {key: list(range(at, 600, len(KEYS))) for at, key in enumerate(KEYS)}


async def test_every_key_goes_to_the_partition_that_all_backends_agree_on(backend: Backend) -> None:
    bus = await backend.bus_with_topics(partitions=7)
    keys = [f"4c1f-{number}-host".encode() for number in range(50)]
    places = await asyncio.gather(*[bus.submit(Record(backend.topic(), key, b"")) for key in keys])

    assert [source.partition for source, _ in places] == [partition_of(key, 7) for key in keys]


async def test_a_group_goes_on_after_what_it_committed(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 40))
    first = await bus.subscribe([backend.topic()], group="g", member="a")
    done = (await fetch(first, 40))[:25]
    await first.commit(positions(done))
    await first.close()
    second = await bus.subscribe([backend.topic()], group="g", member="a")
    rest = await fetch(second, 40 - len(done))

    committed = positions(done)
    assert all(record.offset >= committed.get(record.source, 0) for record in rest)
    assert sorted(set(numbers(done)) | set(numbers(rest))) == list(range(40))
    assert {source: await second.committed(source) for source in committed} == committed


async def test_a_partition_nobody_committed_is_read_from_its_beginning(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 10))
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")

    assert sorted(numbers(await fetch(subscription, 10))) == list(range(10))
    assert await subscription.committed(TopicPartition(backend.topic(), 0)) is None


async def test_two_groups_each_get_everything(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 20))
    for group in ("g", "h"):
        subscription = await bus.subscribe([backend.topic()], group=group, member="a")

        assert sorted(numbers(await fetch(subscription, 20))) == list(range(20))


async def test_members_that_join_and_leave_share_the_partitions_and_miss_nothing(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    await publish(bus, records(backend.topic(), 50))
    first = await bus.subscribe([backend.topic()], group="g", member="a")
    alone = await fetch_until([first], lambda fetched: len(fetched) >= 50, commit=True)

    second_bus = await backend.bus()
    second = await second_bus.subscribe([backend.topic()], group="g", member="b")
    both = [first, second]
    joining = await fetch_until(both, lambda _: _is_shared(both, every), commit=True)
    await publish(bus, records(backend.topic(), 50, start=50))
    shared = await fetch_until(
        both, lambda fetched: len(set(numbers(joining + fetched)) - set(range(50))) == 50, commit=True
    )

    await first.close()
    left_at_s = time.monotonic()
    await fetch_until([second], lambda _: second.assignment() == every, commit=True)
    took_over_s = time.monotonic() - left_at_s
    await publish(bus, records(backend.topic(), 50, start=100))
    after = await fetch_until([second], lambda fetched: len(set(numbers(fetched)) - set(range(100))) == 50)

    assert set(numbers(alone + joining + shared + after)) == set(range(150))
    assert all(found == sorted(set(found)) for found in by_key(after).values())
    assert took_over_s < 10, "whoever leaves tells the others"


def _is_shared(members: Sequence[Subscription], every: set[TopicPartition]) -> bool:
    owned = [member.assignment() for member in members]
    return all(owned) and not frozenset.intersection(*owned) and frozenset().union(*owned) == every


async def test_what_a_killed_member_did_not_commit_is_delivered_again(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 30))
    if isinstance(bus, MemoryBus):
        victim_bus = await backend.bus()
        victim = await victim_bus.subscribe([backend.topic()], group="g", member="victim")
        seen = numbers(await fetch(victim, 30))
        assert isinstance(victim_bus, MemoryBus)
        victim_bus.crash()
    else:
        child = await backend.child("consume", backend.topic(), "g", "victim")
        seen = [int(line) for line in await lines(child, 30)]
        await kill(child)
    heir = await bus.subscribe([backend.topic()], group="g", member="heir")
    again = await fetch(heir, 30)

    assert sorted(seen) == list(range(30))
    assert sorted(numbers(again)) == list(range(30))


# A killed process takes the memory bus with it.
@pytest.mark.parametrize("backend", backends("sqlite", *KAFKA), indirect=True)
async def test_a_killed_member_that_comes_back_under_its_name_goes_on_at_once(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 30))
    child = await backend.child("consume", backend.topic(), "g", "victim")
    await lines(child, 30)
    await kill(child)
    again = await bus.subscribe([backend.topic()], group="g", member="victim")

    assert sorted(numbers(await fetch(again, 30))) == list(range(30))


async def test_what_was_fetched_and_not_committed_comes_again_after_leaving(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 10))
    first = await bus.subscribe([backend.topic()], group="g", member="a")
    await fetch(first, 10)
    await first.close()
    second = await bus.subscribe([backend.topic()], group="g", member="b")

    assert sorted(numbers(await fetch(second, 10))) == list(range(10))


async def test_paused_partitions_give_nothing_and_lose_nothing(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 60))
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
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
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
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
    subscription = await bus.subscribe([topic], group="g", member="a")
    await fetch(subscription, 10)
    source = TopicPartition(topic, partition_of(b"host-1", PARTITIONS))

    assert await subscription.offset_at(source, 0) == 0
    assert await subscription.offset_at(source, between_ms) == 5
    assert await subscription.offset_at(source, between_ms + 3_600_000) == 10
    assert await subscription.end_offset(source) == 10


async def test_a_listener_can_seek_before_the_first_record_is_fetched(backend: Backend) -> None:
    class Rewinder(Listener):
        async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
            await super().assigned(subscription, partitions)
            for source in partitions:
                assert await subscription.committed(source) in (None, await subscription.end_offset(source))
                await subscription.seek(source, await subscription.offset_at(source, 0))

    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 20))
    first = await bus.subscribe([backend.topic()], group="g", member="a")
    await first.commit(positions(await fetch(first, 20)))
    await first.close()
    listener = Rewinder()
    second = await bus.subscribe([backend.topic()], group="g", member="a", listener=listener)
    replayed = await fetch(second, 20)

    assert by_key(replayed) == {key: list(range(at, 20, len(KEYS))) for at, key in enumerate(KEYS)}
    assert frozenset().union(*(partitions for _, partitions in listener.told)) == second.assignment()


async def test_what_a_member_commits_while_it_is_told_to_give_up_counts(backend: Backend) -> None:
    class Committer(Listener):
        consumed: list[ConsumedRecord]

        async def revoked(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
            await super().revoked(subscription, partitions)
            await subscription.commit(positions(self.consumed))

    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    await publish(bus, records(backend.topic(), 40))
    listener = Committer()
    listener.consumed = []
    first = await bus.subscribe([backend.topic()], group="g", member="a", listener=listener)
    listener.consumed = await fetch(first, 40)
    second = await (await backend.bus()).subscribe([backend.topic()], group="g", member="b")
    after = await fetch_until([first, second], lambda _: _is_shared([first, second], every))
    after += await second.fetch(max_records=64, timeout_s=0.5)

    assert "revoked" in [what for what, _ in listener.told]
    assert after == []


async def test_a_commit_for_partitions_that_went_to_another_is_left_out(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    await publish(bus, records(backend.topic(), 40))
    first = await bus.subscribe([backend.topic()], group="g", member="a")
    consumed = await fetch(first, 40)
    second = await (await backend.bus()).subscribe([backend.topic()], group="g", member="b")
    both = [first, second]
    await fetch_until(both, lambda _: _is_shared(both, every))
    await first.commit(positions(consumed))
    theirs = {source: await second.committed(source) for source in second.assignment()}
    ours = {source: await first.committed(source) for source in first.assignment()}

    assert set(theirs.values()) == {None}
    assert ours == {source: positions(consumed).get(source) for source in first.assignment()}


async def test_co_partitioned_members_get_the_same_numbers_of_each_topic(backend: Backend) -> None:
    bus = await backend.bus_with_topics("events", "matches")
    topics = [backend.topic("events"), backend.topic("matches")]
    every = {TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)}
    first = await bus.subscribe(topics, group="g", member="a", co_partitioned=True)
    second = await (await backend.bus()).subscribe(topics, group="g", member="b", co_partitioned=True)
    members = [first, second]
    await fetch_until(members, lambda _: _is_shared(members, every))

    for member in members:
        held = [{s.partition for s in member.assignment() if s.topic == topic} for topic in topics]
        assert held[0] == held[1]
        assert len(held[0]) == PARTITIONS // 2


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


async def test_lag_counts_what_is_not_committed(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 30))
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
    fetched = await fetch(subscription, 30)
    before = await subscription.lag()
    await subscription.commit(positions(fetched))
    after = await subscription.lag()

    assert sum(before.values()) == 30
    assert sum(after.values()) == 0
    assert after.keys() == before.keys() == subscription.assignment()


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
        await bus.subscribe([backend.topic("nowhere")], group="g", member="a")
    with pytest.raises(BusTopicError, match="does not exist"):
        await bus.tail([backend.topic("nowhere")], since_unix_ms=0)


# aiokafka's heartbeats carry no instance id: the broker can not tell the first of them that it was replaced.
@pytest.mark.parametrize("backend", backends("memory", "sqlite", "kafka"), indirect=True)
async def test_a_second_member_of_the_same_name_takes_the_place_of_the_first(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    first = await bus.subscribe([backend.topic()], group="g", member="a")
    await fetch_until([first], lambda _: first.assignment() == every)
    second = await (await backend.bus()).subscribe([backend.topic()], group="g", member="a")
    await fetch_until([second], lambda _: second.assignment() == every)

    with pytest.raises(BusFencedError):
        await fetch_until([first], lambda _: False)


async def test_a_cancelled_fetch_loses_nothing(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 200))
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
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


async def test_a_fetch_without_records_ends_in_time(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
    await fetch_until([subscription], lambda _: bool(subscription.assignment()))
    began_s = time.monotonic()
    fetched = await subscription.fetch(max_records=1, timeout_s=0.3)

    assert not fetched
    assert 0.25 < time.monotonic() - began_s < 2.0


async def test_closing_ends_a_fetch_under_way(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    subscription = await bus.subscribe([backend.topic()], group="g", member="a")
    await fetch_until([subscription], lambda _: bool(subscription.assignment()))
    fetching = asyncio.create_task(subscription.fetch(max_records=1, timeout_s=60.0))
    await asyncio.sleep(0.05)
    await subscription.close()
    await subscription.close()
    async with asyncio.timeout(PATIENCE_S):
        assert not await fetching
