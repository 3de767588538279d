"""Processes of the embedded PostgreSQL seen from outside: the one that runs, one left behind, one that ends."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

_STOP_STEPS = ((signal.SIGINT, 4.0), (signal.SIGQUIT, 1.5), (signal.SIGKILL, 1.0))
"""Fast shutdown; then without a checkpoint, which the next start makes up for; then the kernel."""


def find_server(data: Path) -> int:
    """Pid of the server that has ``data`` open; 0 when there is none."""
    pid = _recorded_pid(data)
    if pid <= 0:
        return 0
    try:
        # Its children too have this directory as their own; only the postmaster writes the file.
        return pid if Path(f"/proc/{pid}/cwd").samefile(data) else 0
    except OSError:
        return 0


def disarm_stale_pid_file(data: Path) -> None:
    """Keep a reused pid from looking like a running server; call only when ``find_server`` finds none.

    PostgreSQL judges by the pid alone, when that process is of its own user. It takes its parent's pid for a
    stale one, and still checks by the file's other lines that no child of the old server lives: so the file stays.
    """
    pid = _recorded_pid(data)
    if pid <= 0 or not Path(f"/proc/{pid}").exists():
        return
    file = data / "postmaster.pid"
    _, newline, rest = file.read_text("utf-8").partition("\n")
    with file.open("r+", encoding="utf-8") as stream:
        stream.write(f"{os.getpid()}{newline}{rest}")
        stream.truncate()


async def gone(pid: int) -> None:
    """Return when the process ends, or at once when there is none. Cancelling is safe."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def stop_server(pid: int) -> None:
    """Stop the server, without waiting for its clients; the longer it takes, the harder."""
    for number, timeout_s in _STOP_STEPS:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await gone(pid)
            return


def _recorded_pid(data: Path) -> int:
    try:
        return abs(int((data / "postmaster.pid").read_text("utf-8").partition("\n")[0]))
    except (OSError, ValueError):
        return 0
