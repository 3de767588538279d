"""aiokafka's half of what ``low_rate`` needs: a consumer set up, its records and errors as ours."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]  # aiokafka has no types
from aiokafka import TopicPartition as AioPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor  # type: ignore[import-untyped]  # as above
from aiokafka.coordinator.assignors.roundrobin import (  # type: ignore[import-untyped]  # as above
    RoundRobinPartitionAssignor,
)
from aiokafka.errors import (  # type: ignore[import-untyped]  # as above
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    UnknownMemberIdError,
)

from microedr_chassis.bus.api import ConsumedRecord, TopicPartition
from microedr_chassis.bus.kafka.client import KafkaOptions, Wanted
from microedr_chassis.errors import BusUnavailableError

_log = structlog.get_logger()

NOT_OURS = (CommitFailedError, IllegalGenerationError, IllegalStateError, UnknownMemberIdError)
"""The group went on without us; the next fetch brings the news."""

_MAX_POLL_MS = 300_000
_REBALANCE_MS = 60_000
_BACKOFF_MS = 500
"""While a broker is away; aiokafka has no growing one."""

# While a broker is away it writes an error for each of its attempts; we say that once, and raise.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def make_consumer(options: KafkaOptions, wanted: Wanted) -> AIOKafkaConsumer:
    """Not yet started."""
    return AIOKafkaConsumer(
        bootstrap_servers=options.servers.split(","),
        client_id=f"microedr-{wanted.member}",
        group_id=wanted.group or None,
        group_instance_id=wanted.member if wanted.group else None,
        enable_auto_commit=False,
        # aiokafka looks for a position before the listener can give one: it may not fail where the group never
        # committed. That nothing was deleted unread is looked after in ``_place``.
        auto_offset_reset="earliest",
        partition_assignment_strategy=(
            RangePartitionAssignor if wanted.co_partitioned else RoundRobinPartitionAssignor,
        ),
        session_timeout_ms=options.session_timeout_ms,
        rebalance_timeout_ms=_REBALANCE_MS,
        heartbeat_interval_ms=options.heartbeat_ms,
        retry_backoff_ms=_BACKOFF_MS,
        max_poll_interval_ms=_MAX_POLL_MS,
        max_partition_fetch_bytes=1_048_576,
        isolation_level="read_committed",
        # Also ends a wait for the group to settle, which takes as long as its slowest member's rebalance.
        request_timeout_ms=_REBALANCE_MS + 10_000,
    )


async def stop_consumer(consumer: AIOKafkaConsumer, options: KafkaOptions, wanted: Wanted) -> None:
    """Leave and disconnect; never raises for the broker.

    While a broker is away ``stop`` ends with the cancellation of one of its own tasks, which would end who asks
    for it, and leaves its connections: so it is a task of its own, and they are closed in any case.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait((stopping,), timeout=options.connect_timeout_s)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    stopping.cancel()
    closing = asyncio.ensure_future(consumer._client.close())  # noqa: SLF001 - there is no other way to it
    await asyncio.wait((stopping, closing), timeout=options.connect_timeout_s)
    failures = [task.exception() for task in (stopping, closing) if task.done() and not task.cancelled()]
    if any(failures) or not closing.done():
        _log.warning("kafka_close_failed", group=wanted.group, errors=[repr(each) for each in failures if each])


@contextlib.asynccontextmanager
async def question(options: KafkaOptions) -> AsyncIterator[None]:
    """Every question to the broker has an end and the bus's own errors."""
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            yield
    except (KafkaError, TimeoutError) as error:
        raise BusUnavailableError(f"kafka at {options.servers}: {error!r}") from error


def source_of(partition: AioPartition) -> TopicPartition:
    """As we name it."""
    return TopicPartition(partition.topic, partition.partition)


def record_of(message: Any) -> ConsumedRecord:
    """As we pass it on."""
    return ConsumedRecord(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key or b"",
        message.value or b"",
        {name: value or b"" for name, value in message.headers},
    )
