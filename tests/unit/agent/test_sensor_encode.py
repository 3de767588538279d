"""What the sensor writes by hand is what the protobuf library writes from the same facts."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from microedr import ids
from microedr.limits import MAX_EVENT_BYTES, PROCESS_TICK_NS
from microedr.v1.event_pb2 import (
    Agent,
    AgentEvent,
    AgentHeartbeat,
    Container,
    Host,
    LossRecord,
    Namespaces,
    NetConn,
    Process,
    ProcExec,
    ProcExit,
    ProcFork,
)
from microedr_agent.sensor import layout, own_events
from microedr_agent.sensor.clock import WallClock
from microedr_agent.sensor.decode import decode
from microedr_agent.sensor.encode import Encoder
from microedr_agent.sensor.layout import Kind
from microedr_agent.sensor.own_events import Heartbeat, HostFacts, LossReport
from microedr_agent.sensor.processes import ProcessTable
from microedr_agent.sensor.users import Users
from microedr_agent.sensor.wire import varint
from support.samples import (
    BOOT_NS,
    PARENT_START_NS,
    START_NS,
    components,
    exec_sample,
    exit_sample,
    fork_sample,
    net_sample,
)

KEY = ids.process_key("host-1", "boot-1")
OFFSET_NS = 1_700_000_000_000_000_000
UID = ids.process_uid(KEY, 4242, START_NS)
PARENT_UID = ids.process_uid(KEY, 4000, PARENT_START_NS)
ENVELOPE: dict[str, Any] = {
    "seqno": 300,
    "timestamp_unix_ns": OFFSET_NS + BOOT_NS,
    "timestamp_boot_ns": BOOT_NS,
    "process_uid": UID,
}


@pytest.fixture
def table() -> ProcessTable:
    return ProcessTable(KEY)


@pytest.fixture
def encoder(table: ProcessTable, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    passwd = tmp_path_factory.mktemp("etc") / "passwd"
    passwd.write_text("root:x:0:0:root:/root:/bin/sh\nana:x:1000:1001::/home/ana:/bin/sh\n")
    return made_encoder(table, Users(passwd))


def made_encoder(table: ProcessTable, users: Users) -> Encoder:
    clock = WallClock()
    clock.offset_ns = OFFSET_NS
    return Encoder(table, users, clock)


def parsed(raw: bytes) -> AgentEvent:
    event = AgentEvent.FromString(raw)
    assert not list(unknown_fields(event))
    return event


def unknown_fields(message: Message) -> Iterator[str]:
    """What a message, or one in it, holds under numbers that the contract does not know."""
    kept = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != kept:
        yield type(message).__name__


def process(**changes: Any) -> Process:
    """Process 4242 as after its exec, nothing known of its parent."""
    fields: dict[str, Any] = {
        "pid": 4242,
        "ppid": 4000,
        "start_unix_ns": OFFSET_NS + START_NS,
        "start_boot_ns": START_NS,
        "exe": "/usr/bin/dash",
        "comm": "sh",
        "cmdline": "sh -c id",
        "cwd": "/tmp",
        "user": "ana",
        "uid": 1000,
        "gid": 1001,
        "euid": 0,
        "login_uid": 1000,
        "parent_process_uid": PARENT_UID,
    }
    return Process(**(fields | changes))


def test_an_exec_is_what_the_library_writes(encoder: Encoder) -> None:
    event = parsed(encoder.encode(decode(exec_sample()), 300))

    assert event == AgentEvent(
        **ENVELOPE,
        process=process(),
        proc_exec=ProcExec(
            argv=["sh", "-c", "id"],
            env_keys=["HOME", "PATH"],
            tty="pts3",
            session_id=3,
            filename="/bin/sh",
            exe_inode=123456,
            exe_dev=os.makedev(254, 1),
            exe_mode=0o100755,
            exe_nlink=1,
            effective_capabilities=0x1FF_FFFF_FFFF,
            namespaces=Namespaces(pid=0xEFFF_FFFC, mnt=0xF000_0001, net=0xF000_0002),
            socket_stdio=0b101,
        ),
    )


def test_later_events_carry_what_the_exec_said(encoder: Encoder) -> None:
    encoder.encode(decode(exec_sample()), 1)

    exited = parsed(encoder.encode(decode(exit_sample()), 300))

    assert exited == AgentEvent(
        **ENVELOPE,
        process=process(),
        proc_exit=ProcExit(exit_code=3, read_bytes=1000, written_bytes=200, duration_ns=BOOT_NS - START_NS),
    )


def test_a_signal_is_no_exit_code(encoder: Encoder) -> None:
    killed = parsed(encoder.encode(decode(exit_sample(wait_status=9 | 0x80)), 300))

    assert (killed.proc_exit.exit_code, killed.proc_exit.signal) == (0, 9)


def test_a_fork_names_the_child_and_the_child_takes_after_its_parent(encoder: Encoder) -> None:
    encoder.encode(decode(exec_sample()), 1)
    child_start_ns = BOOT_NS - 1000
    forked = parsed(encoder.encode(decode(fork_sample()), 300))
    child: dict[str, Any] = {
        "pid": 4300,
        "start_boot_ns": child_start_ns,
        "ppid": 4242,
        "parent_start_boot_ns": START_NS,
    }
    connected = parsed(encoder.encode(decode(net_sample(**child)), 301))

    child_uid = ids.process_uid(KEY, 4300, child_start_ns)
    assert forked.proc_fork == ProcFork(child_pid=4300, child_process_uid=child_uid, child_start_boot_ns=child_start_ns)
    assert (forked.process, forked.process_uid) == (process(), UID)
    assert connected.process_uid == child_uid
    assert connected.process == process(
        pid=4300,
        ppid=4242,
        start_boot_ns=child_start_ns,
        start_unix_ns=OFFSET_NS + child_start_ns,
        parent_process_uid=UID,
        parent_exe="/usr/bin/dash",
        parent_cmdline="sh -c id",
    )


@pytest.mark.parametrize(
    ("kind", "phase"), [(Kind.CONNECT, 1), (Kind.ACCEPT, 1), (Kind.CONNECT_FAILED, 2), (Kind.CLOSE, 3)]
)
@pytest.mark.parametrize(("ingress", "direction"), [(0, 1), (1, 2)])
def test_a_connection_is_what_the_library_writes(
    encoder: Encoder, kind: int, phase: int, ingress: int, direction: int
) -> None:
    event = parsed(encoder.encode(decode(net_sample(kind=kind, ingress=ingress)), 300))

    assert event == AgentEvent(
        **ENVELOPE,
        process=process(exe="", cmdline="", cwd="", euid=1000, login_uid=0xFFFF_FFFF),
        net_conn=NetConn(
            proto="tcp",
            direction=direction,  # type: ignore[arg-type]
            phase=phase,  # type: ignore[arg-type]
            src_ip=bytes((10, 0, 0, 1)),
            src_port=40000,
            dst_ip=bytes((192, 0, 2, 7)),
            dst_port=443,
            bytes_out=11,
            bytes_in=22,
            duration_ns=333_000,
        ),
    )


def test_a_process_in_another_pid_namespace_runs_in_a_container(encoder: Encoder) -> None:
    event = parsed(encoder.encode(decode(exec_sample(pid_ns=4026532000)), 1))
    later = parsed(encoder.encode(decode(exit_sample()), 2))

    assert event.container == later.container == Container(cgroup_id=77)


def test_a_long_command_line_is_whole_on_the_exec_and_cut_afterwards(encoder: Encoder) -> None:
    argv = b"tool\0" + "é".encode() * 600 + b"\0"
    event = parsed(encoder.encode(decode(exec_sample(argv=argv)), 1))
    later = parsed(encoder.encode(decode(exit_sample()), 2))

    assert event.process.cmdline == "tool " + "é" * 600
    assert list(event.truncated_fields) == []
    assert later.process.cmdline == "tool " + "é" * 125
    assert list(later.truncated_fields) == ["process.cmdline"]


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        (layout.ARGV_CUT, ["process.cmdline", "proc_exec.argv"]),
        (layout.ARGV_LOST, ["process.cmdline", "proc_exec.argv"]),
        (layout.EXE_CUT, ["process.exe"]),
        (layout.CWD_CUT, ["process.cwd"]),
        (layout.ENV_CUT, ["proc_exec.env_keys"]),
        (layout.FILENAME_CUT, ["proc_exec.filename"]),
    ],
)
def test_what_was_cut_is_named(encoder: Encoder, flag: int, names: list[str]) -> None:
    event = parsed(encoder.encode(decode(exec_sample(flags=flag)), 1))

    assert list(event.truncated_fields) == names


def test_a_change_of_user_shows_on_the_next_event(encoder: Encoder) -> None:
    encoder.encode(decode(exec_sample()), 1)

    event = parsed(encoder.encode(decode(net_sample(uid=0, gid=0)), 2))

    assert (event.process.uid, event.process.euid, event.process.user) == (0, 0, "root")
    assert event.process.exe == "/usr/bin/dash"


def test_the_largest_sample_stays_within_the_contract(encoder: Encoder) -> None:
    worst: dict[str, Any] = {
        "exe": b"\xff" * 2047 + b"\0",
        "cwd": b"\xfe" * 2047 + b"\0",
        "argv": b"\xff" * 4096,
        "env_names": b"\xfd" * 2047 + b"\0",
        "filename": b"\xff" * 511 + b"\0",
    }
    encoder.encode(decode(exec_sample(pid=4000, start_boot_ns=PARENT_START_NS, **worst)), 1)

    assert len(encoder.encode(decode(exec_sample(**worst)), 2)) < MAX_EVENT_BYTES


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
def test_any_text_parses(argv: bytes, env_names: bytes, path: bytes) -> None:
    encoder = made_encoder(ProcessTable(KEY), Users())

    event = parsed(encoder.encode(decode(exec_sample(argv=argv, env_names=env_names, exe=path, cwd=path)), 1))

    assert event.process.pid == 4242


def test_heartbeats_and_losses_are_what_the_library_writes() -> None:
    beat = Heartbeat(
        phase="run",
        collector="ebpf",
        blind_spots=["io_uring"],
        attach_failures=["sys_exit_accept: ENOENT"],
        spool_pending_events=5,
        spool_bytes=1 << 33,
        kernel_seen_total=10**12,
        ring_dropped_total=3,
        emitted_total=7,
        acked_total=2,
        evicted_total=1,
        cpu_time_ns=10**10,
        rss_bytes=20 << 20,
    )
    told = LossReport(reason=2, count=4, detail="proc", lane=1, epoch_id="e", from_seq=3, to_seq=6)

    assert parsed(own_events.heartbeat(beat)).agent_heartbeat == AgentHeartbeat(**dataclasses.asdict(beat))
    assert parsed(own_events.loss(told)).loss == LossRecord(**dataclasses.asdict(told))


def test_the_head_of_a_frame_is_what_the_library_writes() -> None:
    facts = HostFacts(
        host_id="host-1",
        hostname="näme",
        os_version="Debian",
        kernel_version="6.1",
        architecture="x86_64",
        boot_id="boot",
        agent_version="0.1.0",
        collector="ebpf",
    )

    assert parsed(own_events.frame_head(facts)) == AgentEvent(
        host_id="host-1",
        hostname="näme",
        os="linux",
        host=Host(
            host_id="host-1",
            hostname="näme",
            os="linux",
            os_version="Debian",
            kernel_version="6.1",
            architecture="x86_64",
            boot_id="boot",
        ),
        agent=Agent(version="0.1.0", collector="ebpf"),
    )


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_what_the_library_writes(value: int) -> None:
    assert varint(value) == AgentEvent(seqno=value).SerializeToString()[1:] or value == 0


def test_proc_and_kernel_name_a_process_alike(table: ProcessTable) -> None:
    from_proc = table.add(1, START_NS // PROCESS_TICK_NS * PROCESS_TICK_NS)

    assert table.find(1, START_NS) is from_proc
    assert from_proc.process_uid == ids.process_uid(KEY, 1, START_NS)


def test_components_are_leaf_first() -> None:
    assert components("/usr/bin") == b"bin\0usr\0"
