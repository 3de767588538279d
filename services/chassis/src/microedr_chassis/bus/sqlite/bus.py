"""The front of the SQLite bus: what runs on the event loop."""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from microedr_chassis.bus.api import BusStatistics, RebalanceListener, Record, TopicSpec
from microedr_chassis.bus.local import LocalSubscription, Membership
from microedr_chassis.bus.record import check_record
from microedr_chassis.bus.sqlite.log import LogFile
from microedr_chassis.bus.sqlite.maintenance import ROUND_S, Maintenance
from microedr_chassis.bus.sqlite.reader import Reader
from microedr_chassis.bus.sqlite.session import Session
from microedr_chassis.bus.sqlite.store import FileStore
from microedr_chassis.bus.sqlite.writer import Outcome, PublishJob, Writer
from microedr_chassis.bus.window import Place, PublishWindow
from microedr_chassis.errors import BusDamagedError, BusError, BusUnavailableError

log = structlog.get_logger()


class SqliteBus:
    """Implements ``api.Bus`` over the file at ``path``, which is created when missing.

    Args:
        path: Needs a local file system: write-ahead logs do not work over a network.
        queue_records: Most records under way; above it ``submit`` raises BusFullError.
        queue_bytes: The same in bytes.
        maintenance_s: Between two rounds of deleting what is too old.
    """

    def __init__(
        self,
        path: Path,
        *,
        queue_records: int = 10_000,
        queue_bytes: int = 64 * 1024 * 1024,
        maintenance_s: float = ROUND_S,
    ) -> None:
        self._window = PublishWindow(queue_records, queue_bytes)
        self._session = Session(path)
        self._writer = Writer(path, self._session, self._report, Maintenance(maintenance_s))
        self._reader = Reader(path, self._session, self._wake, self._on_dead)
        self._store = FileStore(
            self._writer,
            self._reader,
            self._session,
            forget=self._forget,
            changed=lambda group: self._wake(set(), {group}),
        )
        self._subscriptions: set[LocalSubscription] = set()
        self._reaping: asyncio.Task[None] | None = None
        self._started = False
        self._closed = False

    async def start(self) -> None:
        """See ``api.Bus``.

        Raises:
            BusDamagedError: The file is not a bus file or can not be read.
        """
        if not self._started:
            self._reader.start()
            self._writer.start()
            self._started = True
        await self._writer.call(_nothing)

    async def close(self) -> None:
        """See ``api.Bus``."""
        if self._closed or not self._started:
            return
        self._closed = True
        if self._reaping is not None:
            self._reaping.cancel()
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        await self._writer.stop()
        await self._reader.stop()
        # The threads have ended, their last words may still be on the loop.
        await asyncio.sleep(0)
        self._session.close()

    def statistics(self) -> BusStatistics:
        """See ``api.Bus``."""
        return self._window.statistics()

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See ``api.Bus``."""

        def step(file: LogFile) -> None:
            for spec in topics:
                file.ensure_topic(spec)

        await self._writer.call(step)

    async def publish(self, record: Record) -> Place:
        """See ``api.Bus``."""
        return await self.submit(record)

    def submit(self, record: Record) -> "asyncio.Future[Place]":
        """See ``api.Bus``."""
        size_bytes = check_record(record)
        if self._closed or not self._started:
            raise BusUnavailableError("the bus is closed")
        self._window.admit(size_bytes)
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._writer.put(PublishJob(record, size_bytes, self._window.generation, future))
        return future

    def _report(self, outcomes: list[Outcome]) -> None:
        """The writer has committed, or failed: tell those who wait, wake those who read."""
        topics: set[str] = set()
        for job, outcome in outcomes:
            if isinstance(job, PublishJob):
                if isinstance(outcome, (BusUnavailableError, BusDamagedError)):
                    self._window.cool_down(str(outcome))
                self._window.settle(job.future, job.size_bytes, outcome)
                topics.add(job.record.topic)
            elif not job.future.done():
                _settle(job.future, outcome)
        self._wake(topics, set())

    def _wake(self, topics: set[str], groups: set[str]) -> None:
        for subscription in self._subscriptions:
            if subscription.group in groups or not topics.isdisjoint(subscription.topics):
                subscription.wake()

    def _on_dead(self) -> None:
        """A process was killed: free what it owned. One at a time; looked for again in a second."""
        if not self._closed and (self._reaping is None or self._reaping.done()):
            self._reaping = asyncio.get_running_loop().create_task(self._reap(), name="bus-reap")

    async def _reap(self) -> None:
        try:
            groups = await self._store.reap()
        except BusError as error:
            log.warning("bus_reap_failed", error=str(error))
        else:
            log.info("bus_members_reaped", groups=sorted(groups))
            self._wake(set(), groups)

    async def subscribe(
        self,
        topics: Sequence[str],
        *,
        group: str,
        member: str,
        listener: RebalanceListener | None = None,
        co_partitioned: bool = False,
    ) -> LocalSubscription:
        """See ``api.Bus``."""
        membership = Membership(group, member, uuid.uuid4().hex, tuple(topics), co_partitioned)
        await self._store.join(membership)
        return self._watch(LocalSubscription(self._store, topics, membership, listener))

    async def tail(self, topics: Sequence[str], *, since_unix_ms: int) -> LocalSubscription:
        """See ``api.Bus``."""
        positions = await self._store.starts(topics, since_unix_ms)
        return self._watch(LocalSubscription(self._store, topics, None, positions=positions))

    def _watch(self, subscription: LocalSubscription) -> LocalSubscription:
        self._subscriptions.add(subscription)
        self._reader.watch(on=True)
        return subscription

    def _forget(self, subscription: LocalSubscription) -> None:
        self._subscriptions.discard(subscription)
        if not self._subscriptions:
            self._reader.watch(on=False)


def _nothing(_file: LogFile) -> None:
    """Only opens the file."""


def _settle(future: "asyncio.Future[Any]", outcome: Any) -> None:
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
