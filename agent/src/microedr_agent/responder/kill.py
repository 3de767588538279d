"""Ending exactly one process: held by a pidfd, compared, then signalled. No shell, no exec."""

import contextlib
import functools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from microedr.ids import process_uid
from microedr.limits import PROCESS_TICK_NS
from microedr_agent.errors import ActionFailedError, ActionRefusedError
from microedr_agent.responder.action import ProcessTarget
from microedr_agent.responder.guardrails import ProcessFacts, without_deleted_mark
from microedr_agent.responder.reasons import Reason

_PF_KTHREAD = 0x0020_0000
"""include/linux/sched.h; field 9 of /proc/PID/stat."""


@dataclass(frozen=True, slots=True)
class HeldProcess:
    """A process that cannot be mistaken for another while this is held, whatever becomes of its pid."""

    pidfd: int
    facts: ProcessFacts

    def kill(self) -> None:
        """Send SIGKILL.

        Raises:
            ActionFailedError: GONE or NOT_PERMITTED.
        """
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError as error:
            raise ActionFailedError(Reason.GONE) from error
        except PermissionError as error:
            raise ActionFailedError(Reason.NOT_PERMITTED) from error


@contextlib.contextmanager
def hold_process(pid: int) -> Iterator[HeldProcess]:
    """Hold the process that has ``pid`` now.

    The pidfd comes first: what ``/proc`` says afterwards is about the process it holds or, when that
    one ended meanwhile, about another that the pidfd does not reach.

    Raises:
        ActionFailedError: GONE.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError) as error:
        raise ActionFailedError(Reason.GONE) from error
    except OSError as error:
        # EINVAL is a thread that leads no process: an order names processes.
        raise ActionFailedError(Reason.GONE, detail=os.strerror(error.errno or 0)) from error
    try:
        yield HeldProcess(pidfd, read_facts(pid))
    finally:
        os.close(pidfd)


def read_facts(pid: int) -> ProcessFacts:
    """What ``/proc`` says of ``pid``.

    Raises:
        ActionFailedError: GONE; a zombie has ended too.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib costs the responder memory
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ActionFailedError(Reason.GONE) from error
    # The second field is the task's own name, in brackets, and may hold anything.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:
        raise ActionFailedError(Reason.GONE)
    is_kernel_thread = bool(int(fields[6]) & _PF_KTHREAD)
    try:
        exe = "" if is_kernel_thread else without_deleted_mark(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115 - as above
    except OSError:
        exe = ""
    return ProcessFacts(pid=pid, start_ticks=int(fields[19]), is_kernel_thread=is_kernel_thread, exe=exe)


def require_same(facts: ProcessFacts, target: ProcessTarget, process_key: bytes) -> None:
    """Require that ``facts`` are of the process that ``target`` names.

    Start times are compared in ticks, executables by path. The kernel names a path from the root of its
    mounts, ``/proc`` from this process's root: below a chroot, and only there, the latter is the end of the former.

    Args:
        facts: Of the process held.
        target: What the order says of it.
        process_key: Of this host and boot; makes pid and start a ``process_uid``.

    Raises:
        ActionRefusedError: PID_REUSED or EXE_CHANGED: an innocent process may have this pid now. OTHER_PROCESS:
            the order names one process and points at another.
    """
    if facts.start_ticks != target.start_boot_ns // PROCESS_TICK_NS:
        raise ActionRefusedError(Reason.PID_REUSED)
    if process_uid(process_key, target.pid, target.start_boot_ns) != target.process_uid:
        raise ActionRefusedError(Reason.OTHER_PROCESS)
    # Without a link to compare (kernel threads, EACCES) the guardrails decide, and refuse.
    if target.exe and facts.exe and not _same_exe(facts.exe, without_deleted_mark(target.exe)):
        raise ActionRefusedError(Reason.EXE_CHANGED)


def _same_exe(seen_here: str, named_by_kernel: str) -> bool:
    if seen_here == named_by_kernel:
        return True
    return _is_below_a_chroot() and seen_here.startswith("/") and named_by_kernel.endswith(seen_here)


@functools.cache
def _is_below_a_chroot() -> bool:
    """Whether our root directory is no mount: that of a host or a container always is one."""
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:  # noqa: PTH123 - as above
            return all(mount.split(b" ")[4] != b"/" for mount in mounts)
    except OSError:
        return False
