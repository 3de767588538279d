"""System calls that a process of the agent gives up for good, enforced by the kernel.

Filters are stacked and inherited: ``AGENT`` stands on every process from before the first order is
read, ``SENSOR`` and ``UPLOADER`` come on top when those have done what needs privileges. A forbidden
call fails with EPERM, so that an honest library goes on and an attacker gets nowhere.

libseccomp writes the programs. It is loaded in a short-lived child only: finding it runs ldconfig, and its
memory would stay. The parent keeps the finished programs, also for children it forks later.
"""

import ctypes
import enum
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyseccomp  # type: ignore[import-untyped]

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_SECCOMP_SYSCALL = {"x86_64": 317, "aarch64": 277, "riscv64": 277}
_INSTRUCTION_BYTES = 8
_MAX_PROGRAM_BYTES = 4096 * _INSTRUCTION_BYTES
"""BPF_MAXINSNS: the kernel takes no longer one."""

_CLONE_THREAD = 0x0001_0000

_libc = ctypes.CDLL(None, use_errno=True)


class Room(enum.Enum):
    """A set of forbidden calls."""

    AGENT = "agent"
    SENSOR = "sensor"
    UPLOADER = "uploader"


_NEVER = (
    # Running another program, or living in one.
    *("execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
    # Changing the kernel or the machine.
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("iopl", "ioperm", "swapon", "swapoff", "acct", "quotactl", "syslog", "sethostname", "setdomainname"),
    *("settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "pivot_root", "nfsservctl", "vhangup"),
    # Rarely needed, often abused.
    *("add_key", "request_key", "keyctl", "userfaultfd", "personality", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "uselib", "ustat", "sysfs", "modify_ldt", "lookup_dcookie", "vmsplice"),
)
_NO_LONGER = (
    # What a process that has opened all it needs can do without.
    *("perf_event_open", "mount", "umount2", "fsopen", "fsconfig", "fsmount", "fspick", "open_tree"),
    *("move_mount", "mount_setattr", "chroot", "setns", "unshare", "mknod", "mknodat", "fanotify_init"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "capset"),
    *("setfsuid", "setfsgid", "fork", "vfork", "open_by_handle_at", "name_to_handle_at", "pidfd_send_signal"),
)
_BPF_CALLS_LEFT = frozenset({1, 4})
"""BPF_MAP_LOOKUP_ELEM and BPF_MAP_GET_NEXT_KEY: counters are read as long as the sensor lives."""

_BPF_CALLS = 64
"""More than any kernel has."""

_SENSOR_FAMILIES = ("AF_UNIX",)
_UPLOADER_FAMILIES = ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK")
"""Netlink is how getaddrinfo learns which address families this host has."""

_FAMILY_NUMBERS = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
_HIGHEST_FAMILY = 45
"""AF_MAX - 1 is below this on every kernel; the kernel refuses larger ones by itself."""

_programs: dict[Room, bytes] = {}
_problem = ""


def prepare() -> str:
    """Have every room's program written; later calls, and forked children, use what is there.

    Returns:
        Why that is not possible, for the log and the heartbeat; empty when all is well.
    """
    global _problem  # noqa: PLW0603 - written once, inherited by fork
    if not _programs and not _problem:
        try:
            for room in Room:
                _programs[room] = _written_by_child(room)
        except OSError as error:
            _programs.clear()
            _problem = error.strerror or str(error)
    return _problem


def enter(room: Room) -> str:
    """Give up the room's calls, for every thread of this process and all it forks.

    Returns:
        Why the calls are still allowed; empty when they are given up. The agent goes on either
        way: an unprotected sensor is worth more than none, and the heartbeat tells.
    """
    problem = prepare()
    if problem:
        return problem
    try:
        _install(_programs[room])
    except OSError as error:
        return error.strerror or str(error)
    return ""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _install(program: bytes) -> None:
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
    number = _SECCOMP_SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"no filter for {os.uname().machine}")
    what = _Program(len(program) // _INSTRUCTION_BYTES, program)
    if _libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(what)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"the kernel refused the filter: {os.strerror(code)}")


def _written_by_child(room: Room) -> bytes:
    """The program of ``room``, made by a child that does nothing else."""
    fd = os.memfd_create(f"seccomp-{room.value}", os.MFD_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                write_program(room, fd)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child of fork must never return
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        program = os.pread(fd, _MAX_PROGRAM_BYTES, 0)
    finally:
        os.close(fd)
    if status != 0 or not program or len(program) % _INSTRUCTION_BYTES:
        raise OSError(errno.ENOENT, "libseccomp is missing or cannot write the filter")
    return program


def write_program(room: Room, fd: int) -> None:
    """Write the BPF program of ``room`` to ``fd``.

    Raises:
        RuntimeError, OSError: libseccomp is missing or refuses.
    """
    import pyseccomp  # noqa: PLC0415 - needs libseccomp, and its memory, in the child alone

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = _refuser(pyseccomp, rules)
    for call in _NEVER if room is Room.AGENT else _NO_LONGER:
        refuse(call)
    if room is not Room.AGENT:
        families = _SENSOR_FAMILIES if room is Room.SENSOR else _UPLOADER_FAMILIES
        allowed = {_FAMILY_NUMBERS[name] for name in families}
        for family in range(_HIGHEST_FAMILY + 1):
            if family not in allowed:
                refuse("socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
        for command in set(range(_BPF_CALLS)) - (_BPF_CALLS_LEFT if room is Room.SENSOR else frozenset()):
            refuse("bpf", pyseccomp.Arg(0, pyseccomp.EQ, command))
        # Threads may be made, processes not. The arguments of clone3 cannot be looked at: without it libc uses clone.
        refuse("clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
        rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    if room is Room.SENSOR:
        for call in ("connect", "kill", "tkill"):
            refuse(call)
    with os.fdopen(fd, "wb", closefd=False) as file:
        rules.export_bpf(file)


def _refuser(library: "pyseccomp", rules: "pyseccomp.SyscallFilter") -> Callable[..., None]:
    def refuse(call: str, *arguments: object) -> None:
        try:
            rules.add_rule(library.ERRNO(errno.EPERM), call, *arguments)
        except (OSError, ValueError):
            # This architecture or this libseccomp knows no such call.
            if call in {"execve", "execveat", "ptrace", "socket", "clone"}:
                raise

    return refuse
