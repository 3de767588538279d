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
from microedr_agent.sensor.layout import (
    ARGV_CUT,
    ARGV_LOST,
    CWD_CUT,
    ENV_CUT,
    ENV_LOST,
    EXE_CUT,
    FILENAME_CUT,
    Kind,
)
from microedr_agent.sensor.processes import Parent, Process, ProcessTable
from microedr_agent.sensor.text import cut, split_strings
from microedr_agent.sensor.users import Users
from microedr_agent.sensor.wire import (
    FIXED64,
    NUMBER,
    TEXT,
    message,
    number,
    pack_fixed64,
    template,
    text,
    texts,
    varint,
)

LATER_CMDLINE_BYTES = 256
"""Of a command line, on events other than the exec: the contract's limit."""

MAX_PATH_BYTES = 4096
"""PATH_MAX; bad bytes written out can make a path longer."""

_MINOR_BITS = 20
_MINOR_MASK = (1 << _MINOR_BITS) - 1
_SIGNAL_MASK = 0x7F
_EGRESS, _INGRESS = varint(1), varint(2)
_OPEN, _FAILED, _CLOSE = varint(1), varint(2), varint(3)
_PHASES = {
    int(Kind.CONNECT): _OPEN,
    int(Kind.ACCEPT): _OPEN,
    int(Kind.CONNECT_FAILED): _FAILED,
    int(Kind.CLOSE): _CLOSE,
}
_TCP = text(f.N_PROTO, b"tcp")
_stamps = struct.Struct("<BQBQ").pack
_CUT_FIELDS = (
    (ARGV_CUT | ARGV_LOST, (b"process.cmdline", b"proc_exec.argv")),
    (EXE_CUT, (b"process.exe",)),
    (CWD_CUT, (b"process.cwd",)),
    (ENV_CUT | ENV_LOST, (b"proc_exec.env_keys",)),
    (FILENAME_CUT, (b"proc_exec.filename",)),
)
_PROCESS = template(
    (f.P_PID, NUMBER),
    (f.P_START_UNIX_NS, FIXED64),
    (f.P_START_BOOT_NS, FIXED64),
    (f.P_EXE, TEXT),
    (f.P_COMM, TEXT),
    (f.P_CMDLINE, TEXT),
    (f.P_CWD, TEXT),
)
_IDENTITY = template(
    (f.P_USER, TEXT),
    (f.P_UID, NUMBER),
    (f.P_GID, NUMBER),
    (f.P_EUID, NUMBER),
    (f.P_LOGIN_UID, NUMBER),
)
_PARENT = template(
    (f.P_PPID, NUMBER),
    (f.P_PARENT_UID, TEXT),
    (f.P_PARENT_EXE, TEXT),
    (f.P_PARENT_CMDLINE, TEXT),
)
_EXEC = template((f.X_PARENT_EXE, TEXT), (f.X_TTY, TEXT), (f.X_FILENAME, TEXT))
_EXE = template((f.X_EXE_INODE, NUMBER), (f.X_EXE_DEV, NUMBER), (f.X_EXE_MODE, NUMBER), (f.X_EXE_NLINK, NUMBER))
_STANDING = template(
    (f.X_SESSION_ID, NUMBER), (f.X_CAPABILITIES, NUMBER), (f.X_SOCKET_STDIO, NUMBER), (f.X_NAMESPACES, TEXT)
)
_NAMESPACES = template((f.NS_PID, NUMBER), (f.NS_MNT, NUMBER), (f.NS_NET, NUMBER))
_FORK = template((f.F_CHILD_PID, NUMBER), (f.F_CHILD_UID, TEXT), (f.F_CHILD_START, FIXED64))
_EXIT = template(
    (f.E_CODE, NUMBER),
    (f.E_SIGNAL, NUMBER),
    (f.E_READ_BYTES, NUMBER),
    (f.E_WRITTEN_BYTES, NUMBER),
    (f.E_DURATION_NS, NUMBER),
)
_NET = _TCP + template(
    (f.N_DIRECTION, NUMBER),
    (f.N_PHASE, NUMBER),
    (f.N_SRC_IP, TEXT),
    (f.N_SRC_PORT, NUMBER),
    (f.N_DST_IP, TEXT),
    (f.N_DST_PORT, NUMBER),
    (f.N_BYTES_OUT, NUMBER),
    (f.N_BYTES_IN, NUMBER),
    (f.N_DURATION_NS, NUMBER),
)


