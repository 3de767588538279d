"""The memory of one host: its processes, where they connected to, and which events of it were seen.

``fold`` takes events in the order of the bus; time is event time, held to the time of receipt. No I/O, no clock.
"""

from collections.abc import Callable, Container, Sequence

from microedr.v1.event_pb2 import (
    NET_DIRECTION_EGRESS,
    NET_PHASE_CLOSE,
    AgentEvent,
)
from microedr_correlator.destinations import DestinationTable, Remote
from microedr_correlator.eventtime import MAX_SKEW_NS, WINDOW_NS
from microedr_correlator.marks import Gaps, LaneMarks
from microedr_correlator.processes import MAX_EXEC_BYTES, Origin, ProcessEntry, ProcessTable

_Step = Callable[[AgentEvent, int, Origin], None]


class HostWindow:
    """What is remembered of one host. One event costs O(1)."""

    def __init__(self, watched: Container[bytes] = (), ended: list[ProcessEntry] | None = None) -> None:
        """Make an empty one.

        Args:
            watched: Processes whose end someone waits for; may change at any time.
            ended: Takes those of them that end.
        """
        self._watched = watched
        self._ended = ended if ended is not None else []
        self.processes = ProcessTable()
        self.destinations = DestinationTable()
        self.marks = LaneMarks()
        self.gaps = Gaps()
        self.hostname = ""
        self.now_unix_ns = 0
        """The newest event time seen, after clamping: the host's watermark."""
        self.received_unix_ns = 0
        """When the newest frame was received."""
        self.duplicates_total = 0
        self.missing_total = 0
        self._boot_id = ""
        self._boot_seen_unix_ns = 0
        self._steps: dict[str, _Step] = {
            "proc_exec": self._exec,
            "proc_fork": self._fork,
            "proc_exit": self._exit,
            "net_conn": self._connect,
            "loss": self._lose,
        }

    @property
    def horizon_unix_ns(self) -> int:
        """The far end of the window."""
        return self.now_unix_ns - WINDOW_NS

    @property
    def evicted_total(self) -> int:
        """Entries given up because of a cap."""
        return self.processes.evicted_total + self.destinations.evicted_total

    def fold(self, events: Sequence[AgentEvent], origin: Origin, first_seq: int, received_unix_ns: int) -> int:
        """Take in a frame; returns how many events were new.

        Args:
            events: Dense in sequence, in order.
            origin: The epoch and lane they stand in.
            first_seq: Of the first event.
            received_unix_ns: When ingest took the frame.
        """
        is_new_origin = origin not in self.marks
        skip, missing = self.marks.admit(origin, first_seq, first_seq + len(events) - 1)
        origin = self.marks.same(origin)
        if skip:
            self.duplicates_total += skip
            events = events[skip:]
        if not events:
            return 0
        low, high = received_unix_ns - MAX_SKEW_NS, received_unix_ns + MAX_SKEW_NS
        self.received_unix_ns = received_unix_ns
        if is_new_origin:
            self._begin_origin(events[0], low)
        if missing:
            self.missing_total += missing
            self.gaps.add_missing(self.now_unix_ns, missing)
        now = max(self.now_unix_ns, low)
        high = max(high, now)
        steps = self._steps
        for event in events:
            at = event.timestamp_unix_ns
            if at > now:
                now = min(high, at)
            # Entries are stamped with the watermark: what expires first then stands first in every queue.
            step = steps.get(event.WhichOneof("kind") or "")
            if step is not None:
                step(event, now, origin)
        self.now_unix_ns = now
        self.processes.expire(now - WINDOW_NS)
        self.destinations.expire(now - WINDOW_NS)
        return len(events)

    def _begin_origin(self, first: AgentEvent, at_unix_ns: int) -> None:
        """A sensor started, or its frames are met for the first time: after a reboot nothing of before still runs."""
        host = first.host
        if host.hostname:
            self.hostname = host.hostname
        # What an earlier boot left in the spool can come after the first frames of a later one.
        if host.boot_id and host.boot_id != self._boot_id and first.timestamp_unix_ns > self._boot_seen_unix_ns:
            if self._boot_id:
                self.processes.end_all(max(self.now_unix_ns, at_unix_ns))
            self._boot_id = host.boot_id
            self._boot_seen_unix_ns = first.timestamp_unix_ns

    def _exec(self, event: AgentEvent, at_unix_ns: int, origin: Origin) -> None:
        process = event.process
        uid = event.process_uid
        if not uid:
            return
        entry = self.processes.get(uid)
        if entry is None:
            start_unix_ns = process.start_unix_ns or event.timestamp_unix_ns
            entry = ProcessEntry(uid, process.pid, process.ppid, process.parent_process_uid, start_unix_ns)
            self.processes.add(entry, at_unix_ns)
        record = event.SerializeToString()
        if len(record) > MAX_EXEC_BYTES:
            entry.exec_event, entry.exec_origin = b"", None
            entry.block = process.SerializeToString()
            return
        entry.exec_event = record
        entry.exec_origin = origin
        entry.block = b""

    def _fork(self, event: AgentEvent, at_unix_ns: int, _origin: Origin) -> None:
        parent = self._known(event, at_unix_ns)
        fork = event.proc_fork
        uid = fork.child_process_uid
        if not uid or self.processes.get(uid) is not None:
            return
        child = ProcessEntry(uid, fork.child_pid, parent.pid, parent.uid, event.timestamp_unix_ns)
        # The child runs the parent's image until it execs.
        child.exec_event = parent.exec_event
        child.exec_origin = parent.exec_origin
        child.block = parent.block
        self.processes.add(child, at_unix_ns)

    def _exit(self, event: AgentEvent, at_unix_ns: int, origin: Origin) -> None:
        entry = self._known(event, at_unix_ns)
        entry.exit_origin = origin
        entry.exit_seqno = event.seqno
        self.processes.end(entry, at_unix_ns)
        entry.exit_unix_ns = event.timestamp_unix_ns or at_unix_ns
        if entry.uid in self._watched:
            self._ended.append(entry)

    def _connect(self, event: AgentEvent, at_unix_ns: int, _origin: Origin) -> None:
        conn = event.net_conn
        if conn.direction != NET_DIRECTION_EGRESS:
            return
        uid = event.process_uid
        if not uid:
            return
        if self.processes.get(uid) is None:
            self._known(event, at_unix_ns)
        self.destinations.add(
            uid,
            Remote(conn.dst_ip, conn.dst_port, conn.proto),
            event.timestamp_unix_ns,
            at_unix_ns,
            opened=conn.phase != NET_PHASE_CLOSE,
        )

    def _lose(self, event: AgentEvent, at_unix_ns: int, _origin: Origin) -> None:
        self.gaps.add_loss(at_unix_ns, event.loss)

    def _known(self, event: AgentEvent, at_unix_ns: int) -> ProcessEntry:
        """The process the event is about; one that started before the window is taken in as the event tells it."""
        uid = event.process_uid
        entry = self.processes.get(uid)
        if entry is None:
            process = event.process
            entry = ProcessEntry(uid, process.pid, process.ppid, process.parent_process_uid, process.start_unix_ns)
            entry.block = process.SerializeToString()
            if uid:
                self.processes.add(entry, at_unix_ns)
        return entry
