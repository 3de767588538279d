"""The one thread that reads, so that the event loop never waits for the disk; and the watch on the file.

Commits of other processes show in SQLite's ``data_version``. Looking at it costs a few
microseconds, so it is polled: there is no portable way to be called.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from microedr_chassis.bus.sqlite import groups
from microedr_chassis.bus.sqlite.log import LogFile
from microedr_chassis.bus.sqlite.schema import bus_error, open_file, roll_back
from microedr_chassis.errors import BusUnavailableError

T = TypeVar("T")

POLL_S = 0.05
"""What a record of another process may wait to be noticed. Twenty looks a second cost about 0.1 % of a core."""

REAP_S = 1.0
"""How soon the partitions of a killed process are free for others."""

Call = tuple[Callable[[LogFile], Any], "asyncio.Future[Any]"]


class Reader:
    """Runs from ``start`` to ``stop``.

    Args:
        path: The bus file.
        on_change: Called on the loop with the topics and groups another connection changed.
        on_dead: Called on the loop when a session that has members is dead.
        is_alive: Whether a session lives.
    """

    def __init__(
        self,
        path: Path,
        on_change: Callable[[set[str], set[str]], None],
        on_dead: Callable[[], None],
        is_alive: Callable[[str], bool],
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._on_dead = on_dead
        self._is_alive = is_alive
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bus-reader", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._file: LogFile | None = None
        self._watching = False
        self._stopping = False
        self._seen: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._seen_version = -1
        self._next_look_s = 0.0
        self._next_reap_s = 0.0

    def start(self) -> None:
        """Begin; results go to the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def call(self, call: Callable[[LogFile], T]) -> T:
        """Run ``call`` on one consistent state of the file."""
        if self._stopping or self._loop is None:
            raise BusUnavailableError("the bus is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((call, future))
        return await future

    def watch(self, *, on: bool) -> None:
        """Look for changes from now on, or no longer: without subscriptions nobody needs to know."""
        if on != self._watching:
            self._watching = on
            self._queue.put((_nothing, asyncio.get_running_loop().create_future()))

    async def stop(self) -> None:
        """End the thread."""
        if self._loop is not None and not self._stopping:
            self._stopping = True
            self._queue.put(None)
            await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while True:
            wait_s = max(0.0, self._next_look_s - time.monotonic()) if self._watching else None
            try:
                job = self._queue.get(timeout=wait_s)
            except queue.Empty:
                self._look()
                continue
            if job is None:
                break
            self._post(_settle, job[1], self._attempt(job[0]))
            if self._watching and time.monotonic() >= self._next_look_s:
                self._look()
        self._close()

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
        """Tell the loop what changed since the last look, and that a session died."""
        now_s = time.monotonic()
        self._next_look_s = now_s + POLL_S
        reap = now_s >= self._next_reap_s
        if reap:
            self._next_reap_s = now_s + REAP_S
        outcome = self._attempt(_version_of)
        if isinstance(outcome, Exception):
            return
        if outcome != self._seen_version:
            state = self._attempt(_state_of)
            if isinstance(state, Exception):
                return
            self._seen_version = outcome
            topics, members = (_differences(old, new) for old, new in zip(self._seen, state, strict=True))
            self._seen = state
            self._post(self._on_change, topics, members)
        if reap:
            sessions = self._attempt(groups.sessions)
            if not isinstance(sessions, Exception) and not all(map(self._is_alive, sessions)):
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


def _nothing(_file: LogFile) -> None:
    """Only wakes the thread."""


def _version_of(file: LogFile) -> int:
    return file.data_version()


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