class Encoder:
    """Writes events; keeps the table of processes true while it does."""

    def __init__(self, processes: ProcessTable, users: Users, clock: WallClock) -> None:
        self._processes = processes
        self._users = users
        self._clock = clock

    def encode(self, sample: Sample, seqno: int) -> bytes:
        """An AgentEvent with this sequence."""
        return self.stamp(seqno, sample.header.boot_ns) + _WRITERS[type(sample)](self, sample)

    def stamp(self, seqno: int, boot_ns: int) -> bytes:
        """What each event begins with."""
        unix_ns = boot_ns + self._clock.offset_ns
        return f.SEQNO + varint(seqno) + _stamps(f.TIMESTAMP_UNIX_NS, unix_ns, f.TIMESTAMP_BOOT_NS, boot_ns)

    def _exec(self, sample: ExecSample) -> bytes:
        whole = b" ".join(sample.argv)
        cmdline = cut(whole, MAX_ARGV_BYTES)
        flags = sample.header.flags
        if len(cmdline) < len(whole):
            flags |= ARGV_CUT
        process = self._processes.exec(sample, cmdline)
        block = self._block(process, cmdline, _truncated(flags))
        if len(cmdline) <= LATER_CMDLINE_BYTES and not flags:
            process.block = block
        tty, filename, parent_exe = sample.tty, sample.filename, cut(process.parent.exe, MAX_PATH_BYTES)
        facts = _EXEC % (varint(len(parent_exe)), parent_exe, varint(len(tty)), tty, varint(len(filename)), filename)
        return block + message(
            f.PROC_EXEC,
            texts(f.X_ARGV, sample.argv),
            _env_keys(sample.env_names),
            facts,
            _exe(sample.exe_inode, sample.exe_dev, sample.exe_mode, sample.exe_nlink),
            _standing(
                sample.effective_capabilities,
                sample.session_id,
                sample.pid_ns,
                sample.mnt_ns,
                sample.net_ns,
                sample.socket_stdio,
            ),
        )

    def _fork(self, sample: ForkSample) -> bytes:
        creator, child = self._processes.fork(sample)
        uid = child.process_uid
        payload = _FORK % (varint(child.pid), varint(len(uid)), uid, pack_fixed64(child.start_boot_ns))
        return self._later_block(creator) + message(f.PROC_FORK, payload)

    def _exit(self, sample: ExitSample) -> bytes:
        header = sample.header
        process = self._processes.exit(header)
        payload = _EXIT % (
            varint(sample.wait_status >> 8 & 0xFF),
            varint(sample.wait_status & _SIGNAL_MASK),
            varint(sample.read_bytes),
            varint(sample.written_bytes),
            varint(max(header.boot_ns - header.start_boot_ns, 0)),
        )
        return self._later_block(process) + message(f.PROC_EXIT, payload)

    def _net(self, sample: NetSample) -> bytes:
        process = self._processes.of(sample.header)
        payload = _NET % (
            _INGRESS if sample.ingress else _EGRESS,
            _PHASES[sample.header.kind],
            varint(len(sample.local)),
            sample.local,
            varint(sample.local_port),
            varint(len(sample.remote)),
            sample.remote,
            varint(sample.remote_port),
            varint(sample.bytes_out),
            varint(sample.bytes_in),
            varint(sample.duration_ns),
        )
        return self._later_block(process) + message(f.NET_CONN, payload)

    def _later_block(self, process: Process) -> bytes:
        """The process on an event other than its exec."""
        block = process.block
        if block is None:
            cmdline = cut(process.cmdline, LATER_CMDLINE_BYTES)
            was_cut = len(cmdline) < len(process.cmdline)
            block = process.block = self._block(process, cmdline, _TRUNCATED_CMDLINE if was_cut else b"")
        return block

    def _block(self, process: Process, cmdline: bytes, truncated: bytes) -> bytes:
        start_boot_ns = process.start_boot_ns
        exe, comm, cwd = cut(process.exe, MAX_PATH_BYTES), process.comm, cut(process.cwd, MAX_PATH_BYTES)
        own = _PROCESS % (
            varint(process.pid),
            pack_fixed64(start_boot_ns + self._clock.offset_ns),
            pack_fixed64(start_boot_ns),
            varint(len(exe)),
            exe,
            varint(len(comm)),
            comm,
            varint(len(cmdline)),
            cmdline,
            varint(len(cwd)),
            cwd,
        )
        identity = _identity(self._users.name(process.uid), process.uid, process.gid, process.euid, process.login_uid)
        parent = process.parent.block or _parent(process.parent)
        uid = process.process_uid
        container = _container(process.cgroup_id) if process.in_container else b""
        return b"".join(
            (
                f.PROCESS_UID,
                varint(len(uid)),
                uid,
                container,
                f.PROCESS,
                varint(len(own) + len(identity) + len(parent)),
                own,
                identity,
                parent,
                truncated,
            )
        )


