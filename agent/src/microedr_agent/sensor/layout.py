"""The samples in the rings: the mirror of agent/bpf/events.h, which a test compares with the object's BTF."""

import enum
import struct

EVENT_KINDS = 16
"""Slots in the ledger; kinds are numbered below it."""


class Kind(enum.IntEnum):
    """What a sample tells: enum event_kind."""

    EXEC = 1
    FORK = 2
    EXIT = 3
    CONNECT = 4
    CONNECT_FAILED = 5
    ACCEPT = 6
    CLOSE = 7


# What was cut at a limit or could not be read: enum event_flag. Plain numbers: an IntFlag costs microseconds per test.
ARGV_CUT = 1
EXE_CUT = 2
CWD_CUT = 4
ENV_CUT = 8
FILENAME_CUT = 16
ARGV_LOST = 32
ENV_LOST = 64

# Little-endian, without padding: the C structs have none either.
HEADER_FIELDS = (
    ("boot_ns", "Q"),
    ("start_boot_ns", "Q"),
    ("parent_start_boot_ns", "Q"),
    ("cgroup_id", "Q"),
    ("size", "I"),
    ("pid", "I"),
    ("ppid", "I"),
    ("uid", "I"),
    ("gid", "I"),
    ("kind", "H"),
    ("flags", "H"),
    ("comm", "16s"),
)
EXEC_FIELDS = (
    ("exe_inode", "Q"),
    ("effective_capabilities", "Q"),
    ("euid", "I"),
    ("login_uid", "I"),
    ("session_id", "I"),
    ("pid_ns", "I"),
    ("mnt_ns", "I"),
    ("net_ns", "I"),
    ("exe_dev", "I"),
    ("exe_nlink", "I"),
    ("exe_mode", "H"),
    ("socket_stdio", "H"),
    ("filename_bytes", "H"),
    ("exe_bytes", "H"),
    ("cwd_bytes", "H"),
    ("argv_bytes", "H"),
    ("env_bytes", "H"),
    ("reserved", "H"),
    ("tty", "16s"),
)
FORK_FIELDS = (("child_start_boot_ns", "Q"), ("child_pid", "I"), ("child_ppid", "I"))
EXIT_FIELDS = (("read_bytes", "Q"), ("written_bytes", "Q"), ("wait_status", "I"), ("reserved", "I"))
NET_FIELDS = (
    ("bytes_out", "Q"),
    ("bytes_in", "Q"),
    ("duration_ns", "Q"),
    ("local", "16s"),
    ("remote", "16s"),
    ("local_port", "H"),
    ("remote_port", "H"),
    ("family", "H"),
    ("protocol", "B"),
    ("ingress", "B"),
)

Fields = tuple[tuple[str, str], ...]


def as_struct(fields: Fields) -> struct.Struct:
    """Packs exactly these fields, in this order."""
    return struct.Struct("<" + "".join(code for _, code in fields))


HEADER = as_struct(HEADER_FIELDS)
# What follows the header.
EXEC = as_struct(EXEC_FIELDS)
FORK = as_struct(FORK_FIELDS)
EXIT = as_struct(EXIT_FIELDS)
NET = as_struct(NET_FIELDS)
