"""What is never killed, whoever signed the order: pure.

These hold against valid signatures: a stolen signing key or a wrong rule must not take a host down.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from microedr_agent.responder.reasons import Reason

PROTECTED_SERVICES = (
    "systemd",
    "systemd-*",
    "init",
    "sshd",
    "sshd-*",
    "dbus-daemon",
    "dbus-broker",
    "dbus-broker-launch",
    "containerd",
    "containerd-shim*",
    "dockerd",
    "docker-proxy",
    "conmon",
    "crio",
    "podman",
    "runc",
    "crun",
    "kubelet",
    "kube-apiserver",
    "kube-proxy",
    "etcd",
    "k3s",
    "NetworkManager",
    "auditd",
    "login",
    "agetty",
    "cron",
    "crond",
)
"""File names of executables a host cannot lose without its operator losing the host."""

SYSTEM_DIRECTORIES = (
    "/bin/",
    "/sbin/",
    "/lib/",
    "/usr/bin/",
    "/usr/sbin/",
    "/usr/lib/",
    "/usr/libexec/",
    "/usr/local/bin/",
    "/usr/local/sbin/",
    "/opt/",
    "/var/lib/rancher/",
)
"""A bare name protects only here, where root alone writes: else malware called ``sshd`` would be safe."""

DELETED_SUFFIX = " (deleted)"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the kernel says of a process, read while a pidfd holds it."""

    pid: int
    start_ticks: int
    is_kernel_thread: bool
    exe: str
    """As ``/proc/PID/exe``, without the mark of a deleted file. Empty: could not be read."""


@dataclass(frozen=True, slots=True)
class Guardrails:
    """The rules of one host."""

    own_pids: Collection[int]
    """Every process of the agent."""

    protected: Collection[str] = ()
    """From the configuration, added to ``PROTECTED_SERVICES``: a path pattern, or a bare name."""

    def forbids(self, process: ProcessFacts) -> Reason | None:
        """Why ``process`` must not be touched; None: it may be."""
        if process.pid == 1:
            return Reason.PID_1
        if process.is_kernel_thread:
            return Reason.KERNEL_THREAD
        if process.pid in self.own_pids:
            return Reason.OWN_PROCESS
        if not process.exe:
            # Whether it is protected cannot be told, so it is.
            return Reason.EXE_UNREADABLE
        if _is_listed(process.exe, PROTECTED_SERVICES) or _is_listed(process.exe, self.protected):
            return Reason.PROTECTED
        return None


def without_deleted_mark(path: str) -> str:
    """``path`` as it was before its file was deleted or replaced."""
    return path.removesuffix(DELETED_SUFFIX)


def _is_listed(exe: str, patterns: Iterable[str]) -> bool:
    name = exe.rpartition("/")[2]
    in_system_directory = exe.startswith(SYSTEM_DIRECTORIES)
    return any(
        fnmatchcase(exe, pattern) if "/" in pattern else in_system_directory and fnmatchcase(name, pattern)
        for pattern in patterns
    )
