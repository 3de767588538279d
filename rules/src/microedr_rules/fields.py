"""What the names in a rule mean on an AgentEvent, per kind of event.

Three ways to name one fact, in one table: our own names (``process.exe``, ``container.id``,
``payload.dst_ip``), which follow the messages of the contract and so cannot drift from them; the same with
the kind's short name (``net.dst_ip``, ``exec.exe_nlink``); and Sigma's taxonomy (``Image``,
``DestinationIp``). Reading a value off an event is ``access``; which log source means which kind is ``logsource``.
"""

import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from microedr.v1.event_pb2 import NET_DIRECTION_EGRESS, AgentEvent


class FieldType(enum.Enum):
    """How a value is held, and so how it compares."""

    TEXT = "text"
    TEXTS = "texts"
    """A list of texts: a test holds when it holds for one of them."""
    NUMBER = "number"
    FLAG = "flag"
    """As text ``true`` or ``false``."""
    WORD = "word"
    """An enumeration; as text its value's lower-case name without the prefix."""
    ADDRESS = "address"
    """4 or 16 packed bytes; as text the usual spelling."""
    HEX = "hex"
    """Bytes; as text lower-case hexadecimal."""


Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One fact of an event."""

    name: str
    type: FieldType
    paths: tuple[Path, ...]
    """Attributes to follow from the event; the first path that holds a value counts."""
    words: tuple[tuple[int, str], ...] = ()
    """Of a WORD: number and text."""
    yes: int | None = None
    """Of a FLAG made from an enumeration: the number that means true."""


_KIND_FIELDS = AgentEvent.DESCRIPTOR.oneofs_by_name["kind"].fields
KINDS: tuple[str, ...] = tuple(field.name for field in _KIND_FIELDS)
"""Names of AgentEvent's kinds, as ``WhichOneof`` gives them."""

EVENT_TYPES: Mapping[str, str] = {kind.replace("_", ".", 1): kind for kind in KINDS}
"""``proc.exec`` and the like, as rules name the kinds."""

_SHORT_NAMES = {
    "proc_exec": "exec",
    "proc_fork": "fork",
    "proc_exit": "exit",
    "net_conn": "net",
    "dns_query": "dns",
    "file_write": "file",
    "auth_sudo": "auth",
}

_SHORTER = {"container.id": "container.container_id", "process.sha256": "process.hash.sha256"}

# Sigma's taxonomy. Destination is the remote end and Source the local one, whoever began.
_SIGMA_PROCESS = {
    "Image": "process.exe",
    "CommandLine": "process.cmdline",
    "CurrentDirectory": "process.cwd",
    "User": "process.user",
    "ProcessId": "process.pid",
    "ProcessGuid": "process_uid",
    "ParentProcessId": "process.ppid",
    "ParentProcessGuid": "process.parent_process_uid",
    "ParentImage": "process.parent_exe",
    "ParentCommandLine": "process.parent_cmdline",
    "sha256": "process.hash.sha256",
}
_SIGMA: Mapping[str, Mapping[str, str]] = {
    "net_conn": {
        "DestinationIp": "payload.dst_ip",
        "DestinationPort": "payload.dst_port",
        "DestinationHostname": "payload.dst_domain",
        "SourceIp": "payload.src_ip",
        "SourcePort": "payload.src_port",
        "Protocol": "payload.proto",
        "Initiated": "payload.initiated",
    },
    "dns_query": {
        "QueryName": "payload.qname",
        "query": "payload.qname",
        "record_type": "payload.qtype",
        "answer": "payload.answers",
        "answers": "payload.answers",
    },
    "file_write": {"TargetFilename": "payload.path", "SourceFilename": "payload.old_path"},
}

_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_DOUBLE,
    FieldDescriptor.CPPTYPE_FLOAT,
}


def _words(descriptor: FieldDescriptor) -> tuple[tuple[int, str], ...]:
    assert descriptor.enum_type is not None  # noqa: S101 - the caller looked at the type
    values = descriptor.enum_type.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return tuple((v.number, "" if v.number == 0 else v.name.removeprefix(prefix).lower()) for v in values)


