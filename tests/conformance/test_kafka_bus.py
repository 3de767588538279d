"""What only Kafka can do to us: other clients' partitioners, brokers that go away, logs cut short."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]  # aiokafka has no types
from confluent_kafka import Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from microedr_chassis.bus.api import Record, Subscription, TopicSpec
from microedr_chassis.bus.kafka import KafkaBus
from microedr_chassis.bus.partition import partition_of
from microedr_chassis.errors import BusRetentionError, BusUnavailableError
from support.buses import PATIENCE_S, Backend, backends, fetch, numbers, positions, publish, records
from support.kafka import Broker

pytestmark = pytest.mark.kafka

KEYS = [str(uuid.uuid5(uuid.NAMESPACE_DNS, f"host-{number}")).encode() for number in range(60)]


@pytest.fixture
async def kafka(tmp_path: Path, kafka_servers: str) -> AsyncIterator[Backend]:
    made = Backend("kafka", tmp_path, kafka_servers)
    yield made
    await made.close()


async def test_both_client_libraries_and_we_put_a_host_on_the_same_partition(
    kafka: Backend, kafka_servers: str
) -> None:
    bus = await kafka.bus_with_topics(partitions=12)
    ours = {key: (await bus.submit(Record(kafka.topic(), key, b"")))[0].partition for key in KEYS}
    confluent: dict[bytes | None, int | None] = {}

    def delivered(_error: object, message: Message) -> None:
        confluent[message.key()] = message.partition()

    producer = Producer({"bootstrap.servers": kafka_servers, "partitioner": "murmur2_random"})
    for key in KEYS:
        producer.produce(kafka.topic(), b"", key, on_delivery=delivered)
    producer.flush(PATIENCE_S)
    aio = AIOKafkaProducer(bootstrap_servers=kafka_servers)
    await aio.start()
    aiokafka = {key: (await aio.send_and_wait(kafka.topic(), b"", key)).partition for key in KEYS}
    await aio.stop()

    assert ours == confluent == aiokafka == {key: partition_of(key, 12) for key in KEYS}


@pytest.mark.parametrize("backend", backends("kafka", "kafka-low-rate"), indirect=True)
async def test_a_group_whose_log_was_cut_short_is_told_and_skips_nothing_silently(
    backend: Backend, kafka_servers: str
) -> None:
    bus = await backend.bus_with_topics(partitions=1)
    await publish(bus, records(backend.topic(), 20))
    subscription = await bus.subscribe([backend.topic()], group=backend.group(), member="a")
    await subscription.commit(positions((await fetch(subscription, 20))[:5]))
    await subscription.close()
    admin = AdminClient({"bootstrap.servers": kafka_servers})
    for deleted in admin.delete_records([KafkaPartition(backend.topic(), 0, 10)]).values():
        await asyncio.wrap_future(deleted)
    late = await bus.subscribe([backend.topic()], group=backend.group(), member="a")

    with pytest.raises(BusRetentionError, match="deleted unread"):
        await fetch(late, 1)


async def test_a_tail_goes_on_with_what_is_left_of_a_log_that_was_cut_short(kafka: Backend, kafka_servers: str) -> None:
    bus = await kafka.bus_with_topics(partitions=1)
    await publish(bus, records(kafka.topic(), 20))
    admin = AdminClient({"bootstrap.servers": kafka_servers})
    for deleted in admin.delete_records([KafkaPartition(kafka.topic(), 0, 10)]).values():
        await asyncio.wrap_future(deleted)
    tail = await bus.tail([kafka.topic()], since_unix_ms=0)

    assert numbers(await fetch(tail, 10)) == list(range(10, 20))


async def test_no_broker_at_the_start_is_said_in_time() -> None:
    bus = KafkaBus("127.0.0.1:9", connect_timeout_s=1.0)
    began_s = time.monotonic()
    with pytest.raises(BusUnavailableError, match=r"kafka at 127\.0\.0\.1:9"):
        await bus.start()
    took_s = time.monotonic() - began_s
    await bus.close()

    assert took_s < 5


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """One that a test may kill."""
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


async def test_a_broker_that_dies_is_said_and_used_again_when_it_is_back(own_broker: Broker) -> None:
    bus = KafkaBus(own_broker.servers, session_timeout_s=6.0, publish_timeout_s=3.0, connect_timeout_s=3.0)
    await bus.start()
    await bus.ensure_topics([TopicSpec("hot", 2, 3600), TopicSpec("low.dlq", 2, 3600)])
    subscriptions = [await bus.subscribe([topic], group=topic, member="a") for topic in ("hot", "low.dlq")]
    for topic, subscription in zip(("hot", "low.dlq"), subscriptions, strict=True):
        await publish(bus, records(topic, 10))
        assert sorted(numbers(await fetch(subscription, 10))) == list(range(10))
    tail = await bus.tail(["low.dlq"], since_unix_ms=0)
    await fetch(tail, 10)

    os.kill(own_broker.pid(), signal.SIGKILL)
    with pytest.raises(BusUnavailableError):
        await bus.publish(Record("hot", b"host-1", b"lost"))
    for subscription in subscriptions:
        with pytest.raises(BusUnavailableError):
            await patiently(subscription, 1)
    with pytest.raises(BusUnavailableError):
        await patiently(tail, 1)
    await tail.close()  # what follows tails closes them and begins anew: nothing may end it here
    await asyncio.to_thread(own_broker.start)
    await publish_patiently(bus, Record("hot", b"host-1", b"10"))
    await publish_patiently(bus, Record("low.dlq", b"host-1", b"10"))
    again = [await recovered(subscription) for subscription in subscriptions]
    again.append(await recovered(await bus.tail(["low.dlq"], since_unix_ms=0)))
    await bus.close()

    assert [10 in found for found in again] == [True, True, True], again


async def patiently(subscription: Subscription, count: int) -> list[int]:
    """Up to ``count`` records within our patience."""
    found: list[int] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline_s:
        found += numbers(await subscription.fetch(max_records=64, timeout_s=0.5))
    return found


async def publish_patiently(bus: KafkaBus, record: Record) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        with suppress(BusUnavailableError):
            await bus.publish(record)
            return
        await asyncio.sleep(0.2)
    pytest.fail("the broker is back, the bus is not")


async def recovered(subscription: Subscription) -> list[int]:
    """What comes once the broker is back: the new record, perhaps after old ones."""
    found: list[int] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while 10 not in found and time.monotonic() < deadline_s:
        with suppress(BusUnavailableError):
            found += numbers(await subscription.fetch(max_records=64, timeout_s=0.5))
    return found
