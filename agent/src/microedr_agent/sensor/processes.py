"""Who is who: a bounded memory of the host's processes, kept by the events themselves.

Filled from /proc once (``procfs``), then by exec, fork and exit. What is not known is left empty, never
guessed. Not here: how a process is written into an event, see ``encode``.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from microedr.ids import process_uid
from microedr.limits import PROCESS_TICK_NS
from microedr_agent.sensor.decode import ExecSample, ForkSample, Header
from microedr_agent.sensor.text import cut

MAX_PROCESSES = 4096
"""Remembered at once, about 1 KB each. On a host with more, the longest unseen are forgotten: their
events then carry only what the kernel sends with each."""

MAX_EXITED = 512
"""Ended processes still remembered: their last connections close after them."""

REMEMBERED_CMDLINE_BYTES = 1024
"""Of a command line, for its own later events and for its children's."""

INITIAL_PID_NS = 0xEFFF_FFFC
"""Inode of the host's own pid namespace: PROC_PID_INIT_INO in the kernel."""

UNSET_ID = 0xFFFF_FFFF
"""What the kernel gives when there is no login uid or session."""

Key = tuple[int, int]


@dataclass(slots=True, eq=False)
class Parent:
    """What the events of its children say of a process, as it was when they were born; shared by them."""

    pid: int = 0
    process_uid: bytes = b""
    exe: bytes = b""
    cmdline: bytes = b""
    block: bytes | None = None
    """How it stands in an event, once that was written."""


UNKNOWN_PARENT = Parent()


class Process:
    """What is remembered of one process. All text is UTF-8; empty means unknown."""

    __slots__ = (
        "_as_parent",
        "block",
        "cgroup_id",
        "cmdline",
        "comm",
        "cwd",
        "euid",
        "exe",
        "gid",
        "in_container",
        "login_uid",
        "parent",
        "pid",
        "process_uid",
        "start_boot_ns",
        "uid",
    )

    def __init__(self, pid: int, start_boot_ns: int, name: bytes) -> None:
        self.pid = pid
        self.start_boot_ns = start_boot_ns
        self.process_uid = name
        self.parent = UNKNOWN_PARENT
        self.comm = self.exe = self.cmdline = self.cwd = b""
        self.uid = self.gid = self.euid = 0
        self.login_uid = UNSET_ID
        self.cgroup_id = 0
        self.in_container = False
        self.block: bytes | None = None
        """How it stands in an event, once that was written; None after a change."""
        self._as_parent: Parent | None = None

    def as_parent(self) -> Parent:
        """For its children."""
        if self._as_parent is None:
            self._as_parent = Parent(self.pid, self.process_uid, self.exe, self.cmdline)
        return self._as_parent

    def become(self, comm: bytes, exe: bytes, cmdline: bytes, cwd: bytes) -> None:
        """Run another program."""
        self.comm, self.exe, self.cmdline, self.cwd = comm, exe, cmdline, cwd
        self.block = self._as_parent = None

    def inherit(self, parent: "Process") -> None:
        """Be the copy of ``parent`` that fork makes."""
        self.comm, self.exe, self.cmdline, self.cwd = parent.comm, parent.exe, parent.cmdline, parent.cwd
        self.uid, self.gid, self.euid, self.login_uid = parent.uid, parent.gid, parent.euid, parent.login_uid
        self.cgroup_id, self.in_container = parent.cgroup_id, parent.in_container


class ProcessTable:
    """Processes by pid and start; ``key`` is that of ``microedr.ids.process_key``."""

    def __init__(self, key: bytes, *, max_processes: int = MAX_PROCESSES, max_exited: int = MAX_EXITED) -> None:
        self._key = key
        self._processes: OrderedDict[Key, Process] = OrderedDict()
        self._exited: deque[Key] = deque()
        self._max_processes = max_processes
        self._max_exited = max_exited

    def __len__(self) -> int:
        return len(self._processes)

    def find(self, pid: int, start_boot_ns: int) -> Process | None:
        """The process, when it is remembered."""
        key = (pid, start_boot_ns // PROCESS_TICK_NS)
        found = self._processes.get(key)
        if found is not None:
            self._processes.move_to_end(key)
        return found

    def add(self, pid: int, start_boot_ns: int) -> Process:
        """A process of which nothing else is known yet, in place of one remembered under the same name."""
        process = Process(pid, start_boot_ns, process_uid(self._key, pid, start_boot_ns))
        self._processes[pid, start_boot_ns // PROCESS_TICK_NS] = process
        while len(self._processes) > self._max_processes:
            self._processes.popitem(last=False)
        return process

    def of(self, header: Header) -> Process:
        """The process of an event, with the user it has now."""
        process = self.find(header.pid, header.start_boot_ns)
        if process is None:
            process = self._meet(header)
        elif process.uid != header.uid or process.gid != header.gid:
            process.uid = process.euid = header.uid
            process.gid = header.gid
            process.block = None
        return process

    def exec(self, sample: ExecSample, cmdline: bytes) -> Process:
        """The process after it became another program."""
        header = sample.header
        process = self.find(header.pid, header.start_boot_ns) or self._meet(header)
        parent = self.find(header.ppid, header.parent_start_boot_ns)
        if parent is not None:
            process.parent = parent.as_parent()
        process.become(header.comm, sample.exe, cut(cmdline, REMEMBERED_CMDLINE_BYTES), sample.cwd)
        process.uid, process.gid, process.euid = header.uid, header.gid, sample.euid
        process.login_uid = sample.login_uid
        process.cgroup_id = header.cgroup_id
        process.in_container = sample.pid_ns != INITIAL_PID_NS
        return process

    def fork(self, sample: ForkSample) -> tuple[Process, Process]:
        """The creator and its new child."""
        creator = self.of(sample.header)
        child = self.add(sample.child_pid, sample.child_start_boot_ns)
        child.inherit(creator)
        if sample.child_ppid == creator.pid:
            child.parent = creator.as_parent()
        elif sample.child_ppid == creator.parent.pid:  # clone(CLONE_PARENT): a sibling
            child.parent = creator.parent
        else:
            child.parent = Parent(sample.child_ppid)
        return creator, child

    def exit(self, header: Header) -> Process:
        """The process that ended; it is remembered for a while."""
        process = self.of(header)
        self._exited.append((header.pid, header.start_boot_ns // PROCESS_TICK_NS))
        if len(self._exited) > self._max_exited:
            self._processes.pop(self._exited.popleft(), None)
        return process

    def forget_blocks(self) -> None:
        """Have every process written anew: the clock or the names of users changed."""
        for process in self._processes.values():
            process.block = None

    def adopt(self, find_parent: Callable[[Process], Process | None]) -> None:
        """Give each process what its events say of its parent."""
        for process in list(self._processes.values()):
            parent = find_parent(process)
            if parent is not None:
                process.parent = parent.as_parent()

    def _meet(self, header: Header) -> Process:
        """A process that was not remembered: the header's facts are all there are."""
        process = self.add(header.pid, header.start_boot_ns)
        process.comm = header.comm
        process.uid = process.euid = header.uid
        process.gid = header.gid
        process.cgroup_id = header.cgroup_id
        parent = self.find(header.ppid, header.parent_start_boot_ns)
        if parent is not None:
            process.parent = parent.as_parent()
        elif header.ppid:
            process.parent = Parent(header.ppid, process_uid(self._key, header.ppid, header.parent_start_boot_ns))
        return process
