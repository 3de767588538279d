"""Publishes the low-rate records of ingest: sessions of hosts and steps of actions, in order, until they are durable.

Not here: events. They are published by their stream, which must know when.
"""

import asyncio
from collections import deque

import structlog

from microedr_chassis import catalogue
from microedr_chassis.backoff import Backoff
from microedr_chassis.bus.api import Bus, Record
from microedr_chassis.errors import BusFullError, BusRecordError, BusUnavailableError
from microedr_chassis.metrics import Metrics

_log = structlog.get_logger()

_MAX_PENDING = 20_000
"""Records of at most a few KiB each: what two thousand agents say in ten minutes without a bus."""

_BATCH = 64


class Outlet:
    """A bounded queue in front of the bus. When it is full the oldest record is dropped and counted."""

    def __init__(self, bus: Bus, metrics: Metrics, *, max_pending: int = _MAX_PENDING) -> None:
        self._bus = bus
        self._metrics = metrics
        self._max_pending = max_pending
        self._pending: deque[Record] = deque()
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def offer(self, record: Record) -> None:
        """Publish ``record`` soon."""
        if len(self._pending) >= self._max_pending:
            self._drop(self._pending.popleft(), "full")
        self._pending.append(record)
        self._empty.clear()
        self._news.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        backoff = Backoff(first_s=0.2, most_s=5.0)
        while True:
            await self._news.wait()
            self._news.clear()
            while self._pending:
                if await self._publish_some():
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next_s())
            self._empty.set()

    async def drain(self) -> None:
        """Wait until everything offered so far is durable; the caller sets the timeout."""
        await self._empty.wait()

    async def _publish_some(self) -> bool:
        """Publish the first few at once; False when some have to be tried again, which keep their order."""
        batch = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
        outcomes = await asyncio.gather(*(self._bus.publish(record) for record in batch), return_exceptions=True)
        again: list[Record] = []
        for record, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BusUnavailableError | BusFullError):
                again.append(record)
            elif isinstance(outcome, BusRecordError):
                self._drop(record, "unpublishable")
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                self._metrics.counter(catalogue.RECORDS_PUBLISHED, topic=record.topic).inc()
        self._pending.extendleft(reversed(again))
        return not again

    def _drop(self, record: Record, reason: str) -> None:
        self._metrics.counter(catalogue.RECORDS_DROPPED, topic=record.topic, reason=reason).inc()
        _log.error("record_dropped", reason=reason, topic=record.topic)
