"""The backends the bus conformance suite runs against, and short words for what its tests do."""

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from microedr_chassis.bus.api import Bus, ConsumedRecord, Record, Subscription, TopicPartition, TopicSpec
from microedr_chassis.bus.kafka import KafkaBus
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus
from microedr_chassis.bus.sqlite import SqliteBus

KAFKA = ("kafka", "kafka-low-rate")

PARTITIONS = 4
SESSION_TIMEOUT_S = 3.0
"""Of Kafka members in tests: a killed one's partitions go to others after this."""

PATIENCE_S = 30.0
"""What a test waits for happens within this, or it fails."""

TESTS = Path(__file__).resolve().parents[1]

KEYS = [f"host-{number}".encode() for number in range(12)]


def backends(*names: str) -> list[object]:
    """Parameters for tests, marked as they must be."""
    return [pytest.param(name, marks=pytest.mark.kafka) if name in KAFKA else name for name in names]


class Backend:
    """Buses over one store, topics nobody else uses, and processes that can be killed."""

    def __init__(self, name: str, directory: Path, kafka_servers: str | None) -> None:
        self.name = name
        self.is_kafka = kafka_servers is not None
        self._servers = kafka_servers or ""
        self._path = directory / "bus.db"
        self._broker = MemoryBroker()
        self._buses: list[Bus] = []
        self._prefix = f"t{uuid.uuid4().hex[:8]}"

    @property
    def url(self) -> str:
        """For other processes."""
        if self.is_kafka:
            return f"kafka://{self._servers}?session_timeout_s={SESSION_TIMEOUT_S}"
        return f"sqlite:{self._path}"

    def topic(self, name: str = "events") -> str:
        """A topic name of this test; Kafka serves dead-letter topics through aiokafka."""
        return f"{self._prefix}.{name}" + (".dlq" if self.name == "kafka-low-rate" else "")

    def group(self, name: str = "g") -> str:
        """A group name of this test: all tests share one broker."""
        return f"{self._prefix}.{name}"

    async def bus(self, *, queue_records: int = 10_000) -> Bus:
        """One more connection, started; closed by ``close``."""
        bus: Bus
        if self.is_kafka:
            bus = KafkaBus(self._servers, session_timeout_s=SESSION_TIMEOUT_S, queue_records=queue_records)
        elif self.name == "memory":
            bus = MemoryBus(self._broker, queue_records=queue_records)
        else:
            bus = SqliteBus(self._path, queue_records=queue_records)
        self._buses.append(bus)
        await bus.start()
        return bus

    async def bus_with_topics(self, *names: str, partitions: int = PARTITIONS, queue_records: int = 10_000) -> Bus:
        """A connection, and topics of these names."""
        bus = await self.bus(queue_records=queue_records)
        await bus.ensure_topics(
            [TopicSpec(self.topic(name), partitions, retention_s=3600) for name in names or ("events",)]
        )
        return bus

    async def close(self) -> None:
        """Close every connection."""
        for bus in reversed(self._buses):
            await bus.close()

    async def child(self, *arguments: str) -> asyncio.subprocess.Process:
        """Another process at this store; ``support.bus_child`` says what it can do."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "support.bus_child", self.url, *arguments),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )


async def kill(process: asyncio.subprocess.Process) -> None:
    """End it as a power cut would, without a word."""
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """Its next lines of output."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        return [(await process.stdout.readline()).decode().strip() for _ in range(count)]


class Listener:
    """Writes down what it is told."""

    # ruff: noqa: ARG002 - the arguments are those of RebalanceListener

    def __init__(self) -> None:
        self.told: list[tuple[str, frozenset[TopicPartition]]] = []

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Write it down."""
        self.told.append(("assigned", frozenset(partitions)))

    async def revoked(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Write it down."""
        self.told.append(("revoked", frozenset(partitions)))


def records(topic: str, count: int, keys: Sequence[bytes] = KEYS, start: int = 0) -> list[Record]:
    """``count`` of them, numbered in their values, keys in turn."""
    return [
        Record(topic, keys[number % len(keys)], str(number).encode(), {"n": str(number).encode()})
        for number in range(start, start + count)
    ]


async def publish(bus: Bus, wanted: Iterable[Record]) -> None:
    """All of them, in order."""
    await asyncio.gather(*[bus.submit(record) for record in wanted])


async def fetch_until(
    subscriptions: Sequence[Subscription],
    enough: Callable[[list[ConsumedRecord]], bool],
    *,
    commit: bool = False,
) -> list[ConsumedRecord]:
    """Fetch from all of them in turn until there is enough."""
    fetched: list[ConsumedRecord] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not enough(fetched):
        assert time.monotonic() < deadline_s, f"{len(fetched)} fetched, {[s.assignment() for s in subscriptions]}"
        for subscription in subscriptions:
            batch = await subscription.fetch(max_records=64, timeout_s=0.1 if len(subscriptions) == 1 else 0.02)
            fetched += batch
            if commit and batch:
                await subscription.commit(positions(batch))
    return fetched


async def fetch(subscription: Subscription, count: int) -> list[ConsumedRecord]:
    """At least this many."""
    return await fetch_until([subscription], lambda fetched: len(fetched) >= count)


def positions(batch: Iterable[ConsumedRecord]) -> dict[TopicPartition, int]:
    """What to commit once these are done with."""
    return {record.source: record.offset + 1 for record in batch}


def numbers(batch: Iterable[ConsumedRecord]) -> list[int]:
    """As ``records`` numbered them."""
    return [int(record.value) for record in batch]


def by_key(batch: Iterable[ConsumedRecord]) -> dict[bytes, list[int]]:
    """Numbers of each key, in the order they came."""
    found: dict[bytes, list[int]] = {}
    for record in batch:
        found.setdefault(record.key, []).append(int(record.value))
    return found
