"""What tells the alerts of one rule on one host apart: the process, or the values a rule names.

A field is looked up in what made the rule match, then in the event itself by its dotted path
(``process.exe``, ``payload.dst_ip``). A field found nowhere counts as empty.
"""

import ipaddress

from google.protobuf.message import Message

from microedr.v1.detection_pb2 import Match
from microedr.v1.event_pb2 import AgentEvent

_SIGMA_PATHS = {
    "Image": "process.exe",
    "CommandLine": "process.cmdline",
    "ParentImage": "process.parent_exe",
    "ParentCommandLine": "process.parent_cmdline",
    "User": "process.user",
    "CurrentDirectory": "process.cwd",
    "DestinationIp": "payload.dst_ip",
    "DestinationPort": "payload.dst_port",
    "DestinationHostname": "payload.dst_domain",
    "TargetFilename": "payload.path",
    "QueryName": "payload.qname",
}
_MAX_VALUE_CHARS = 256


def group_of(match: Match) -> str:
    """The group that ``match`` belongs to."""
    names = match.rule.group_by
    if not names:
        return match.event.process_uid.hex()
    return "\x1f".join(f"{name}={_value(match, name)[:_MAX_VALUE_CHARS]}" for name in names)


def _value(match: Match, name: str) -> str:
    known = match.matched_fields.get(name)
    return known if known is not None else _lookup(match.event, _SIGMA_PATHS.get(name, name))


def _lookup(event: AgentEvent, path: str) -> str:
    value: object = event
    for step in path.split("."):
        if not isinstance(value, Message):
            return ""
        name = (value.WhichOneof("kind") or "") if step == "payload" and value is event else step
        if name not in value.DESCRIPTOR.fields_by_name:
            return ""
        value = getattr(value, name)
    if isinstance(value, bytes):
        return address_text(value) or value.hex()
    return str(value)


def address_text(packed: bytes) -> str:
    """An address of 4 or 16 bytes in text. Empty: it is none."""
    try:
        return str(ipaddress.ip_address(packed))
    except ValueError:
        return ""
