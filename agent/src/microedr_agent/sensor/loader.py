"""Puts the BPF objects into the kernel and hands out what reads them.

A short-lived child does it: libbpf parses megabytes of kernel type information, and tracefs is mounted in a
mount namespace of its own when the host has none, so that neither the sensor's memory nor the host changes.
The child passes descriptors of maps and links over a socket pair and ends; programs run while those are open.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microedr_agent.errors import EbpfUnavailableError
from microedr_agent.sensor.ledger import MappedLedger
from microedr_agent.sensor.libbpf import Libbpf
from microedr_agent.sensor.ring import Ring

_OBJECTS = Path(__file__).parent.parent / "bpf"
_KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
_TRACEFS = Path("/sys/kernel/tracing")
_CLONE_NEWNS = 0x0002_0000
_MS_PRIVATE = 1 << 18
_MS_REC = 1 << 14
_TIMEOUT_S = 30.0
"""Verifying takes about 0.2 s; a machine under load takes longer, none this long."""

_MAX_REPORT_BYTES = 64 * 1024
_MAX_DESCRIPTORS = 250
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """One loaded object: its ring, its counts, and the links that keep its programs running."""

    name: str
    ring: Ring
    ledger: MappedLedger
    links: tuple[int, ...]

    def detach(self) -> None:
        """Stop its programs; what is in the ring stays readable."""
        for link in self.links:
            os.close(link)


@dataclass(frozen=True, slots=True)
class Probes:
    """Everything that is attached, and the programs that are not, each with its reason."""

    probes: tuple[Probe, ...]
    failures: tuple[str, ...]


def load_probes(ring_bytes: Mapping[str, int]) -> Probes:
    """Load and attach one object per entry of ``ring_bytes`` (``{"proc": 524288, …}``).

    Raises:
        EbpfUnavailableError: Not a single program runs; the text says why.
    """
    _require_kernel()
    ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            _load_in_child(childs, ring_bytes)
        childs.close()
        ours.settimeout(_TIMEOUT_S)
        try:
            report, descriptors = _receive(ours)
        finally:
            _reap(pid)
    return _assemble(report, descriptors, ring_bytes)


def _require_kernel() -> None:
    if os.geteuid() != _ROOT:
        raise EbpfUnavailableError("not root: eBPF programs need CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN")
    if not _KERNEL_TYPES.exists():
        raise EbpfUnavailableError(f"this kernel has no type information ({_KERNEL_TYPES}): CONFIG_DEBUG_INFO_BTF")


def _receive(ours: socket.socket) -> tuple[dict[str, object], list[int]]:
    try:
        raw, descriptors, _, _ = socket.recv_fds(ours, _MAX_REPORT_BYTES, _MAX_DESCRIPTORS)
    except TimeoutError:
        raise EbpfUnavailableError(f"loading took more than {_TIMEOUT_S:.0f} s") from None
    if not raw:
        raise EbpfUnavailableError("the process that loads the programs ended before it was done")
    return json.loads(raw), descriptors


def _reap(pid: int) -> None:
    """The child has nothing left to do once it has reported, and no right to go on when it has not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _assemble(report: Mapping[str, object], descriptors: list[int], ring_bytes: Mapping[str, int]) -> Probes:
    probes = []
    failures = _texts(report["failures"])
    remaining = iter(descriptors)
    objects = report["objects"]
    for name, links in objects.items() if isinstance(objects, dict) else ():
        ring_fd, ledger_fd = next(remaining), next(remaining)
        held = tuple(next(remaining) for _ in range(links))
        probes.append(Probe(name, Ring(ring_fd, ring_bytes[name]), MappedLedger(ledger_fd), held))
        os.close(ledger_fd)
    if not any(probe.links for probe in probes):
        raise EbpfUnavailableError("; ".join(failures) or "no program attached")
    return Probes(tuple(probes), failures)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _load_in_child(report_to: socket.socket, ring_bytes: Mapping[str, int]) -> None:
    """Runs in the child and never returns."""
    status = 1
    try:
        report, descriptors = _load_all(ring_bytes)
        payload = json.dumps(report).encode()[:_MAX_REPORT_BYTES]
        socket.send_fds(report_to, [payload], descriptors)
        status = 0
    finally:
        os._exit(status)


def _load_all(ring_bytes: Mapping[str, int]) -> tuple[dict[str, object], list[int]]:
    failures: list[str] = []
    objects: dict[str, int] = {}
    descriptors: list[int] = []
    _raise_memory_limit()
    _mount_tracefs()
    try:
        library = Libbpf()
        for name, size in ring_bytes.items():
            loaded = library.load(_OBJECTS / f"{name}.bpf.o", {f"ring_{name}": size})
            failures += loaded.failures
            objects[name] = len(loaded.links)
            descriptors += [loaded.maps[f"ring_{name}"], loaded.maps["ledger"], *loaded.links]
    except EbpfUnavailableError as error:
        failures.append(str(error))
    return {"objects": objects, "failures": failures}, descriptors


def _raise_memory_limit() -> None:
    """Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; newer ones do not, so a refusal may not matter."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _mount_tracefs() -> None:
    """Syscall tracepoints are found through tracefs. Where that cannot be had, those programs alone fail."""
    if (_TRACEFS / "events").exists():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return
    # What is mounted here must not appear on the host. In a chroot "/" is no mount of its own, /sys is.
    for place in (b"/", b"/sys"):
        if libc.mount(b"none", place, None, _MS_PRIVATE | _MS_REC, None) == 0:
            libc.mount(b"tracefs", os.fsencode(_TRACEFS), b"tracefs", 0, None)
            return
