"""The processes that already run when the sensor starts, read from /proc once, while it is still root."""

import os
from pathlib import Path

from microedr.limits import PROCESS_TICK_NS
from microedr_agent.sensor.processes import INITIAL_PID_NS, REMEMBERED_CMDLINE_BYTES, Parent, Process, ProcessTable
from microedr_agent.sensor.text import as_utf8, cut, split_strings

_PROC = Path("/proc")
_MAX_CMDLINE_READ = 4096
_DELETED = b" (deleted)"
_STAT_PPID = 1
_STAT_START = 19
"""Fields of /proc/PID/stat behind the name, which ends with the last parenthesis: proc(5) numbers them 4 and 22."""


def in_initial_pid_namespace() -> bool:
    """Whether pids in /proc are those that the kernel sends."""
    try:
        return (_PROC / "self/ns/pid").stat().st_ino == INITIAL_PID_NS
    except OSError:
        return False


def remember_running(table: ProcessTable) -> int:
    """Add every running process to ``table`` and return how many there were.

    One that ends meanwhile is left out; what cannot be read stays empty.
    """
    by_pid: dict[int, Process] = {}
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            process = _read(table, int(entry.name))
            if process is not None:
                by_pid[process.pid] = process
    table.adopt(lambda process: by_pid.get(process.parent.pid))
    return len(by_pid)


def _read(table: ProcessTable, pid: int) -> Process | None:
    folder = _PROC / str(pid)
    try:
        stat = (folder / "stat").read_bytes()
        status = (folder / "status").read_bytes()
        cmdline = _read_start(folder / "cmdline")
    except OSError:
        return None
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    process = table.add(pid, int(fields[_STAT_START]) * PROCESS_TICK_NS)
    process.comm = as_utf8(name)
    process.parent = Parent(int(fields[_STAT_PPID]))
    process.exe = _link(folder / "exe")
    process.cwd = _link(folder / "cwd")
    process.cmdline = cut(b" ".join(split_strings(cmdline)) if cmdline else b"", REMEMBERED_CMDLINE_BYTES)
    process.uid, process.euid = _ids(status, b"Uid:")
    process.gid, _ = _ids(status, b"Gid:")
    process.login_uid = _login_uid(folder)
    process.in_container = _in_other_pid_namespace(folder)
    return process


def _read_start(path: Path) -> bytes:
    with path.open("rb", buffering=0) as opened:
        return opened.read(_MAX_CMDLINE_READ) or b""


def _link(path: Path) -> bytes:
    """Where it points, as the kernel's walk at exec would give it; kernel threads have none."""
    try:
        return as_utf8(os.fsencode(path.readlink()).removesuffix(_DELETED))
    except OSError:
        return b""


def _ids(status: bytes, label: bytes) -> tuple[int, int]:
    """The real and the effective id."""
    for line in status.splitlines():
        if line.startswith(label):
            _, real, effective, *_ = line.split()
            return int(real), int(effective)
    return 0, 0


def _login_uid(folder: Path) -> int:
    try:
        return int((folder / "loginuid").read_bytes())
    except (OSError, ValueError):
        return 0xFFFF_FFFF


def _in_other_pid_namespace(folder: Path) -> bool:
    try:
        return (folder / "ns/pid").stat().st_ino != INITIAL_PID_NS
    except OSError:
        return False
