"""How fast the correlator folds frames of 1000 hosts, decoding included: events per second of one core.

Frames of 100 events are made beforehand: process starts, forks, ends and connections in the mix of a busy server.
Each run folds the same frames into fresh windows of one partition.
"""

import random
import time
from collections.abc import Iterator

from tools.bench.report import report

from microedr import headers, ids
from microedr.batch import decode_batch, encode_batch
from microedr.v1.event_pb2 import (
    NET_DIRECTION_EGRESS,
    NET_PHASE_CLOSE,
    NET_PHASE_OPEN,
    AgentEvent,
    EventBatch,
    Host,
    NetConn,
    Process,
    ProcExec,
)
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord
from microedr_chassis.collector import relax_collector
from microedr_chassis.settings import load_settings
from microedr_correlator.clock import SystemClock
from microedr_correlator.partition import Partition
from microedr_correlator.settings import CorrelatorSettings

HOSTS = 1000
FRAMES_PER_HOST = 4
EVENTS_PER_FRAME = 100
RUNS = 5
TARGET = 100_000
START_UNIX_NS = 1_760_000_000_000_000_000
KINDS = ("fork", "exec", "exit", "open", "close", "write")
WEIGHTS = (22, 20, 22, 14, 14, 8)
_COMMANDS = (
    "/usr/bin/curl -fsS http://127.0.0.1:8080/healthz",
    "/bin/sh -c /opt/app/bin/check --interval 10 --target db-{n}.internal",
    "/usr/lib/jvm/bin/java -Xmx2g -cp /opt/app/lib/app.jar:/opt/app/lib/dep-{n}.jar com.example.Worker",
    "/usr/bin/runc --root /run/containerd/runc/k8s.io --log-format json exec --pid-file /run/p{n}.pid",
    "/usr/bin/python3 /srv/jobs/job.py --shard {n}",
)


class MadeUpHost:
    """A host with a few hundred processes that come and go."""

    def __init__(self, number: int) -> None:
        self.host_id = f"host-{number:04d}"
        self._random = random.Random(number)  # noqa: S311 - the same load in every run
        self._key = ids.process_key(self.host_id, "boot")
        self._running = [100]
        self._next_pid = 101
        self._seqno = 0
        self._now_unix_ns = START_UNIX_NS

    def frame(self, offset: int) -> ConsumedRecord:
        """The next hundred events."""
        first = self._seqno + 1
        batch = EventBatch(events=[self._event() for _ in range(EVENTS_PER_FRAME)])
        batch.events[0].host.CopyFrom(Host(host_id=self.host_id, hostname=self.host_id, boot_id="boot"))
        beside = {
            headers.TENANT: b"bench",
            headers.HOST: self.host_id.encode(),
            headers.EPOCH: b"00000000-0000-4000-8000-000000000000",
            headers.LANE: b"0",
            headers.FIRST_SEQ: b"%d" % first,
            headers.RECEIVED_UNIX_NS: b"%d" % self._now_unix_ns,
        }
        at_ms = self._now_unix_ns // 1_000_000
        return ConsumedRecord(topics.EVENTS, 0, offset, at_ms, self.host_id.encode(), encode_batch(batch), beside)

    def _event(self) -> AgentEvent:
        self._seqno += 1
        self._now_unix_ns += 40_000_000
        pid = self._random.choice(self._running)
        kind = self._random.choices(KINDS, WEIGHTS)[0]
        event = AgentEvent(
            seqno=self._seqno,
            timestamp_unix_ns=self._now_unix_ns,
            timestamp_boot_ns=self._now_unix_ns - START_UNIX_NS,
            process_uid=self._uid(pid),
            process=self._block(pid),
        )
        self._fill(event, kind, pid)
        return event

    def _fill(self, event: AgentEvent, kind: str, pid: int) -> None:
        if kind == "fork":
            child = self._next_pid
            self._next_pid += 1
            self._running.append(child)
            event.proc_fork.child_pid = child
            event.proc_fork.child_process_uid = self._uid(child)
        elif kind == "exec":
            event.proc_exec.CopyFrom(
                ProcExec(argv=event.process.cmdline.split(), env_keys=["PATH", "HOME", "LANG"], tty="pts0")
            )
        elif kind == "exit" and len(self._running) > 1:
            self._running.remove(pid)
            event.proc_exit.exit_code = 0
        elif kind == "write":
            event.file_write.path = "/var/lib/app/state"
        else:
            event.net_conn.CopyFrom(self._connection(kind))

    def _connection(self, kind: str) -> NetConn:
        return NetConn(
            proto="tcp",
            direction=NET_DIRECTION_EGRESS,
            phase=NET_PHASE_CLOSE if kind == "close" else NET_PHASE_OPEN,
            src_ip=b"\x0a\x00\x00\x01",
            src_port=self._random.randrange(32768, 60999),
            dst_ip=bytes((10, 0, 1, self._random.randrange(40))),
            dst_port=443,
        )

    def _block(self, pid: int) -> Process:
        cmdline = _COMMANDS[pid % len(_COMMANDS)].format(n=pid)
        return Process(
            pid=pid,
            ppid=pid // 2,
            start_unix_ns=START_UNIX_NS,
            start_boot_ns=pid * 1_000_000_000,
            exe=cmdline.split()[0],
            comm=cmdline.split()[0].rpartition("/")[2][:15],
            cmdline=cmdline,
            cwd="/srv",
            user="app",
            uid=1000,
            parent_process_uid=self._uid(pid // 2),
        )

    def _uid(self, pid: int) -> bytes:
        return ids.process_uid(self._key, pid, pid * 1_000_000_000)


def make_frames() -> list[ConsumedRecord]:
    """Of all hosts in turn."""
    hosts = [MadeUpHost(number) for number in range(HOSTS)]
    return [host.frame(offset) for offset, host in enumerate(_turns(hosts))]


def fold(frames: list[ConsumedRecord]) -> float:
    """Events per second of CPU."""
    settings = load_settings(CorrelatorSettings, bus="memory:")
    partition = Partition(settings, SystemClock())
    began_s = time.process_time()
    for frame in frames:
        partition.consume(frame)
    return len(frames) * EVENTS_PER_FRAME / (time.process_time() - began_s)


def decode_only(frames: list[ConsumedRecord]) -> float:
    """The bound: nothing but decoding."""
    began_s = time.process_time()
    for frame in frames:
        decode_batch(frame.value)
    return len(frames) * EVENTS_PER_FRAME / (time.process_time() - began_s)


def main() -> None:
    """Measure and report."""
    frames = make_frames()
    relax_collector()  # as the service does
    size_bytes = sum(len(frame.value) for frame in frames) / len(frames) / EVENTS_PER_FRAME
    fold(frames)  # warms caches and the allocator
    values = []
    for run in range(RUNS):
        values.append(fold(frames))
        print(f"correlator: run {run + 1} of {RUNS}: {values[-1]:,.0f} events/s", flush=True)
    report(
        "correlator",
        values,
        unit="events/s",
        target=TARGET,
        higher_is_better=True,
        baseline=decode_only(frames),
        baseline_is="protobuf decode of the same frames",
        notes=f"{HOSTS} hosts, frames of {EVENTS_PER_FRAME} events of {size_bytes:.0f} bytes, per second of CPU",
    )


def _turns(hosts: list[MadeUpHost]) -> Iterator[MadeUpHost]:
    for _ in range(FRAMES_PER_HOST):
        yield from hosts


if __name__ == "__main__":
    main()