def _leaf(name: str, path: Path, descriptor: FieldDescriptor) -> Field | None:
    paths = (path,)
    if descriptor.is_repeated:
        return Field(name, FieldType.TEXTS, paths) if descriptor.type == FieldDescriptor.TYPE_STRING else None
    if descriptor.type == FieldDescriptor.TYPE_BYTES:
        return Field(name, FieldType.ADDRESS if name.endswith("_ip") else FieldType.HEX, paths)
    if descriptor.type == FieldDescriptor.TYPE_STRING:
        return Field(name, FieldType.TEXT, paths)
    if descriptor.type == FieldDescriptor.TYPE_BOOL:
        return Field(name, FieldType.FLAG, paths)
    if descriptor.type == FieldDescriptor.TYPE_ENUM:
        return Field(name, FieldType.WORD, paths, words=_words(descriptor))
    return Field(name, FieldType.NUMBER, paths) if descriptor.cpp_type in _NUMBERS else None


def _walk(prefix: str, path: Path, message: Descriptor) -> Iterable[Field]:
    for descriptor in message.fields:
        name, here = f"{prefix}.{descriptor.name}", (*path, descriptor.name)
        if descriptor.message_type is not None:
            if not descriptor.is_repeated:
                yield from _walk(name, here, descriptor.message_type)
        elif leaf := _leaf(name, here, descriptor):
            yield leaf


def _own_names(kind: str) -> dict[str, Field]:
    messages = AgentEvent.DESCRIPTOR.fields_by_name
    fields = {"process_uid": Field("process_uid", FieldType.HEX, (("process_uid",),))}
    for prefix, root in (("process", "process"), ("container", "container"), ("payload", kind)):
        message = messages[root].message_type
        assert message is not None  # noqa: S101 - all three are messages
        fields |= {field.name: field for field in _walk(prefix, (root,), message)}
    if kind == "proc_exec":
        # The contract has two places for it and the sensor may fill either.
        parent = Field("process.parent_exe", FieldType.TEXT, (("process", "parent_exe"), ("proc_exec", "parent_exe")))
        fields["process.parent_exe"] = fields["payload.parent_exe"] = parent
    if kind == "net_conn":
        direction = fields["payload.direction"]
        fields["payload.initiated"] = replace(
            direction, name="payload.initiated", type=FieldType.FLAG, words=(), yes=NET_DIRECTION_EGRESS
        )
    return fields


def _all_names(kind: str) -> dict[str, Field]:
    own = _own_names(kind)
    names = dict(own)
    if short := _SHORT_NAMES.get(kind):
        names |= {
            f"{short}.{name.removeprefix('payload.')}": f for name, f in own.items() if name.startswith("payload.")
        }
    for alias, name in {**_SHORTER, **_SIGMA_PROCESS, **_SIGMA.get(kind, {})}.items():
        names[alias] = own[name]
    return names


_OWN = {kind: _own_names(kind) for kind in KINDS}
_NAMES = {kind: _all_names(kind) for kind in KINDS}
_KEYWORDS = {
    kind: tuple({f.paths: f for f in own.values() if f.type in {FieldType.TEXT, FieldType.TEXTS}}.values())
    for kind, own in _OWN.items()
}


def lookup(kind: str, name: str) -> Field | None:
    """The field that ``name`` means on events of ``kind``; None when there is no such field."""
    return _NAMES[kind].get(name)


def names(kind: str) -> tuple[str, ...]:
    """Every name that means something on events of ``kind``, sorted."""
    return tuple(sorted(_NAMES[kind]))


def keyword_fields(kind: str) -> tuple[Field, ...]:
    """The texts that a keyword is looked for in."""
    return _KEYWORDS[kind]


def similar(kind: str, name: str) -> str:
    """A known name close to ``name``, for an error message; empty when there is none."""
    close = difflib.get_close_matches(name, _NAMES[kind], n=1)
    return close[0] if close else ""
