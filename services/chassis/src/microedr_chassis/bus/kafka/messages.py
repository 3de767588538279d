"""What the consuming thread and its subscription tell each other, and confluent-kafka's records as ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message
from confluent_kafka import TopicPartition as KafkaPartition

from microedr_chassis.bus.api import ConsumedRecord, TopicPartition
from microedr_chassis.errors import BusError


@dataclass(frozen=True, slots=True)
class Fetched:
    """The end of a fetch."""

    records: Sequence[ConsumedRecord]


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a fetch that could not be done."""

    error: BusError


@dataclass(frozen=True, slots=True)
class Gained:
    """Tell the listener, then ``done``; the consumer waits for that."""

    sources: Sequence[TopicPartition]


@dataclass(frozen=True, slots=True)
class Losing:
    """As ``Gained``."""

    sources: Sequence[TopicPartition]


Event = Fetched | Failed | Gained | Losing


def source_of(partition: KafkaPartition) -> TopicPartition:
    """As we name it."""
    return TopicPartition(partition.topic, partition.partition)


def record_of(message: Message) -> ConsumedRecord:
    """As we pass it on."""
    _, timestamp_ms = message.timestamp()
    headers: Any = message.headers()
    return ConsumedRecord(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        timestamp_ms,
        message.key() or b"",
        message.value() or b"",
        {name: value or b"" for name, value in headers or ()},
    )
