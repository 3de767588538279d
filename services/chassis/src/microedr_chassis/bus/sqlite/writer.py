"""The one thread that writes: whatever waits is committed together, one disk sync for all of it."""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from microedr_chassis.bus.api import Record
from microedr_chassis.bus.sqlite.log import LogFile
from microedr_chassis.bus.sqlite.maintenance import Maintenance
from microedr_chassis.bus.sqlite.schema import bus_error, open_file, roll_back
from microedr_chassis.bus.sqlite.session import Session
from microedr_chassis.bus.window import Place
from microedr_chassis.errors import BusError, BusUnavailableError

T = TypeVar("T")

_MAX_GROUP = 256
_MAX_GROUP_BYTES = 8 * 1024 * 1024
"""Of one commit. Above some ten frames a larger group gains nothing and makes all of it wait longer."""


@dataclass(frozen=True, slots=True)
class PublishJob:
    """A record on its way. Jobs of a ``generation`` that failed are never tried."""

    record: Record
    size_bytes: int
    generation: int
    future: "asyncio.Future[Place]"


@dataclass(frozen=True, slots=True)
class CallJob:
    """Any other step, within the same commit."""

    call: Callable[[LogFile], Any]
    future: "asyncio.Future[Any]"


Outcome = tuple["PublishJob | CallJob", Any]
"""A job and its result, an exception when it failed."""


class Writer:
    """Runs from ``start`` to ``stop``; ``report`` is called on the event loop with what was done."""

    def __init__(
        self,
        path: Path,
        session: Session,
        report: Callable[[list[Outcome]], None],
        maintenance: Maintenance,
    ) -> None:
        self._path = path
        self._session = session
        self._report = report
        self._maintenance = maintenance
        self._queue: queue.SimpleQueue[PublishJob | CallJob | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bus-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._file: LogFile | None = None
        self._failed_generation = -1
        self._stopping = False

    def start(self) -> None:
        """Begin; results go to the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def put(self, job: PublishJob) -> None:
        """Publish it; how many there can be is the caller's to bound."""
        self._queue.put(job)

    async def call(self, call: Callable[[LogFile], T]) -> T:
        """Run ``call`` in the writer's next transaction; returns when that is durable.

        Raises:
            BusUnavailableError: Nothing of it happened.
        """
        if self._stopping or self._loop is None:
            raise BusUnavailableError("the bus is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(CallJob(call, future))
        return await future

    async def stop(self) -> None:
        """Write everything that was put, then end the thread."""
        if self._loop is not None and not self._stopping:
            self._stopping = True
            self._queue.put(None)
            await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while True:
            group, last = self._collect()
            if group:
                self._deliver(self._write(group))
            if self._maintenance.due_in_s() <= 0:
                self._maintain()
            if last:
                break
        self._close()

    def _collect(self) -> tuple[list[PublishJob | CallJob], bool]:
        """What waits now, or whatever comes until maintenance is due; and whether it is the end."""
        group: list[PublishJob | CallJob] = []
        size_bytes = 0
        wait_s = self._maintenance.due_in_s()
        while len(group) < _MAX_GROUP and size_bytes < _MAX_GROUP_BYTES:
            try:
                job = self._queue.get_nowait() if group or wait_s <= 0 else self._queue.get(timeout=wait_s)
            except queue.Empty:
                break
            if job is None:
                return group, True
            group.append(job)
            if isinstance(job, PublishJob):
                size_bytes += job.size_bytes
        return group, False

    def _write(self, group: list[PublishJob | CallJob]) -> list[Outcome]:
        """Commit ``group`` as one transaction: all of it is durable, or none of it happened."""
        doomed: list[Outcome] = []
        wanted: list[PublishJob] = []
        calls: list[CallJob] = []
        for job in group:
            if isinstance(job, CallJob):
                calls.append(job)
            elif job.generation > self._failed_generation:
                wanted.append(job)
            else:
                doomed.append((job, BusUnavailableError("a record before this one failed")))
        if not wanted and not calls:
            return doomed
        try:
            file = self._open()
            file.begin("IMMEDIATE")
            outcomes: list[Outcome] = list(
                zip(wanted, file.append(job.record for job in wanted), strict=True) if wanted else ()
            )
            outcomes += [(job, _attempt(file, job)) for job in calls]
            file.connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - the thread must live, whoever waits is told
            self._close()
            self._failed_generation = max((job.generation for job in wanted), default=self._failed_generation)
            lost: tuple[PublishJob | CallJob, ...] = (*wanted, *calls)
            return doomed + [(job, _reason(error, self._path)) for job in lost]
        self._session.tell_others()
        return doomed + outcomes

    def _open(self) -> LogFile:
        if self._file is None:
            self._file = LogFile(open_file(self._path))
        return self._file

    def _close(self) -> None:
        """After an error the connection goes too: what it remembers of the file may be wrong."""
        if self._file is not None:
            roll_back(self._file.connection)
            self._file.connection.close()
            self._file = None

    def _maintain(self) -> None:
        """One step of deleting what is too old; failures wait for the next round."""
        try:
            file = self._open()
            file.begin("IMMEDIATE")
            self._maintenance.step(file, time.time_ns() // 1_000_000)
            file.connection.execute("COMMIT")
        except Exception:  # noqa: BLE001 - whatever it is, publishers and consumers meet it too and tell
            self._maintenance.postpone()
            self._close()

    def _deliver(self, outcomes: list[Outcome]) -> None:
        assert self._loop is not None  # noqa: S101 - set before the thread starts
        try:
            self._loop.call_soon_threadsafe(self._report, outcomes)
        except RuntimeError:
            # The loop was closed without closing the bus: nobody waits for this any more.
            self._stopping = True


def _attempt(file: LogFile, job: CallJob) -> Any:
    """The call's result or its own error, which undoes nothing but itself."""
    file.connection.execute("SAVEPOINT call")
    try:
        result = job.call(file)
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - it belongs to whoever called
        file.connection.execute("ROLLBACK TO call")
        file.forget()
        result = error
    file.connection.execute("RELEASE call")
    return result


def _reason(error: Exception, path: Path) -> BusError:
    """A new error for each who waits: one raised in two tasks would carry both their tracebacks."""
    if isinstance(error, BusError):
        return type(error)(str(error))
    if isinstance(error, sqlite3.Error):
        return bus_error(error, path)
    return BusUnavailableError(f"bus file {path}: {type(error).__name__}: {error}")
