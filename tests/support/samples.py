"""Samples as the BPF programs write them, for tests without a kernel. Each builder gives a valid one."""

from typing import Any

from microedr_agent.sensor.layout import EXEC, EXIT, FORK, HEADER, NET, Kind

BOOT_NS = 5_000_000_000_123
START_NS = 4_000_000_000_456
PARENT_START_NS = 1_000_000_000_789
INITIAL_PID_NS = 0xEFFF_FFFC


def header(kind: int, size: int, **changes: Any) -> bytes:
    """The header of process 4242, child of 4000."""
    values: dict[str, Any] = {
        "boot_ns": BOOT_NS,
        "start_boot_ns": START_NS,
        "parent_start_boot_ns": PARENT_START_NS,
        "cgroup_id": 77,
        "size": size,
        "pid": 4242,
        "ppid": 4000,
        "uid": 1000,
        "gid": 1001,
        "kind": kind,
        "flags": 0,
        "comm": b"sh",
    } | changes
    return HEADER.pack(*values.values())


def components(path: str) -> bytes:
    """A path as the kernel's walk gives it: leaf first, each part ended by NUL."""
    return b"".join(part.encode() + b"\0" for part in reversed(path.split("/")) if part)


def exec_sample(  # noqa: PLR0913 - what an exec has
    *,
    filename: bytes = b"/bin/sh\0",
    exe: bytes = components("/usr/bin/dash"),
    cwd: bytes = components("/tmp"),
    argv: bytes = b"sh\0-c\0id\0",
    env_names: bytes = b"HOME\0PATH\0",
    pid_ns: int = INITIAL_PID_NS,
    tty: bytes = b"pts3",
    **changes: Any,
) -> bytes:
    """``sh -c id`` in /tmp."""
    texts = filename + exe + cwd + argv + env_names
    fixed = EXEC.pack(
        *(123456, 0x1FF_FFFF_FFFF, 0, 1000, 3, pid_ns, 0xF000_0001, 0xF000_0002, 254 << 20 | 1, 1, 0o100755, 0b101),
        *(len(filename), len(exe), len(cwd), len(argv), len(env_names), 0, tty),
    )
    return header(Kind.EXEC, HEADER.size + EXEC.size + len(texts), **changes) + fixed + texts


def fork_sample(*, child_pid: int = 4300, child_ppid: int = 4242, **changes: Any) -> bytes:
    """Process 4242 forks 4300."""
    rest = FORK.pack(BOOT_NS - 1000, child_pid, child_ppid)
    return header(Kind.FORK, HEADER.size + FORK.size, **changes) + rest


def exit_sample(*, wait_status: int = 3 << 8, **changes: Any) -> bytes:
    """Process 4242 exits with 3."""
    return header(Kind.EXIT, HEADER.size + EXIT.size, **changes) + EXIT.pack(1000, 200, wait_status, 0)


def net_sample(
    *,
    kind: int = Kind.CONNECT,
    local: bytes = bytes((10, 0, 0, 1)),
    remote: bytes = bytes((192, 0, 2, 7)),
    family: int = 2,
    ingress: int = 0,
    **changes: Any,
) -> bytes:
    """Process 4242 connects from 10.0.0.1:40000 to 192.0.2.7:443."""
    rest = NET.pack(11, 22, 333_000, local, remote, 40000, 443, family, 6, ingress)
    return header(kind, HEADER.size + NET.size, **changes) + rest
