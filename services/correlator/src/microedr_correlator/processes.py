"""The processes of one host: who started whom, running ones and those that ended within the window.

A running process is kept however old it is, an ended one for the length of the window, and longer while a
child of it is kept, so that ancestry stays known. At the cap the longest ended goes first.
"""

from collections import OrderedDict, deque
from itertools import islice
from typing import NamedTuple

MAX_PROCESSES = 32_768
"""Per host: the default pid_max of small machines."""

MAX_EXEC_BYTES = 8 * 1024
"""Of one exec event kept as evidence. Larger ones, argv and environment names at their limits, are
kept without their payload."""

_EVICTED_AT_ONCE = 64


class Origin(NamedTuple):
    """The sequence an event stands in; with its number it gives the event's id."""

    epoch_id: str
    lane: int


class ProcessEntry:
    """What is kept of one process. The text fields stay encoded until an alert asks for them."""

    __slots__ = (
        "block",
        "children",
        "exec_event",
        "exec_origin",
        "exit_origin",
        "exit_seqno",
        "exit_unix_ns",
        "parent_uid",
        "pid",
        "ppid",
        "retired",
        "start_unix_ns",
        "uid",
    )

    def __init__(self, uid: bytes, pid: int, ppid: int, parent_uid: bytes, start_unix_ns: int) -> None:
        self.uid = uid
        self.pid = pid
        self.ppid = ppid
        self.parent_uid = parent_uid
        self.start_unix_ns = start_unix_ns
        self.exec_event = b""
        """Serialised AgentEvent of the newest exec, its own or inherited by fork."""
        self.exec_origin: Origin | None = None
        self.block = b""
        """Serialised Process, when no exec event is held."""
        self.exit_unix_ns = 0
        self.exit_origin: Origin | None = None
        self.exit_seqno = 0
        self.children = 0
        self.retired = False
        """Ended longer ago than the window; kept for its children."""


class ProcessTable:
    """The processes of one host by ``process_uid``. Every operation is O(1), expiry amortised."""

    def __init__(self, max_processes: int = MAX_PROCESSES) -> None:
        self._max = max_processes
        self._entries: dict[bytes, ProcessEntry] = {}
        self._by_pid: dict[int, ProcessEntry] = {}
        self._ended: deque[tuple[int, ProcessEntry]] = deque()
        self._retired: OrderedDict[bytes, None] = OrderedDict()
        self.evicted_total = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, uid: bytes) -> ProcessEntry | None:
        """The process of this name, if it is held."""
        return self._entries.get(uid)

    def entries(self) -> list[ProcessEntry]:
        """All of them, oldest first."""
        return list(self._entries.values())

    def add(self, entry: ProcessEntry, at_unix_ns: int) -> None:
        """Take in a process not held yet; whoever had its pid before must have ended."""
        if len(self._entries) >= self._max:
            self._evict()
        self._entries[entry.uid] = entry
        parent = self._entries.get(entry.parent_uid)
        if parent is not None:
            parent.children += 1
        previous = self._by_pid.get(entry.pid)
        if previous is not None and not previous.exit_unix_ns:
            self.end(previous, at_unix_ns)
        self._by_pid[entry.pid] = entry

    def end(self, entry: ProcessEntry, at_unix_ns: int) -> None:
        """The process ended; it goes when the window has moved past this. Times must not go back."""
        if entry.exit_unix_ns:
            return
        entry.exit_unix_ns = at_unix_ns
        self._ended.append((at_unix_ns, entry))

    def end_all(self, at_unix_ns: int) -> None:
        """The host started anew."""
        for entry in self._entries.values():
            self.end(entry, at_unix_ns)

    def expire(self, before_unix_ns: int) -> None:
        """Drop what ended before this, unless a child of it is held."""
        ended = self._ended
        while ended and ended[0][0] < before_unix_ns:
            entry = ended.popleft()[1]
            if self._entries.get(entry.uid) is not entry:
                continue
            if entry.children > 0:
                entry.retired = True
                self._retired[entry.uid] = None
            else:
                self._remove(entry)

    def _remove(self, entry: ProcessEntry) -> None:
        gone: ProcessEntry | None = entry
        while gone is not None:
            del self._entries[gone.uid]
            self._retired.pop(gone.uid, None)
            if self._by_pid.get(gone.pid) is gone:
                del self._by_pid[gone.pid]
            parent = self._entries.get(gone.parent_uid)
            if parent is None:
                return
            if parent.children > 0:
                parent.children -= 1
            gone = parent if parent.retired and parent.children == 0 else None

    def _evict(self) -> None:
        """Make room: the longest ended, else an ancestor kept for its children, else the oldest running ones."""
        while self._ended:
            entry = self._ended.popleft()[1]
            if self._entries.get(entry.uid) is entry and not entry.retired:
                self._give_up(entry)
                return
        if self._retired:
            self._give_up(self._entries[next(iter(self._retired))])
            return
        # Several at once: reaching a dict's first key costs as much as was deleted before it.
        for entry in list(islice(self._entries.values(), _EVICTED_AT_ONCE)):
            if self._entries.get(entry.uid) is entry:
                self._give_up(entry)

    def _give_up(self, entry: ProcessEntry) -> None:
        self.evicted_total += 1
        self._remove(entry)
