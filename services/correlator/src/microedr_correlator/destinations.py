"""Where the processes of one host connected to lately: per process its most recent remote ends."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

MAX_PER_HOST = 4096
MAX_PER_PROCESS = 256
"""Keeps a process that scans from pushing out what its relatives did."""


class Remote(NamedTuple):
    """One remote end: 4 or 16 bytes of address, port, ``tcp`` or ``udp``."""

    ip: bytes
    port: int
    proto: str


@dataclass(slots=True)
class Contact:
    """How a process met a remote end; times are those of the events."""

    first_unix_ns: int
    last_unix_ns: int
    count: int
    seen_unix_ns: int
    """Watermark of the host at the last use: what age is counted from."""


class _OfProcess:
    __slots__ = ("contacts", "seen_unix_ns")

    def __init__(self) -> None:
        self.contacts: dict[Remote, Contact] = {}
        self.seen_unix_ns = 0


class DestinationTable:
    """Contacts by process, both in order of last use, so that the oldest stands first. O(1), expiry amortised."""

    def __init__(self, max_per_host: int = MAX_PER_HOST, max_per_process: int = MAX_PER_PROCESS) -> None:
        self._max_per_host = max_per_host
        self._max_per_process = max_per_process
        self._processes: OrderedDict[bytes, _OfProcess] = OrderedDict()
        self._size = 0
        self.evicted_total = 0

    def __len__(self) -> int:
        return self._size

    def add(self, uid: bytes, remote: Remote, event_unix_ns: int, seen_unix_ns: int, *, opened: bool) -> None:
        """Process ``uid`` used ``remote``; ``opened`` counts a connection, otherwise one went on or closed.

        ``seen_unix_ns`` must not go back.
        """
        processes = self._processes
        mine = processes.get(uid)
        if mine is None:
            mine = processes[uid] = _OfProcess()
        else:
            processes.move_to_end(uid)
        mine.seen_unix_ns = seen_unix_ns
        contacts = mine.contacts
        contact = contacts.pop(remote, None)
        if contact is None:
            if len(contacts) >= self._max_per_process:
                self._drop_oldest(mine)
            contacts[remote] = Contact(event_unix_ns, event_unix_ns, 1, seen_unix_ns)
            self._size += 1
            if self._size > self._max_per_host:
                self._evict()
            return
        contacts[remote] = contact
        contact.last_unix_ns = event_unix_ns
        contact.seen_unix_ns = seen_unix_ns
        if opened:
            contact.count += 1

    def of(self, uid: bytes, since_unix_ns: int) -> list[tuple[Remote, Contact]]:
        """Contacts of one process that were in use since then, oldest first."""
        mine = self._processes.get(uid)
        if mine is None:
            return []
        return [(remote, contact) for remote, contact in mine.contacts.items() if contact.seen_unix_ns >= since_unix_ns]

    def expire(self, before_unix_ns: int) -> None:
        """Drop processes whose last contact was before this; within the others, old contacts count against the caps."""
        processes = self._processes
        while processes:
            uid = next(iter(processes))
            oldest = processes[uid]
            if oldest.seen_unix_ns >= before_unix_ns:
                return
            del processes[uid]
            self._size -= len(oldest.contacts)

    def _drop_oldest(self, mine: _OfProcess) -> None:
        del mine.contacts[next(iter(mine.contacts))]
        self._size -= 1
        self.evicted_total += 1

    def _evict(self) -> None:
        uid = next(iter(self._processes))
        oldest = self._processes[uid]
        self._drop_oldest(oldest)
        if not oldest.contacts:
            del self._processes[uid]
