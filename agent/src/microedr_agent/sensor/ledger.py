"""What the BPF programs counted: seen and dropped per kind, read from the mapping of their map."""

import mmap
from typing import Protocol

from microedr_agent.sensor.layout import EVENT_KINDS


class Ledger(Protocol):
    """Counts of one object since it was loaded; they only grow."""

    def seen_total(self) -> int:
        """Events that the programs tried to send."""

    def dropped_total(self) -> int:
        """Of those, refused by the ring because it was full."""


class MappedLedger:
    """The one entry of a ``ledger`` map. Reading it costs no system call and needs no capability."""

    def __init__(self, map_fd: int) -> None:
        self._mapping = mmap.mmap(map_fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        counts = memoryview(self._mapping)[: 2 * EVENT_KINDS * 8].cast("Q")
        self._seen, self._dropped = counts[:EVENT_KINDS], counts[EVENT_KINDS:]

    def seen_total(self) -> int:
        """As the protocol says."""
        return sum(self._seen)

    def dropped_total(self) -> int:
        """As the protocol says."""
        return sum(self._dropped)
