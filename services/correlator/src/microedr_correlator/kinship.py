"""Who a process descends from and what they all connected to, as the window knows it."""

import os

from google.protobuf.message import DecodeError

from microedr.ids import event_id
from microedr.v1.detection_pb2 import Destination, ProcessNode
from microedr.v1.event_pb2 import AgentEvent, Process
from microedr_correlator.destinations import Contact, Remote
from microedr_correlator.grouping import address_text
from microedr_correlator.processes import ProcessEntry
from microedr_correlator.window import HostWindow

MAX_ANCESTORS = 64
MAX_DESTINATIONS = 100
"""In one alert: the most recent."""
MAX_DESCENDANTS = 1000


def lineage(window: HostWindow, uid: bytes) -> list[ProcessEntry]:
    """The process and its ancestors as far as they are held, itself first."""
    chain: list[ProcessEntry] = []
    seen: set[bytes] = set()
    while uid and uid not in seen and len(chain) < MAX_ANCESTORS:
        entry = window.processes.get(uid)
        if entry is None:
            break
        seen.add(uid)
        chain.append(entry)
        uid = entry.parent_uid
    return chain


def node_of(entry: ProcessEntry) -> tuple[ProcessNode, Process]:
    """What an analyst sees of a process, and the block it was taken from."""
    process = _block(entry)
    node = ProcessNode(
        process_uid=entry.uid,
        pid=entry.pid,
        ppid=entry.ppid,
        exe=process.exe,
        cmdline=process.cmdline,
        user=process.user,
        start_unix_ns=entry.start_unix_ns,
        exit_unix_ns=entry.exit_unix_ns,
        parent_process_uid=entry.parent_uid,
    )
    return node, process


def parent_told_by(node: ProcessNode, process: Process) -> ProcessNode | None:
    """The parent of a process whose own entry is not held, as the child's events tell it."""
    if not node.parent_process_uid or not process.parent_exe:
        return None
    return ProcessNode(
        process_uid=node.parent_process_uid,
        pid=node.ppid,
        exe=process.parent_exe,
        cmdline=process.parent_cmdline,
    )


def exec_event_of(host_id: str, entry: ProcessEntry) -> AgentEvent | None:
    """The event of the exec whose image the process runs, with its id."""
    if not entry.exec_event or entry.exec_origin is None:
        return None
    event = AgentEvent.FromString(entry.exec_event)
    event.event_id = event_id(host_id, *entry.exec_origin, event.seqno)
    return event


def destinations_of(window: HostWindow, chain: list[ProcessEntry]) -> list[Destination]:
    """Where the first of ``chain``, its descendants and its ancestors connected to within the window.

    Its own come first, then those of its descendants, then of its ancestors, each the newest first.
    """
    if not chain:
        return []
    kin = [chain[0].uid, *_descendants(window, chain[0].uid), *(entry.uid for entry in chain[1:])]
    found: list[Destination] = []
    for uid in kin:
        contacts = window.destinations.of(uid, window.horizon_unix_ns)
        found.extend(_destination(uid, remote, contact) for remote, contact in reversed(contacts))
        if len(found) >= MAX_DESTINATIONS:
            break
    return found[:MAX_DESTINATIONS]


def basename(exe: str) -> str:
    """Last part of a path; ``a process`` when it is unknown."""
    return os.path.basename(exe) or "a process"  # noqa: PTH119 - the path is another machine's text


def _block(entry: ProcessEntry) -> Process:
    try:
        if entry.exec_event:
            return AgentEvent.FromString(entry.exec_event).process
        return Process.FromString(entry.block)
    except DecodeError:  # pragma: no cover - both were encoded here
        return Process()


def _descendants(window: HostWindow, uid: bytes) -> list[bytes]:
    """Those held whose chain of parents leads to ``uid``; parents stand before their children in the table."""
    family = {uid}
    for entry in window.processes.entries():
        if entry.parent_uid in family and entry.uid not in family:
            family.add(entry.uid)
            if len(family) > MAX_DESCENDANTS:
                break
    family.discard(uid)
    return sorted(family)


def _destination(uid: bytes, remote: Remote, contact: Contact) -> Destination:
    return Destination(
        ip=address_text(remote.ip),
        port=remote.port,
        proto=remote.proto,
        process_uid=uid,
        first_unix_ns=contact.first_unix_ns,
        last_unix_ns=contact.last_unix_ns,
        count=contact.count,
    )
