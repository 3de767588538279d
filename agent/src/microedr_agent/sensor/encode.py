"""Decoded samples become AgentEvents, as bytes.

What the events of one process share (its name, its Process message, its container) is written once and kept with
it, see ``Process.block``. Not here: what a frame begins with, and the sensor's own events (``own_events``).
"""

import os
import struct
from collections.abc import Callable
from functools import lru_cache

from microedr.limits import MAX_ARGV_BYTES
from microedr_agent.sensor import fields as f
from microedr_agent.sensor.clock import WallClock
from microedr_agent.sensor.decode import ExecSample, ExitSample, ForkSample, NetSample, Sample
from microedr_agent.sensor.layout import Flag, Kind
from microedr_agent.sensor.processes import Process, ProcessTable
from microedr_agent.sensor.text import cut, split_strings
from microedr_agent.sensor.users import Users
from microedr_agent.sensor.wire import message, number, pack_fixed64, text, texts, varint

LATER_CMDLINE_BYTES = 256
"""Of a command line, on events other than the exec: the contract's limit."""

MAX_PATH_BYTES = 4096
"""PATH_MAX; bad bytes written out can make a path longer."""

_MINOR_BITS = 20
_MINOR_MASK = (1 << _MINOR_BITS) - 1
_SIGNAL_MASK = 0x7F
_EGRESS, _INGRESS = 1, 2
_PHASES = {
    int(Kind.CONNECT): number(f.N_PHASE, 1),
    int(Kind.ACCEPT): number(f.N_PHASE, 1),
    int(Kind.CONNECT_FAILED): number(f.N_PHASE, 2),
    int(Kind.CLOSE): number(f.N_PHASE, 3),
}
_TCP = text(f.N_PROTO, b"tcp")
_stamps = struct.Struct("<BQBQ").pack
_CUT_FIELDS = (
    (Flag.ARGV_CUT | Flag.ARGV_LOST, (b"process.cmdline", b"proc_exec.argv")),
    (Flag.EXE_CUT, (b"process.exe",)),
    (Flag.CWD_CUT, (b"process.cwd",)),
    (Flag.ENV_CUT | Flag.ENV_LOST, (b"proc_exec.env_keys",)),
    (Flag.FILENAME_CUT, (b"proc_exec.filename",)),
)