_WRITERS: dict[type, Callable[[Encoder, Sample], bytes]] = {
    ExecSample: Encoder._exec,  # type: ignore[dict-item]  # noqa: SLF001 - each writer takes the type it stands beside
    ForkSample: Encoder._fork,  # type: ignore[dict-item]  # noqa: SLF001 - as above
    ExitSample: Encoder._exit,  # type: ignore[dict-item]  # noqa: SLF001 - as above
    NetSample: Encoder._net,  # type: ignore[dict-item]  # noqa: SLF001 - as above
}


@lru_cache(maxsize=256)
def _identity(user: bytes, uid: int, gid: int, euid: int, login_uid: int) -> bytes:
    return _IDENTITY % (varint(len(user)), user, varint(uid), varint(gid), varint(euid), varint(login_uid))


def _parent(parent: Parent) -> bytes:
    exe, cmdline, uid = cut(parent.exe, MAX_PATH_BYTES), parent.cmdline, parent.process_uid
    texts_and_sizes = (varint(len(uid)), uid, varint(len(exe)), exe, varint(len(cmdline)), cmdline)
    parent.block = _PARENT % (varint(parent.pid), *texts_and_sizes)
    return parent.block


@lru_cache(maxsize=64)
def _truncated(flags: int) -> bytes:
    return texts(f.TRUNCATED, [name for flag, names in _CUT_FIELDS if flags & flag for name in names])


_TRUNCATED_CMDLINE = texts(f.TRUNCATED, [b"process.cmdline"])


@lru_cache(maxsize=128)
def _env_keys(names: bytes) -> bytes:
    """Kept, because most processes have the environment of their parent."""
    return texts(f.X_ENV_KEYS, split_strings(names))


@lru_cache(maxsize=256)
def _exe(inode: int, kernel_dev: int, mode: int, nlink: int) -> bytes:
    # The kernel keeps device numbers in a form of its own; stat(2) gives this one.
    dev = os.makedev(kernel_dev >> _MINOR_BITS, kernel_dev & _MINOR_MASK)
    return _EXE % (varint(inode), varint(dev), varint(mode), varint(nlink))


@lru_cache(maxsize=256)
def _standing(  # noqa: PLR0913, PLR0917 - by keyword the cache costs twice as much
    capabilities: int, session_id: int, pid_ns: int, mnt_ns: int, net_ns: int, socket_stdio: int
) -> bytes:
    namespaces = _NAMESPACES % (varint(pid_ns), varint(mnt_ns), varint(net_ns))
    sizes = (varint(len(namespaces)), namespaces)
    return _STANDING % (varint(session_id), varint(capabilities), varint(socket_stdio), *sizes)


@lru_cache(maxsize=64)
def _container(cgroup_id: int) -> bytes:
    return message(f.CONTAINER, number(f.CONTAINER_CGROUP_ID, cgroup_id))
