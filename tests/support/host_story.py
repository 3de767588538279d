"""Tells what happens on a made-up host, as the events and matches that a real one would cause."""

import itertools
import uuid
from dataclasses import dataclass, field
from typing import Any

from microedr import headers, ids
from microedr.batch import encode_batch
from microedr.v1.action_pb2 import ActionState, ActionType, ActionUpdate, ProcessTarget
from microedr.v1.detection_pb2 import SEVERITY_HIGH, Match, RuleRef
from microedr.v1.event_pb2 import (
    NET_DIRECTION_EGRESS,
    NET_PHASE_OPEN,
    AgentEvent,
    EventBatch,
    Host,
    LossReason,
    LossRecord,
    NetConn,
    Process,
    ProcExec,
    ProcExit,
    ProcFork,
)
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Record

START_UNIX_NS = 1_760_000_400_000_000_000 - 1_760_000_400_000_000_000 % (900 * 10**9)
"""The start of an alert bucket."""

S = 1_000_000_000


@dataclass
class HostStory:
    """One host. Methods that name something that happens return its event; ``frame`` seals what happened since."""

    host_id: str = "host-a"
    tenant_id: str = "acme"
    boot_id: str = "boot-1"
    epoch_id: str = field(default_factory=lambda: str(uuid.UUID(int=1)))
    lane: int = 0
    now_unix_ns: int = START_UNIX_NS
    events: list[AgentEvent] = field(default_factory=list)
    _seq: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _first: int = 1

    def uid(self, pid: int) -> bytes:
        """Every pid is used once and started at its own number of seconds."""
        return ids.process_uid(ids.process_key(self.host_id, self.boot_id), pid, pid * S)

    def process(self, pid: int, ppid: int, exe: str = "", cmdline: str = "", user: str = "root") -> Process:
        """The block that tells of ``pid``."""
        return Process(
            pid=pid,
            ppid=ppid,
            exe=exe,
            cmdline=cmdline,
            user=user,
            start_boot_ns=pid * S,
            start_unix_ns=self.now_unix_ns,
            parent_process_uid=self.uid(ppid) if ppid else b"",
        )

    def exec(self, pid: int, ppid: int, exe: str = "/bin/sh", cmdline: str = "sh", **process: Any) -> AgentEvent:
        """``pid``, a child of ``ppid``, runs ``exe``."""
        event = self._event(pid, ppid, exe=exe, cmdline=cmdline, **process)
        event.proc_exec.CopyFrom(ProcExec(argv=cmdline.split(), filename=exe))
        return event

    def fork(self, pid: int, child: int) -> AgentEvent:
        """``pid`` starts ``child``."""
        event = self._event(pid, 0)
        event.proc_fork.CopyFrom(
            ProcFork(child_pid=child, child_process_uid=self.uid(child), child_start_boot_ns=child * S)
        )
        return event

    def exit(self, pid: int, code: int = 0) -> AgentEvent:
        """``pid`` ends."""
        event = self._event(pid, 0)
        event.proc_exit.CopyFrom(ProcExit(exit_code=code))
        return event

    def connect(self, pid: int, last_octet: int = 7, port: int = 443) -> AgentEvent:
        """``pid`` connects to 203.0.113.x."""
        event = self._event(pid, 0)
        event.net_conn.CopyFrom(
            NetConn(
                proto="tcp",
                direction=NET_DIRECTION_EGRESS,
                phase=NET_PHASE_OPEN,
                dst_ip=bytes((203, 0, 113, last_octet)),
                dst_port=port,
            )
        )
        return event

    def lose(self, count: int, reason: LossReason.ValueType) -> AgentEvent:
        """The agent says that it lost events."""
        event = self._event(0, 0)
        event.ClearField("process")
        event.ClearField("process_uid")
        event.loss.CopyFrom(LossRecord(count=count, reason=reason))
        return event

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_unix_ns += int(seconds * S)

    def skip(self, count: int) -> None:
        """Events that were recorded and lost."""
        assert not self.events
        for _ in range(count):
            self._first = next(self._seq) + 1

    def frame(self) -> Record:
        """What happened since the last frame, as ingest publishes it."""
        batch = EventBatch(events=self.events)
        first, count = self._first, len(self.events)
        batch.events[0].host.CopyFrom(Host(host_id=self.host_id, hostname=f"{self.host_id}.test", boot_id=self.boot_id))
        self.events = []
        self._first = first + count
        return Record(
            topics.EVENTS,
            self.host_id.encode(),
            encode_batch(batch),
            {
                **self.headers(),
                headers.EPOCH: self.epoch_id.encode(),
                headers.LANE: b"%d" % self.lane,
                headers.FIRST_SEQ: b"%d" % first,
                headers.LAST_SEQ: b"%d" % (first + count - 1),
                headers.COUNT: b"%d" % count,
                headers.RECEIVED_UNIX_NS: b"%d" % self.now_unix_ns,
            },
        )

    def headers(self) -> dict[str, bytes]:
        """Those of every topic."""
        return {
            headers.TENANT: self.tenant_id.encode(),
            headers.HOST: self.host_id.encode(),
            headers.TRACE: b"trace",
        }

    def match(self, event: AgentEvent, rule_id: str = "rule-1", **rule: Any) -> Record:
        """A rule fired on ``event``, as detector publishes it."""
        whole = AgentEvent.FromString(event.SerializeToString())
        whole.event_id = ids.event_id(self.host_id, self.epoch_id, self.lane, event.seqno)
        match = Match(
            match_id=ids.match_id(rule_id, whole.event_id),
            tenant_id=self.tenant_id,
            host_id=self.host_id,
            rule=RuleRef(rule_id=rule_id, title=f"Title of {rule_id}", severity=SEVERITY_HIGH, confidence=0.8, **rule),
            event=whole,
            epoch_id=self.epoch_id,
            lane=self.lane,
            trace_id="trace",
            matched_unix_ns=self.now_unix_ns,
        )
        return Record(topics.MATCHES, self.host_id.encode(), match.SerializeToString(), self.headers())

    def step(self, topic: str, state: ActionState.ValueType, pid: int, *, with_target: bool = True) -> Record:
        """A step in the life of a kill of ``pid``; the action is named after it."""
        update = ActionUpdate(
            action_id=f"kill-{pid}",
            tenant_id=self.tenant_id,
            host_id=self.host_id,
            state=state,
            at_unix_ns=self.now_unix_ns,
        )
        if with_target:
            update.type = ActionType.ACTION_TYPE_KILL_PROCESS
            update.alert_id = f"alert-{pid}"
            update.process.CopyFrom(ProcessTarget(pid=pid, process_uid=self.uid(pid), start_boot_ns=pid * S))
        return Record(topic, self.host_id.encode(), update.SerializeToString(), self.headers())

    def _event(self, pid: int, ppid: int, **process: Any) -> AgentEvent:
        event = AgentEvent(
            seqno=next(self._seq),
            timestamp_unix_ns=self.now_unix_ns,
            timestamp_boot_ns=self.now_unix_ns - START_UNIX_NS,
            process_uid=self.uid(pid),
            process=self.process(pid, ppid, **process),
        )
        self.events.append(event)
        return event
