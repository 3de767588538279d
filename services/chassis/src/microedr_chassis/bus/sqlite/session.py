"""Tell the living from the dead: a process holds a lock as long as it lives, and no longer.

The kernel frees the lock the moment the process ends, however it ends, so that others take over
without waiting for a lease to run out, and nobody writes heartbeats.
"""

import fcntl
import os
import uuid
from pathlib import Path

from microedr_chassis.errors import BusUnavailableError


class Session:
    """One bus object's life, visible to every process that has the same file open."""

    def __init__(self, bus_path: Path) -> None:
        self._directory = bus_path.with_name(bus_path.name + ".sessions")
        self.name = uuid.uuid4().hex
        self._descriptor: int | None = None

    def open(self) -> None:
        """Begin to live. Idempotent.

        Raises:
            BusUnavailableError: The lock can not be made.
        """
        if self._descriptor is not None:
            return
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            unborn = self._directory / f".{self.name}"
            descriptor = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Renamed once it is locked: nobody ever sees it unlocked while it lives.
            unborn.rename(self._directory / self.name)
        except OSError as error:
            raise BusUnavailableError(f"bus session in {self._directory}: {error.strerror}") from error
        self._descriptor = descriptor

    def is_alive(self, name: str) -> bool:
        """Whether the session of this name still lives; the trace of a dead one is removed."""
        if name == self.name:
            return True
        path = self._directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            # In doubt it lives: two owners of a partition do more harm than none.
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        path.unlink(missing_ok=True)
        return False

    def sweep(self) -> None:
        """Remove the traces of all dead sessions."""
        for path in self._directory.iterdir():
            if not path.name.startswith("."):
                self.is_alive(path.name)

    def close(self) -> None:
        """End. Idempotent."""
        if self._descriptor is not None:
            (self._directory / self.name).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
