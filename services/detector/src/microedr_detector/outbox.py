"""Records on their way to the bus: none is forgotten before it is durable, and their number is bounded."""

import asyncio
from collections import deque

import structlog

from microedr_chassis.bus.api import Bus, Record, TopicPartition
from microedr_chassis.errors import BusFullError, BusRecordError, BusUnavailableError, RetryLaterError

MAX_RECORDS = 4096
"""Waiting and under way. A match is a few KiB, so this is some 16 MiB at most."""

_FLUSH_TIMEOUT_S = 20.0
"""For the bus to confirm what it took. Kafka's own delivery timeout reports earlier."""

_log = structlog.get_logger()


class Outbox:
    """Publishes records in order, and again what the bus did not take. For one task."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[Record] = deque()
        self._under_way: deque[tuple[Record, asyncio.Future[tuple[TopicPartition, int]]]] = deque()
        self.published_total = 0
        self.unpublishable_total = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    async def put(self, record: Record) -> None:
        """Publish ``record`` by the next ``flush``. Waits for room.

        Raises:
            RetryLaterError: As ``flush``; the record was not taken. So BusUnavailableError.
        """
        if len(self) >= MAX_RECORDS:
            await self.flush()
        self._waiting.append(record)

    async def flush(self) -> None:
        """Return when everything is durable. After an error it may be called again and goes on.

        Raises:
            RetryLaterError: The bus did not confirm in time.
            BusUnavailableError: It is away; nothing is forgotten.
        """
        while len(self):
            self._submit()
            await self._settle()

    def _submit(self) -> None:
        while self._waiting:
            record = self._waiting[0]
            try:
                future = self._bus.submit(record)
            except BusFullError:
                if self._under_way:
                    return  # what is under way makes room
                raise
            except BusRecordError as error:
                self._give_up(record, error)
            else:
                self._under_way.append((record, future))
            self._waiting.popleft()

    async def _settle(self) -> None:
        if not self._under_way:
            return
        # Unlike gather this cancels nothing: what is under way may still become durable.
        await asyncio.wait([future for _record, future in self._under_way], timeout=_FLUSH_TIMEOUT_S)
        failed: list[Record] = []
        reason: BusUnavailableError | BusFullError | None = None
        pending: deque[tuple[Record, asyncio.Future[tuple[TopicPartition, int]]]] = deque()
        for record, future in self._under_way:
            if not future.done():
                pending.append((record, future))
                continue
            error = BusUnavailableError("the bus was closed") if future.cancelled() else future.exception()
            if error is None:
                self.published_total += 1
            elif isinstance(error, BusRecordError):
                self._give_up(record, error)
            elif isinstance(error, BusUnavailableError | BusFullError):
                failed.append(record)
                reason = error
            else:
                raise error
        self._under_way = pending
        self._waiting.extendleft(reversed(failed))
        if reason is not None:
            raise reason
        if pending:
            raise RetryLaterError(f"{len(pending)} records were not confirmed within {_FLUSH_TIMEOUT_S:g} s")

    def _give_up(self, record: Record, error: BusRecordError) -> None:
        # It would never be published, and waiting for it would stop every other one.
        self.unpublishable_total += 1
        _log.error("record_unpublishable", topic=record.topic, error=str(error))
