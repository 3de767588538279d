"""The one thread that reads, so that the event loop never waits for the disk; and the watch on the file.

It sleeps on the session's pipe, into which its own loop and other processes write. A process that
was killed can not say so: while there are others, the watch looks after them once a second.
"""

import asyncio
import queue
import select
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from microedr_chassis.bus.sqlite.log import LogFile
from microedr_chassis.bus.sqlite.schema import bus_error, open_file, roll_back
from microedr_chassis.bus.sqlite.session import Session
from microedr_chassis.errors import BusUnavailableError

T = TypeVar("T")

REAP_S = 1.0
"""How soon the partitions of a killed process are free for others, and how late at most a change is
noticed whose writer was killed before it could tell."""

Call = tuple[Callable[[LogFile], Any], "asyncio.Future[Any]"]


class Reader:
    """Runs from ``start`` to ``stop``.

    Args:
        path: The bus file.
        session: Opened by ``start``.
        on_change: Called on the loop with the topics and groups another connection changed.
        on_dead: Called on the loop when another process died without leaving.
    """

    def __init__(
        self,
        path: Path,
        session: Session,
        on_change: Callable[[set[str], set[str]], None],
        on_dead: Callable[[], None],
    ) -> None:
        self._path = path
        self._session = session
        self._on_change = on_change
        self._on_dead = on_dead
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bus-reader", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._file: LogFile | None = None
        self._watching = False
        self._stopping = False
        self._seen: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._seen_version = -1
        self._alone = False

    def start(self) -> None:
        """Begin; results go to the loop that runs now.

        Raises:
            BusUnavailableError: The session can not be opened.
        """
        self._session.open()
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def call(self, call: Callable[[LogFile], T]) -> T:
        """Run ``call`` on one consistent state of the file."""
        if self._stopping or self._loop is None:
            raise BusUnavailableError("the bus is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((call, future))
        self._session.wake()
        return await future

    def watch(self, *, on: bool) -> None:
        """Look for changes from now on, or no longer: without subscriptions nobody needs to know."""
        self._watching = on
        self._session.wake()

    async def stop(self) -> None:
        """End the thread."""
        if self._loop is not None and not self._stopping:
            self._stopping = True
            self._queue.put(None)
            self._session.wake()
            await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        pipe = select.poll()
        pipe.register(self._session.fileno(), select.POLLIN)
        next_look_s = 0.0
        while True:
            # Alone on the file there is nobody to look after; whoever comes writes into the pipe.
            looks = self._watching and not self._alone
            pipe.poll(max(0.0, next_look_s - time.monotonic()) * 1000 if looks else None)
            changed = self._session.drain()
            while not self._queue.empty():
                job = self._queue.get_nowait()
                if job is None:
                    self._close()
                    return
                self._post(_settle, job[1], self._attempt(job[0]))
            if self._watching and (changed or (looks and time.monotonic() >= next_look_s)):
                self._look()
                next_look_s = time.monotonic() + REAP_S
            elif changed:
                self._alone = False

    def _attempt(self, call: Callable[[LogFile], Any]) -> Any:
        """Its result, or the exception it raised."""
        try:
            file = self._open()
            file.begin("DEFERRED")
            try:
                return call(file)
            finally:
                roll_back(file.connection)
        except sqlite3.Error as error:
            self._close()
            return bus_error(error, self._path)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever called
            return error

    def _look(self) -> None:
        """Tell the loop what changed since the last look, and that somebody died."""
        version = self._attempt(LogFile.data_version)
        if version != self._seen_version and not isinstance(version, Exception):
            state = self._attempt(_state_of)
            if not isinstance(state, Exception):
                self._seen_version = version
                topics, members = (_differences(old, new) for old, new in zip(self._seen, state, strict=True))
                self._seen = state
                self._post(self._on_change, topics, members)
        try:
            living, dead = self._session.others()
        except OSError:
            return
        self._alone = not living and not dead
        if dead:
            self._post(self._on_dead)

    def _open(self) -> LogFile:
        if self._file is None:
            self._file = LogFile(open_file(self._path))
            self._seen_version = -1
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.connection.close()
            self._file = None

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None  # noqa: S101 - set before the thread starts
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop was closed without closing the bus: nobody waits for this any more.
            self._watching = False


def _state_of(file: LogFile) -> tuple[dict[str, int], dict[str, int]]:
    """Records ever appended by topic, and versions by group."""
    topics = dict(file.connection.execute("SELECT topic, sum(next_offset) FROM logs GROUP BY topic"))
    return topics, dict(file.connection.execute("SELECT name, version FROM groups"))


def _differences(old: dict[str, int], new: dict[str, int]) -> set[str]:
    return {name for name, value in new.items() if old.get(name) != value}


def _settle(future: "asyncio.Future[Any]", outcome: Any) -> None:
    """Hand over an outcome, unless whoever waited for it has gone."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
