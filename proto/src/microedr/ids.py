"""Names that both ends derive alike: processes, events, matches."""

import re
import struct
import uuid
from _blake2 import blake2b  # hashlib has the same and maps libcrypto with it: 3.5 MB in every process of the agent

from microedr.limits import MAX_HOST_ID_CHARS, PROCESS_TICK_NS

_PROCESS_TICKS = struct.Struct("<IQ")
_EVENT_NAMESPACE = uuid.UUID("5b1f2b5e-5d52-5c6c-9d5b-1d8f1c0a7e01")
_MATCH_NAMESPACE = uuid.UUID("5b1f2b5e-5d52-5c6c-9d5b-1d8f1c0a7e02")
_ALERT_NAMESPACE = uuid.UUID("5b1f2b5e-5d52-5c6c-9d5b-1d8f1c0a7e03")
_ACTION_NAMESPACE = uuid.UUID("5b1f2b5e-5d52-5c6c-9d5b-1d8f1c0a7e04")
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_HOST_ID_CHARS}}}", re.ASCII)


def is_valid_name(name: str) -> bool:
    """Whether ``name`` may be a host or tenant id: it becomes part of a URI, a file name and a key."""
    return _NAME.fullmatch(name) is not None and name not in {".", ".."}


def process_key(host_id: str, boot_id: str) -> bytes:
    """The part of ``process_uid`` that is the same for every process of one boot of one host."""
    return blake2b(f"{host_id}\0{boot_id}".encode(), digest_size=16, person=b"microedr-boot").digest()


def process_uid(key: bytes, pid: int, start_boot_ns: int) -> bytes:
    """Name one process on one host for ever; 16 bytes.

    Args:
        key: From ``process_key``.
        pid: Process id in the host's initial pid namespace.
        start_boot_ns: Start, nanoseconds since boot; only its 10 ms tick counts, so that the
            kernel's value and the one in ``/proc/PID/stat`` give the same name. A pid cannot
            be reused within one tick: the kernel hands out all others first.
    """
    ticks = _PROCESS_TICKS.pack(pid, start_boot_ns // PROCESS_TICK_NS)
    return blake2b(ticks, digest_size=16, key=key, person=b"microedr-proc").digest()


def event_id(host_id: str, epoch_id: str, lane: int, seqno: int) -> bytes:
    """The id of the event at this place in this host's sequence; 16 bytes, a UUID."""
    return uuid.uuid5(_EVENT_NAMESPACE, f"{host_id}/{epoch_id}/{lane}/{seqno}").bytes


def match_id(rule_id: str, event: bytes) -> bytes:
    """The id of a rule firing on an event; 16 bytes, a UUID."""
    return uuid.uuid5(_MATCH_NAMESPACE, f"{rule_id}/{event.hex()}").bytes


def alert_id(tenant_id: str, host_id: str, rule_id: str, group: str) -> str:
    """The id of the alert that collects these matches, as UUID text."""
    return str(uuid.uuid5(_ALERT_NAMESPACE, f"{tenant_id}\x00{host_id}\x00{rule_id}\x00{group}"))


def action_id(cause: str, action_type: str, target: str) -> str:
    """The id of the action that this cause asks for, as UUID text; a replay asks for the same."""
    return str(uuid.uuid5(_ACTION_NAMESPACE, f"{cause}\x00{action_type}\x00{target}"))
