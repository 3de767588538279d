"""Groups share partitions, one owner each, and go on where they committed, on every backend."""

import time
from collections.abc import Sequence
from contextlib import suppress

import pytest

from microedr_chassis.bus.api import ConsumedRecord, Subscription, TopicPartition
from microedr_chassis.errors import BusFencedError
from support.buses import (
    KEYS,
    PARTITIONS,
    Backend,
    Listener,
    backends,
    by_key,
    fetch,
    fetch_until,
    numbers,
    positions,
    publish,
    records,
)


async def test_a_group_goes_on_after_what_it_committed(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 40))
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    done = (await fetch(first, 40))[:25]
    await first.commit(positions(done))
    await first.close()
    second = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    rest = await fetch(second, 40 - len(done))

    committed = positions(done)
    assert all(record.offset >= committed.get(record.source, 0) for record in rest)
    assert sorted(set(numbers(done)) | set(numbers(rest))) == list(range(40))
    assert {source: await second.committed(source) for source in committed} == committed


async def test_two_groups_each_get_everything(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 20))
    for group in (backend.group("g"), backend.group("h")):
        subscription = await bus.subscribe([backend.topic()], group=group, member="a")

        assert sorted(numbers(await fetch(subscription, 20))) == list(range(20))


async def test_members_that_join_and_leave_share_the_partitions_and_miss_nothing(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    await publish(bus, records(backend.topic(), 50))
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    alone = await fetch_until([first], lambda fetched: len(fetched) >= 50, commit=True)

    second_bus = await backend.bus()
    second = await second_bus.subscribe([backend.topic()], group=backend.group(), member="b")
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


async def test_what_was_fetched_and_not_committed_comes_again_after_leaving(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 10))
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await fetch(first, 10)
    await first.close()
    second = await bus.subscribe([backend.topic()], group=backend.group(), member="b")

    assert sorted(numbers(await fetch(second, 10))) == list(range(10))


async def test_a_listener_can_seek_before_the_first_record_is_fetched(backend: Backend) -> None:
    class Rewinder(Listener):
        async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
            await super().assigned(subscription, partitions)
            for source in partitions:
                assert await subscription.committed(source) in (None, await subscription.end_offset(source))
                await subscription.seek(source, await subscription.offset_at(source, 0))

    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 20))
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await first.commit(positions(await fetch(first, 20)))
    await first.close()
    listener = Rewinder()
    second = await bus.subscribe([backend.topic()], group=backend.group(), member="a", listener=listener)
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
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a", listener=listener)
    listener.consumed = await fetch(first, 40)
    second = await (await backend.bus()).subscribe([backend.topic()], group=backend.group(), member="b")
    after = await fetch_until([first, second], lambda _: _is_shared([first, second], every))
    after += await second.fetch(max_records=64, timeout_s=0.5)

    assert "revoked" in [what for what, _ in listener.told]
    assert after == []


async def test_a_commit_for_partitions_that_went_to_another_is_left_out(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    await publish(bus, records(backend.topic(), 40))
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    consumed = await fetch(first, 40)
    second = await (await backend.bus()).subscribe([backend.topic()], group=backend.group(), member="b")
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
    first = await bus.subscribe(topics, group=backend.group(), member="a", co_partitioned=True)
    second = await (await backend.bus()).subscribe(topics, group=backend.group(), member="b", co_partitioned=True)
    members = [first, second]
    await fetch_until(members, lambda _: _is_shared(members, every))

    for member in members:
        held = [{s.partition for s in member.assignment() if s.topic == topic} for topic in topics]
        assert held[0] == held[1]
        assert len(held[0]) == PARTITIONS // 2


async def test_lag_counts_what_is_not_committed(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 30))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    fetched = await fetch(subscription, 30)
    before = await subscription.lag()
    await subscription.commit(positions(fetched))
    after = await subscription.lag()

    assert sum(before.values()) == 30
    assert sum(after.values()) == 0
    assert after.keys() == before.keys() == subscription.assignment()


# aiokafka's heartbeats carry no instance id: the broker can not tell the first of them that it was replaced.
@pytest.mark.parametrize("backend", backends("memory", "sqlite", "kafka"), indirect=True)
async def test_a_second_member_of_the_same_name_takes_the_place_of_the_first(backend: Backend) -> None:
    bus = await backend.bus_with_topics()
    every = {TopicPartition(backend.topic(), number) for number in range(PARTITIONS)}
    first = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await fetch_until([first], lambda _: first.assignment() == every)
    second = await (await backend.bus()).subscribe([backend.topic()], group=backend.group(), member="a")
    await fetch_until([second], lambda _: second.assignment() == every)

    with suppress(BusFencedError):
        await first.commit(dict.fromkeys(every, 0))
    with pytest.raises(BusFencedError):
        await fetch_until([first], lambda _: False)
    assert {await second.committed(source) for source in every} == {None}
