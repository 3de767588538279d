"""A sample from a ring becomes typed values. Pure: every length is checked, every text is valid UTF-8."""

import struct
from collections.abc import Callable
from typing import NamedTuple

from microedr_agent.errors import SampleError
from microedr_agent.sensor.layout import CWD_CUT, EXE_CUT, EXEC, EXEC_FIELDS, EXIT, FORK, HEADER, NET, Kind
from microedr_agent.sensor.text import as_utf8, join_path, split_strings, until_nul

_AF_INET = 2
_AF_INET6 = 10
_IPV4_BYTES = 4
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_MAX_TIME_NS = 1 << 62
"""A century and a half of uptime; with the wall clock's offset it still fits 64 bits."""

_FIRST_LENGTH = [name for name, _ in EXEC_FIELDS].index("filename_bytes")
_RESERVED = [name for name, _ in EXEC_FIELDS].index("reserved")
_unpack_header = HEADER.unpack_from
_HEADER_BYTES = HEADER.size


class Header(NamedTuple):
    """When, what, and which process. Numbers are those of the initial namespaces."""

    boot_ns: int
    start_boot_ns: int
    parent_start_boot_ns: int
    cgroup_id: int
    size: int
    pid: int
    ppid: int
    uid: int
    gid: int
    kind: int
    flags: int
    raw_comm: bytes
    """In its field of 16 bytes: of most events it is not needed, see ``comm``."""

    @property
    def comm(self) -> bytes:
        """The task's name."""
        return until_nul(self.raw_comm)


class ExecSample(NamedTuple):
    """A process image was replaced."""

    header: Header
    exe_inode: int
    effective_capabilities: int
    euid: int
    login_uid: int
    session_id: int
    pid_ns: int
    mnt_ns: int
    net_ns: int
    exe_dev: int
    """major << 20 | minor, as the kernel keeps it."""
    exe_nlink: int
    exe_mode: int
    socket_stdio: int
    tty: bytes
    filename: bytes
    exe: bytes
    cwd: bytes
    argv: list[bytes]
    env_names: bytes
    """Each ended by NUL, not checked to be UTF-8: most are the same as before, see ``encode``."""


class ForkSample(NamedTuple):
    """A process was created by the one in the header."""

    header: Header
    child_start_boot_ns: int
    child_pid: int
    child_ppid: int


class ExitSample(NamedTuple):
    """The last thread of a process ended."""

    header: Header
    read_bytes: int
    written_bytes: int
    wait_status: int
    """As wait(2) gives it."""


class NetSample(NamedTuple):
    """A TCP connection changed its state; the header's process opened or accepted it."""

    header: Header
    bytes_out: int
    bytes_in: int
    duration_ns: int
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    ingress: int


Sample = ExecSample | ForkSample | ExitSample | NetSample


def decode(sample: bytes) -> Sample:
    """The values in ``sample``.

    Raises:
        SampleError: It is not one of ours, or its lengths do not fit.
    """
    try:
        header = Header._make(_unpack_header(sample))
        decoder = _DECODERS[header.kind]
    except (struct.error, KeyError):
        raise SampleError(f"{len(sample)} bytes are no sample of a known kind") from None
    if header.size != len(sample):
        raise SampleError(f"{len(sample)} bytes where the sample says {header.size}")
    if (
        header.boot_ns > _MAX_TIME_NS
        or header.start_boot_ns > _MAX_TIME_NS
        or header.parent_start_boot_ns > _MAX_TIME_NS
    ):
        raise _after_the_end()
    try:
        return decoder(header, sample)
    except struct.error:
        raise SampleError(f"{len(sample)} bytes are too few for kind {header.kind}") from None


def _decode_exec(header: Header, sample: bytes) -> ExecSample:
    values = EXEC.unpack_from(sample, _HEADER_BYTES)
    filename_bytes, exe_bytes, cwd_bytes, argv_bytes, env_bytes = values[_FIRST_LENGTH:_RESERVED]
    filename_at = _HEADER_BYTES + EXEC.size
    exe_at = filename_at + filename_bytes
    cwd_at = exe_at + exe_bytes
    argv_at = cwd_at + cwd_bytes
    env_at = argv_at + argv_bytes
    if env_at + env_bytes != len(sample):
        raise SampleError(f"{len(sample)} bytes where the parts of an exec add up to {env_at + env_bytes}")
    flags = header.flags
    texts = (
        until_nul(values[-1]),
        as_utf8(sample[filename_at:exe_at].rstrip(b"\0")),
        join_path(sample[exe_at:cwd_at], not flags & EXE_CUT),
        join_path(sample[cwd_at:argv_at], not flags & CWD_CUT),
        split_strings(sample[argv_at:env_at]),
        sample[env_at:],
    )
    return ExecSample._make((header, *values[:_FIRST_LENGTH], *texts))


def _decode_fork(header: Header, sample: bytes) -> ForkSample:
    _require_size(sample, FORK)
    made = ForkSample(header, *FORK.unpack_from(sample, _HEADER_BYTES))
    if made.child_start_boot_ns > _MAX_TIME_NS:
        raise _after_the_end()
    return made


def _decode_exit(header: Header, sample: bytes) -> ExitSample:
    _require_size(sample, EXIT)
    read_bytes, written_bytes, wait_status, _ = EXIT.unpack_from(sample, _HEADER_BYTES)
    return ExitSample(header, read_bytes, written_bytes, wait_status)


def _decode_net(header: Header, sample: bytes) -> NetSample:
    _require_size(sample, NET)
    bytes_out, bytes_in, duration_ns, local, remote, local_port, remote_port, family, _, ingress = NET.unpack_from(
        sample, _HEADER_BYTES
    )
    if family == _AF_INET:
        local, remote = local[:_IPV4_BYTES], remote[:_IPV4_BYTES]
    elif family == _AF_INET6:
        local, remote = _unmapped(local), _unmapped(remote)
    else:
        raise SampleError(f"address family {family} is neither IPv4 nor IPv6")
    return NetSample(header, bytes_out, bytes_in, duration_ns, local, remote, local_port, remote_port, ingress)


def _require_size(sample: bytes, rest: struct.Struct) -> None:
    if len(sample) != _HEADER_BYTES + rest.size:
        raise SampleError(f"{len(sample)} bytes where {_HEADER_BYTES + rest.size} are fixed")


def _after_the_end() -> SampleError:
    return SampleError("a time lies after the end of time")


def _unmapped(address: bytes) -> bytes:
    """An IPv4 address inside an IPv6 socket is 4 bytes."""
    if address.startswith(_MAPPED_PREFIX):
        return address[len(_MAPPED_PREFIX) :]
    return address


_DECODERS: dict[int, Callable[[Header, bytes], Sample]] = {
    int(Kind.EXEC): _decode_exec,
    int(Kind.FORK): _decode_fork,
    int(Kind.EXIT): _decode_exit,
    int(Kind.CONNECT): _decode_net,
    int(Kind.CONNECT_FAILED): _decode_net,
    int(Kind.ACCEPT): _decode_net,
    int(Kind.CLOSE): _decode_net,
}
