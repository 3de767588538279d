"""When ``microedr up`` is killed, its agent must not stay: it would hold the spool against the next one.

The kernel stops it where util-linux is present; elsewhere, and when both were killed in a bad moment, the next
start does.
"""

import asyncio
import contextlib
import os
import select
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

_log = structlog.get_logger()

GRACE_S = 8.0
"""For an agent to flush and end after SIGTERM."""

_KILLED_S = 1.0


def die_with_parent() -> Sequence[str]:
    """Words before a command that have the kernel send it SIGTERM when this process ends, however it ends."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


async def stop_leftover(config: Path) -> None:
    """Stop every agent that runs with the file ``config``; who calls this has claimed its directory."""
    held = dict(_find(config))
    try:
        if held:
            _log.warning("agent_leftover_stopped", pids=sorted(held))
        for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, _KILLED_S)):
            for pidfd in held.values():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
            if await asyncio.to_thread(_have_ended, tuple(held.values()), patience_s):
                return
    finally:
        for pidfd in held.values():
            os.close(pidfd)


def _find(config: Path) -> Iterator[tuple[int, int]]:
    """The pid of each supervisor and a descriptor that holds it. Its children have the same words, and end with it."""
    found = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if _is_agent_of(config, path)}
    for pid, parent in found.items():
        if parent in found:
            continue
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            if _is_agent_of(config, Path("/proc", str(pid))):  # still, now that it is held
                yield pid, pidfd
            else:
                os.close(pidfd)


def _is_agent_of(config: Path, process: Path) -> bool:
    if not process.name.isdigit():
        return False
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"microedr_agent" in words and os.fsencode(config) in words


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _have_ended(pidfds: Sequence[int], patience_s: float) -> bool:
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    waiting = set(pidfds)
    while waiting:
        ended = poll.poll(patience_s * 1000)
        if not ended:
            return False
        for pidfd, _ in ended:
            poll.unregister(pidfd)
            waiting.discard(pidfd)
    return True
