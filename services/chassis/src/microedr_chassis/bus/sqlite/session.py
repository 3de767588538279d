"""One named pipe per bus object: it tells the living from the dead, and wakes those who wait.

A process holds its pipe open as long as it lives, however it ends: opening the pipe of a dead one
for writing fails. So nobody writes heartbeats, others take over within a second, and a commit is
told to every other process by one byte instead of being polled for: each wake-up of an idle
machine costs a tenth of a millisecond and more.
"""

import errno
import os
import uuid
from pathlib import Path

from microedr_chassis.errors import BusUnavailableError

CHANGED = b"c"
"""From another process: the file changed."""

CALLED = b"j"
"""From our own event loop: there is a call to run."""

_DRAIN_BYTES = 65536


class Session:
    """The pipe of one bus object; ``tell_others`` belongs to the writer's thread, ``drain`` to the reader's."""

    def __init__(self, bus_path: Path) -> None:
        self._directory = bus_path.with_name(bus_path.name + ".sessions")
        self.name = uuid.uuid4().hex
        self._descriptor = -1
        self._others: dict[str, int] = {}
        self._listed_mtime_ns = -1
        self._stale = True

    def open(self) -> None:
        """Begin to live. Idempotent.

        Raises:
            BusUnavailableError: The pipe can not be made.
        """
        if self._descriptor >= 0:
            return
        unborn = self._directory / f".{self.name}"
        try:
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            os.mkfifo(unborn, 0o600)
            self._descriptor = os.open(unborn, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            # Renamed once it is open: nobody ever finds it closed while it lives.
            unborn.rename(self._directory / self.name)
        except OSError as error:
            raise BusUnavailableError(f"bus session in {self._directory}: {error.strerror}") from error

    def fileno(self) -> int:
        """To wait on."""
        return self._descriptor

    def wake(self) -> None:
        """There is a call for the thread that drains."""
        _write(self._descriptor, CALLED)

    def drain(self) -> bool:
        """Empty the pipe; whether another process said that the file changed."""
        try:
            changed = CHANGED in os.read(self._descriptor, _DRAIN_BYTES)
        except BlockingIOError:
            return False
        if changed:
            # Whoever speaks may be new.
            self._stale = True
        return changed

    def tell_others(self) -> None:
        """The file changed: wake every other process that has it open."""
        try:
            mtime_ns = self._directory.stat().st_mtime_ns
            if self._stale or mtime_ns != self._listed_mtime_ns:
                self._stale = False
                self._listed_mtime_ns = mtime_ns
                self._list()
        except OSError:
            return
        for name, descriptor in tuple(self._others.items()):
            if not _write(descriptor, CHANGED):
                os.close(self._others.pop(name))

    def _list(self) -> None:
        """Open the pipes that are new, close those that are gone."""
        names = set(self._names())
        for name in self._others.keys() - names:
            os.close(self._others.pop(name))
        for name in names - self._others.keys():
            descriptor = self._open_pipe(name)
            if descriptor is not None:
                self._others[name] = descriptor

    def _names(self) -> list[str]:
        """Of all sessions but this one, living or dead."""
        names = (path.name for path in self._directory.iterdir())
        return [name for name in names if name != self.name and not name.startswith(".")]

    def _open_pipe(self, name: str) -> int | None:
        """None: whoever it belonged to is dead."""
        try:
            return os.open(self._directory / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                return None
            raise

    def is_alive(self, name: str) -> bool:
        """Whether the session of this name still lives."""
        if name == self.name:
            return True
        try:
            descriptor = self._open_pipe(name)
        except OSError:
            # In doubt it lives: two owners of a partition do more harm than none.
            return True
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def others(self) -> tuple[set[str], set[str]]:
        """The living and the dead whose traces are still there."""
        names = set(self._names())
        living = {name for name in names if self.is_alive(name)}
        return living, names - living

    def bury(self) -> None:
        """Remove the traces of the dead: nothing of theirs is left."""
        for name in self.others()[1]:
            (self._directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """End. Idempotent."""
        if self._descriptor >= 0:
            (self._directory / self.name).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1
        for descriptor in self._others.values():
            os.close(descriptor)
        self._others.clear()


def _write(descriptor: int, word: bytes) -> bool:
    """Whether somebody holds the other end. A full pipe is one that wakes them anyway."""
    try:
        os.write(descriptor, word)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True
