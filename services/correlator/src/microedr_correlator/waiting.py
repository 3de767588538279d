"""Matches that came before their event: each waits, in order per host, until the window has seen it."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from microedr.v1.detection_pb2 import Match
from microedr_correlator.book import HostKey
from microedr_correlator.processes import Origin


@dataclass(frozen=True, slots=True)
class WaitingMatch:
    """A match and when to stop waiting for its event."""

    host: HostKey
    match: Match
    origin: Origin
    received_unix_ns: int
    offset: int
    since_s: float


class WaitingMatches:
    """Queues by host. The owner looks at ``len`` to keep it within bounds."""

    def __init__(self) -> None:
        self._queues: dict[HostKey, deque[WaitingMatch]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def has(self, host: HostKey) -> bool:
        """Whether matches of this host wait."""
        return host in self._queues

    def put(self, waiting: WaitingMatch) -> None:
        """Let it wait behind those of its host."""
        self._queues.setdefault(waiting.host, deque()).append(waiting)
        self._size += 1

    def take(self, host: HostKey, is_ready: Callable[[WaitingMatch], bool]) -> Iterator[WaitingMatch]:
        """Remove and yield those at the front of the host's queue that are ready."""
        queue = self._queues.get(host)
        while queue and is_ready(queue[0]):
            self._size -= 1
            yield queue.popleft()
        if queue is not None and not queue:
            del self._queues[host]

    def hosts(self) -> list[HostKey]:
        """Those that matches wait for."""
        return list(self._queues)

    def oldest_offset(self) -> int | None:
        """Of all that wait; those of one host stand in order."""
        return min((queue[0].offset for queue in self._queues.values()), default=None)
