"""A consumer on the runner loses nothing, repeats only what it must, and a bad record stops nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from microedr_chassis import catalogue, dead_letters
from microedr_chassis.bus.api import ConsumedRecord, Record, Subscription, TopicPartition, TopicSpec
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus
from microedr_chassis.bus.topics import EVENTS
from microedr_chassis.bus.topics import dead_letters as dead_letter_topic
from microedr_chassis.dead_letters import DeadLetterLimits
from microedr_chassis.errors import (
    BusRecordError,
    BusUnavailableError,
    DeadLetterError,
    DeadLetterLimitError,
    RetryLaterError,
)
from microedr_chassis.lifecycle import Progress
from microedr_chassis.metrics import MetricRegistry, Metrics
from microedr_chassis.runner import Runner

_PARTITIONS = 4


class _Recorder:
    """A consumer that writes down what happens to it; ``consume_as`` and ``flush_as`` make it fail."""

    def __init__(self) -> None:
        self.consumed: list[bytes] = []
        self.flushed = 0
        self.owned: set[TopicPartition] = set()
        self.consume_as: Callable[[ConsumedRecord], None] = lambda _record: None
        self.flush_as: Callable[[], None] = lambda: None
        self.news = asyncio.Event()

    async def assigned(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        self.owned |= set(partitions)
        self.news.set()

    async def revoked(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        self.owned -= set(partitions)

    async def consume(self, record: ConsumedRecord) -> None:
        self.news.set()
        self.consume_as(record)
        self.consumed.append(record.value)

    async def flush(self) -> None:
        self.flush_as()
        self.flushed += 1
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self.news.wait()
                except TimeoutError:
                    continue


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus(MemoryBroker())
    await bus.start()
    await bus.ensure_topics([TopicSpec(EVENTS, _PARTITIONS, 3600), TopicSpec(dead_letter_topic(EVENTS), 1, 3600)])
    yield bus
    await bus.close()


@pytest.fixture
def metrics() -> Metrics:
    return MetricRegistry().for_service("test")


class _Running:
    """A runner, and what can be asked about it."""

    def __init__(self, runner: Runner, progress: Progress, task: "asyncio.Task[None]") -> None:
        self.runner = runner
        self.progress = progress
        self.task = task


@asynccontextmanager
async def running(
    bus: MemoryBus, consumer: _Recorder, metrics: Metrics, *, member: str = "m", limits: DeadLetterLimits | None = None
) -> AsyncIterator[_Running]:
    progress = Progress()
    runner = Runner(
        bus,
        [EVENTS],
        group="g",
        member=member,
        consumer=consumer,
        progress=progress,
        metrics=metrics,
        fetch_timeout_s=0.05,
        limits=limits,
    )
    task = asyncio.create_task(runner.run())
    try:
        yield _Running(runner, progress, task)
    finally:
        await runner.stop()
        await asyncio.wait((task,))


async def publish(bus: MemoryBus, *values: bytes, key: bytes = b"host-a") -> None:
    for value in values:
        await bus.publish(Record(EVENTS, key, value, {"trace_id": b"t"}))


async def letters(bus: MemoryBus, count: int) -> list[ConsumedRecord]:
    tail = await bus.tail([dead_letter_topic(EVENTS)], since_unix_ms=0)
    found: list[ConsumedRecord] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += await tail.fetch(max_records=100, timeout_s=0.1)
    await tail.close()
    return found


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


async def test_records_are_consumed_in_order_then_flushed_and_committed(bus: MemoryBus, metrics: Metrics) -> None:
    consumer = _Recorder()
    await publish(bus, *numbers(200))
    async with running(bus, consumer, metrics):
        await consumer.until(lambda: len(consumer.consumed) == 200)

    again = _Recorder()
    async with running(bus, again, metrics):
        await publish(bus, b"last")
        await again.until(lambda: bool(again.consumed))

    assert consumer.consumed == numbers(200)
    assert consumer.flushed >= 1
    assert again.consumed == [b"last"]
    assert metrics.value(catalogue.RECORDS_CONSUMED, topic=EVENTS) == 201


async def test_what_was_not_flushed_is_delivered_again_after_a_crash(bus: MemoryBus, metrics: Metrics) -> None:
    consumer, crash = _Recorder(), asyncio.Event()

    def fail() -> None:
        crash.set()
        raise RetryLaterError("the store is away")

    consumer.flush_as = fail
    dying = MemoryBus(bus.broker)
    async with running(dying, consumer, metrics) as run:
        await publish(bus, *numbers(3))
        await asyncio.wait_for(crash.wait(), 5)
        run.task.cancel()
        await asyncio.wait((run.task,))
    dying.crash()

    again = _Recorder()
    async with running(bus, again, metrics):
        await again.until(lambda: len(again.consumed) == 3)

    assert again.consumed == numbers(3)


async def test_a_record_that_can_never_be_consumed_is_kept_with_reason_and_origin(
    bus: MemoryBus, metrics: Metrics
) -> None:
    consumer = _Recorder()

    def refuse_one(record: ConsumedRecord) -> None:
        if record.value == b"1":
            raise DeadLetterError("undecodable", "byte 7 is ünknown")

    consumer.consume_as = refuse_one
    async with running(bus, consumer, metrics):
        await publish(bus, *numbers(3))
        await consumer.until(lambda: consumer.consumed == [b"0", b"2"])
        (letter,) = await letters(bus, 1)

    assert (letter.key, letter.value) == (b"host-a", b"1")
    assert letter.headers["trace_id"] == b"t"
    assert letter.headers[dead_letters.REASON] == b"undecodable"
    assert letter.headers[dead_letters.DETAIL] == b"byte 7 is \\xfcnknown"
    assert letter.headers[dead_letters.TOPIC] == EVENTS.encode()
    assert letter.headers[dead_letters.OFFSET] == b"1"
    assert metrics.value(catalogue.RECORDS_DEAD_LETTERED, topic=EVENTS, reason="undecodable") == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(ZeroDivisionError("of ours"), b"unexpected", id="our own mistake"),
        pytest.param(BusRecordError("too large"), b"unpublishable", id="its effect cannot be published"),
    ],
)
async def test_a_record_that_makes_the_consumer_fail_stops_nobody(
    bus: MemoryBus, metrics: Metrics, error: Exception, reason: bytes
) -> None:
    consumer = _Recorder()

    def fail_once(record: ConsumedRecord) -> None:
        if record.value == b"0":
            raise error

    consumer.consume_as = fail_once
    async with running(bus, consumer, metrics):
        await publish(bus, *numbers(2))
        await consumer.until(lambda: consumer.consumed == [b"1"])
        (letter,) = await letters(bus, 1)

    assert letter.headers[dead_letters.REASON] == reason


@pytest.mark.parametrize("error", [RetryLaterError("store"), BusUnavailableError("bus")])
async def test_while_what_it_needs_is_away_the_same_record_comes_again_in_order(
    bus: MemoryBus, metrics: Metrics, error: Exception
) -> None:
    consumer, attempts = _Recorder(), [0]

    def be_away_twice(record: ConsumedRecord) -> None:
        if record.value == b"5" and attempts[0] < 2:
            attempts[0] += 1
            raise error

    consumer.consume_as = be_away_twice
    async with running(bus, consumer, metrics) as run:
        await publish(bus, *numbers(10))
        await consumer.until(lambda: attempts[0] == 1)
        await asyncio.sleep(0)
        degraded = run.progress.health()
        await consumer.until(lambda: len(consumer.consumed) == 10)
        await publish(bus, b"after")
        await consumer.until(lambda: len(consumer.consumed) == 11)

        assert run.progress.health().ok

    assert consumer.consumed == [*numbers(10), b"after"]
    assert (degraded.ok, degraded.alive) == (False, True)
    assert metrics.value(catalogue.RECORDS_RETRIED, topic=EVENTS) == 2


async def test_a_flush_that_fails_is_tried_again_before_anything_is_committed(bus: MemoryBus, metrics: Metrics) -> None:
    consumer, failures = _Recorder(), [2]

    def fail_twice() -> None:
        if failures[0]:
            failures[0] -= 1
            raise RetryLaterError("the store is away")

    consumer.flush_as = fail_twice
    async with running(bus, consumer, metrics):
        await publish(bus, *numbers(3))
        await consumer.until(lambda: consumer.flushed >= 1 and len(consumer.consumed) == 3)

    assert consumer.consumed == numbers(3)


async def test_the_bus_may_go_away_and_come_back(bus: MemoryBus, metrics: Metrics) -> None:
    consumer = _Recorder()
    async with running(bus, consumer, metrics) as run:
        await publish(bus, b"before")
        await consumer.until(lambda: len(consumer.consumed) == 1)
        bus.broker.away = True
        await consumer.until(lambda: not run.progress.health().ok)
        bus.broker.away = False
        await asyncio.sleep(0.15)  # the memory bus refuses submits for a moment after a failure
        await publish(bus, b"after")
        await consumer.until(lambda: len(consumer.consumed) == 2)

    assert consumer.consumed == [b"before", b"after"]


async def test_too_many_dead_letters_in_a_row_stop_the_consumer(bus: MemoryBus, metrics: Metrics) -> None:
    consumer = _Recorder()

    def refuse(_record: ConsumedRecord) -> None:
        raise DeadLetterError("undecodable", "all of them")

    consumer.consume_as = refuse
    async with running(bus, consumer, metrics, limits=DeadLetterLimits(max_consecutive=3)) as run:
        await publish(bus, *numbers(10))
        await asyncio.wait((run.task,), timeout=5)

    assert isinstance(run.task.exception(), DeadLetterLimitError)
    assert metrics.value(catalogue.RECORDS_DEAD_LETTERED, topic=EVENTS, reason="undecodable") == 4


async def test_too_large_a_share_of_dead_letters_stops_the_consumer(bus: MemoryBus, metrics: Metrics) -> None:
    consumer = _Recorder()

    def refuse_every_third(record: ConsumedRecord) -> None:
        if int(record.value) % 3 == 0:
            raise DeadLetterError("undecodable", "many of them")

    consumer.consume_as = refuse_every_third
    async with running(bus, consumer, metrics, limits=DeadLetterLimits(window=30, max_ratio=0.2)) as run:
        await publish(bus, *numbers(100))
        await asyncio.wait((run.task,), timeout=5)

    assert isinstance(run.task.exception(), DeadLetterLimitError)


async def test_two_members_share_the_partitions_and_one_takes_over_when_the_other_leaves(
    bus: MemoryBus, metrics: Metrics
) -> None:
    one, two = _Recorder(), _Recorder()
    async with running(bus, one, metrics, member="one"):
        await one.until(lambda: len(one.owned) == _PARTITIONS)
        async with running(MemoryBus(bus.broker), two, metrics, member="two"):
            await two.until(lambda: len(two.owned) == _PARTITIONS // 2)
            for host in range(20):
                await publish(bus, b"shared", key=b"host-%d" % host)
            await one.until(lambda: len(one.consumed) + len(two.consumed) == 20)
        await one.until(lambda: len(one.owned) == _PARTITIONS)
        for host in range(20):
            await publish(bus, b"alone", key=b"host-%d" % host)
        await one.until(lambda: one.consumed.count(b"alone") == 20)

    assert two.consumed
    assert one.consumed.count(b"shared") + two.consumed.count(b"shared") == 20


async def test_work_on_a_partition_that_leaves_is_dropped_and_done_by_its_next_owner(
    bus: MemoryBus, metrics: Metrics
) -> None:
    stuck, healthy = _Recorder(), _Recorder()

    def be_away(_record: ConsumedRecord) -> None:
        raise RetryLaterError("for ever")

    stuck.consume_as = be_away
    async with running(bus, stuck, metrics, member="stuck"):
        for host in range(40):
            await publish(bus, b"h%d" % host, key=b"host-%d" % host)
        await stuck.until(lambda: metrics.value(catalogue.RECORDS_RETRIED, topic=EVENTS) > 0)
        async with running(MemoryBus(bus.broker), healthy, metrics, member="healthy"):
            await healthy.until(lambda: len(healthy.owned) == _PARTITIONS // 2 and len(healthy.consumed) > 10)

            assert stuck.consumed == []
            stuck.consume_as = lambda _record: None
            await stuck.until(lambda: len(stuck.consumed) + len(healthy.consumed) >= 40)

    assert sorted(stuck.consumed + healthy.consumed) == sorted(b"h%d" % n for n in range(40))
