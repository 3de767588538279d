"""The windows of all hosts of a partition: made when first heard of, dropped when silent or over the caps."""

from collections import OrderedDict

from microedr_correlator.book import HostKey
from microedr_correlator.eventtime import WINDOW_NS
from microedr_correlator.observed import KillWatch
from microedr_correlator.processes import ProcessEntry
from microedr_correlator.window import HostWindow

_SILENCE_NS = 2 * WINDOW_NS
"""Heartbeats come every minute: a host silent this long is off, and all but its running processes has expired."""


class HostWindows:
    """Windows by host, the one heard from last at the end."""

    def __init__(self, kills: KillWatch, *, max_hosts: int, max_processes: int) -> None:
        self.ended: list[ProcessEntry] = []
        """Processes that someone waits for and that ended since this list was last emptied."""
        self.processes = 0
        """Held in all windows."""
        self.evicted_total = 0
        self._kills = kills
        self._max_hosts = max_hosts
        self._max_processes = max_processes
        self._windows: OrderedDict[HostKey, HostWindow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def get(self, host: HostKey) -> HostWindow | None:
        """The window of a host heard from lately."""
        return self._windows.get(host)

    def open(self, host: HostKey) -> HostWindow:
        """The window to fold a frame of ``host`` into; call ``folded`` afterwards."""
        window = self._windows.get(host)
        if window is None:
            window = self._windows[host] = HostWindow(self._kills.watched, self.ended)
        else:
            self._windows.move_to_end(host)
        self.processes -= len(window.processes)
        self.evicted_total -= window.evicted_total
        return window

    def folded(self, window: HostWindow) -> None:
        """Count again what ``window`` holds and keep to the caps."""
        self.processes += len(window.processes)
        self.evicted_total += window.evicted_total
        silent_unix_ns = window.received_unix_ns - _SILENCE_NS
        windows = self._windows
        while len(windows) > 1:
            oldest = next(iter(windows.values()))
            is_over = len(windows) > self._max_hosts or self.processes > self._max_processes
            if not is_over and oldest.received_unix_ns >= silent_unix_ns:
                return
            windows.popitem(last=False)
            self.processes -= len(oldest.processes)
            if is_over:
                self.evicted_total += len(oldest.processes)