class Encoder:
    """Writes events; keeps the table of processes true while it does."""

    def __init__(self, processes: ProcessTable, users: Users, clock: WallClock) -> None:
        self._processes = processes
        self._users = users
        self._clock = clock

    def encode(self, sample: Sample, seqno: int) -> bytes:
        """An AgentEvent with this sequence."""
        boot_ns = sample.header.boot_ns
        body = _WRITERS[type(sample)](self, sample)
        return b"".join((self.stamp(seqno, boot_ns), body))

    def stamp(self, seqno: int, boot_ns: int) -> bytes:
        """What each event begins with."""
        return b"".join(
            (
                f.SEQNO,
                varint(seqno),
                _stamps(f.TIMESTAMP_UNIX_NS, boot_ns + self._clock.offset_ns, f.TIMESTAMP_BOOT_NS, boot_ns),
            )
        )

    def _exec(self, sample: ExecSample) -> bytes:
        whole = b" ".join(sample.argv)
        cmdline = cut(whole, MAX_ARGV_BYTES)
        process = self._processes.exec(sample, cmdline)
        block = self._block(process, cmdline, sample.header.flags | (Flag.ARGV_CUT if cmdline != whole else 0))
        if len(cmdline) <= LATER_CMDLINE_BYTES and not sample.header.flags:
            process.block = block
        return block + message(
            f.PROC_EXEC,
            texts(f.X_ARGV, sample.argv),
            _env_keys(sample.env_names),
            text(f.X_PARENT_EXE, process.parent_exe),
            text(f.X_TTY, sample.tty),
            number(f.X_SESSION_ID, sample.session_id),
            text(f.X_FILENAME, sample.filename),
            number(f.X_EXE_INODE, sample.exe_inode),
            number(f.X_EXE_DEV, _user_space_dev(sample.exe_dev)),
            number(f.X_EXE_MODE, sample.exe_mode),
            number(f.X_EXE_NLINK, sample.exe_nlink),
            number(f.X_CAPABILITIES, sample.effective_capabilities),
            _namespaces(sample.pid_ns, sample.mnt_ns, sample.net_ns),
            number(f.X_SOCKET_STDIO, sample.socket_stdio),
        )

    def _fork(self, sample: ForkSample) -> bytes:
        creator, child = self._processes.fork(sample)
        return self._later_block(creator) + message(
            f.PROC_FORK,
            number(f.F_CHILD_PID, child.pid),
            text(f.F_CHILD_UID, child.process_uid),
            f.F_CHILD_START,
            pack_fixed64(child.start_boot_ns),
        )

    def _exit(self, sample: ExitSample) -> bytes:
        header = sample.header
        process = self._processes.exit(header)
        signal = sample.wait_status & _SIGNAL_MASK
        return self._later_block(process) + message(
            f.PROC_EXIT,
            number(f.E_CODE, sample.wait_status >> 8 & 0xFF),
            number(f.E_SIGNAL, signal),
            number(f.E_READ_BYTES, sample.read_bytes),
            number(f.E_WRITTEN_BYTES, sample.written_bytes),
            number(f.E_DURATION_NS, max(header.boot_ns - header.start_boot_ns, 0)),
        )

    def _net(self, sample: NetSample) -> bytes:
        process = self._processes.of(sample.header)
        return self._later_block(process) + message(
            f.NET_CONN,
            _TCP,
            number(f.N_DIRECTION, _INGRESS if sample.ingress else _EGRESS),
            _PHASES[sample.header.kind],
            text(f.N_SRC_IP, sample.local),
            number(f.N_SRC_PORT, sample.local_port),
            text(f.N_DST_IP, sample.remote),
            number(f.N_DST_PORT, sample.remote_port),
            number(f.N_BYTES_OUT, sample.bytes_out),
            number(f.N_BYTES_IN, sample.bytes_in),
            number(f.N_DURATION_NS, sample.duration_ns),
        )

    def _later_block(self, process: Process) -> bytes:
        """The process on an event other than its exec."""
        block = process.block
        if block is None:
            cmdline = cut(process.cmdline, LATER_CMDLINE_BYTES)
            was_cut = len(cmdline) < len(process.cmdline)
            block = process.block = self._block(process, cmdline, 0, cmdline_only=was_cut)
        return block

    def _block(self, process: Process, cmdline: bytes, flags: int, *, cmdline_only: bool = False) -> bytes:
        container = number(f.CONTAINER_CGROUP_ID, process.cgroup_id) if process.in_container else b""
        return b"".join(
            (
                text(f.PROCESS_UID, process.process_uid),
                message(f.CONTAINER, container) if container else b"",
                message(
                    f.PROCESS,
                    number(f.P_PID, process.pid),
                    number(f.P_PPID, process.ppid),
                    f.P_START_UNIX_NS,
                    pack_fixed64(process.start_boot_ns + self._clock.offset_ns),
                    f.P_START_BOOT_NS,
                    pack_fixed64(process.start_boot_ns),
                    text(f.P_EXE, cut(process.exe, MAX_PATH_BYTES)),
                    text(f.P_COMM, process.comm),
                    text(f.P_CMDLINE, cmdline),
                    text(f.P_CWD, cut(process.cwd, MAX_PATH_BYTES)),
                    text(f.P_USER, self._users.name(process.uid)),
                    number(f.P_UID, process.uid),
                    number(f.P_GID, process.gid),
                    number(f.P_EUID, process.euid),
                    number(f.P_LOGIN_UID, process.login_uid),
                    text(f.P_PARENT_UID, process.parent_process_uid),
                    text(f.P_PARENT_EXE, cut(process.parent_exe, MAX_PATH_BYTES)),
                    text(f.P_PARENT_CMDLINE, process.parent_cmdline),
                ),
                _TRUNCATED_CMDLINE if cmdline_only else _truncated(flags),
            )
        )


_WRITERS: dict[type, Callable[[Encoder, Sample], bytes]] = {
    ExecSample: Encoder._exec,  # type: ignore[dict-item]  # noqa: SLF001 - each writer takes the type it stands beside
    ForkSample: Encoder._fork,  # type: ignore[dict-item]  # noqa: SLF001 - as above
    ExitSample: Encoder._exit,  # type: ignore[dict-item]  # noqa: SLF001 - as above
    NetSample: Encoder._net,  # type: ignore[dict-item]  # noqa: SLF001 - as above
}


@lru_cache(maxsize=64)
def _truncated(flags: int) -> bytes:
    return texts(f.TRUNCATED, [name for flag, names in _CUT_FIELDS if flags & flag for name in names])


_TRUNCATED_CMDLINE = texts(f.TRUNCATED, [b"process.cmdline"])


@lru_cache(maxsize=256)
def _env_keys(names: bytes) -> bytes:
    """Kept, because most processes have the environment of their parent."""
    return texts(f.X_ENV_KEYS, split_strings(names))


@lru_cache(maxsize=64)
def _namespaces(pid: int, mnt: int, net: int) -> bytes:
    return message(f.X_NAMESPACES, number(f.NS_PID, pid), number(f.NS_MNT, mnt), number(f.NS_NET, net))


@lru_cache(maxsize=64)
def _user_space_dev(kernel_dev: int) -> int:
    """The number that stat(2) gives for it."""
    return os.makedev(kernel_dev >> _MINOR_BITS, kernel_dev & _MINOR_MASK)
