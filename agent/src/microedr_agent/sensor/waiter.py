"""The sensor's pause: over when it is time, when a ring fills fast, or when the process is told to stop."""

import select
import signal
import socket
from collections.abc import Collection, Iterable
from typing import Protocol

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class HasFileno(Protocol):
    """What epoll can watch."""

    def fileno(self) -> int:
        """The descriptor."""


class Waiter:
    """Watches ``rings`` and signals; to be made in the main thread, before the process can be told to stop."""

    def __init__(self, stop_signals: Collection[signal.Signals] = STOP_SIGNALS) -> None:
        self._stopped = False
        self._epoll = select.epoll()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._epoll.register(self._woken, select.EPOLLIN)
        # A signal writes a byte there, so that one that comes just before the wait still ends it.
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in stop_signals:
            signal.signal(number, self._stop)

    def watch(self, rings: Iterable[HasFileno]) -> None:
        """End pauses for these. Edge-triggered: data that lie there are no reason, only a wake-up is."""
        for ring in rings:
            self._epoll.register(ring, select.EPOLLIN | select.EPOLLET)

    def wait(self, timeout_s: float) -> bool:
        """Pause; False once the process is told to stop."""
        if not self._stopped:
            self._epoll.poll(max(timeout_s, 0.0))
        return not self._stopped

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True
