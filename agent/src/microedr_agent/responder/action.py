"""Orders and results as the responder knows them: the same messages as in the contract's action.proto.

Read with ``wire`` instead of the generated code; a test holds field numbers and values against the
contract. Whether an order is right is ``verify``'s question.
"""

import enum
from dataclasses import dataclass
from typing import TypeVar

from microedr_agent.responder.wire import (
    Fields,
    Kind,
    Value,
    WireError,
    read_fields,
    write_fixed64,
    write_number,
    write_text,
)

SIGNED_ACTION = {1: Kind.BYTES, 2: Kind.REPEATED_BYTES}
SIGNATURE = {1: Kind.TEXT, 2: Kind.BYTES}
ACTION = {
    **dict.fromkeys((1, 2, 3, 10, 11), Kind.TEXT),
    **dict.fromkeys((6, 7), Kind.FIXED64),
    **dict.fromkeys((5, 8), Kind.NUMBER),
    **dict.fromkeys((4, 9), Kind.BYTES),
    12: Kind.REPEATED_BYTES,
}
PROCESS_TARGET = {1: Kind.NUMBER, 2: Kind.BYTES, 3: Kind.FIXED64, 4: Kind.TEXT}
ACTION_RESULT = {1: Kind.TEXT, 2: Kind.NUMBER, 3: Kind.TEXT, 4: Kind.FIXED64, 5: Kind.TEXT}

ValueT = TypeVar("ValueT", bound=Value)


class ActionType(enum.IntEnum):
    """What can be ordered."""

    KILL_PROCESS = 1


class ActionState(enum.IntEnum):
    """How an order can end here."""

    REFUSED = 5
    EXPIRED = 6
    EXECUTED = 7
    FAILED = 8
    UNKNOWN = 11


@dataclass(frozen=True, slots=True)
class Envelope:
    """A SignedAction: bytes, and the signatures of those who vouch for them."""

    action: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ProcessTarget:
    """Which process."""

    pid: int
    process_uid: bytes
    start_boot_ns: int
    exe: str


@dataclass(frozen=True, slots=True)
class Action:
    """One order; ``raw`` are the bytes that were signed."""

    raw: bytes
    action_id: str
    tenant_id: str
    host_id: str
    session_nonce: bytes
    sequence: int
    not_before_unix_ns: int
    expires_unix_ns: int
    type: int
    process: ProcessTarget


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of an order."""

    action_id: str
    state: ActionState
    reason: str = ""
    finished_unix_ns: int = 0
    detail: str = ""

    def encode(self) -> bytes:
        """As the contract's generated code would write it."""
        return (
            write_text(1, self.action_id)
            + write_number(2, self.state)
            + write_text(3, self.reason)
            + write_fixed64(4, self.finished_unix_ns)
            + write_text(5, self.detail)
        )


def read_envelope(raw: bytes) -> Envelope:
    """The SignedAction in ``raw``.

    Raises:
        WireError: It is none.
    """
    fields = read_fields(raw, SIGNED_ACTION)
    signatures = [read_fields(one, SIGNATURE) for one in fields.get(2, []) if isinstance(one, bytes)]
    return Envelope(_one(fields, 1, b""), tuple(_one(one, 2, b"") for one in signatures))


def read_action(raw: bytes) -> Action:
    """The Action in ``raw``; fields that nothing here decides by are checked for form and left out.

    Raises:
        WireError: It is none, or has a field that is not known here.
    """
    fields = read_fields(raw, ACTION)
    target = read_fields(_one(fields, 9, b""), PROCESS_TARGET)
    return Action(
        raw=raw,
        action_id=_one(fields, 1, ""),
        tenant_id=_one(fields, 2, ""),
        host_id=_one(fields, 3, ""),
        session_nonce=_one(fields, 4, b""),
        sequence=_one(fields, 5, 0),
        not_before_unix_ns=_one(fields, 6, 0),
        expires_unix_ns=_one(fields, 7, 0),
        type=_one(fields, 8, 0),
        process=ProcessTarget(_one(target, 1, 0), _one(target, 2, b""), _one(target, 3, 0), _one(target, 4, "")),
    )


def read_result(raw: bytes) -> ActionResult:
    """The ActionResult in ``raw``.

    Raises:
        WireError: It is none.
    """
    fields = read_fields(raw, ACTION_RESULT)
    try:
        state = ActionState(_one(fields, 2, 0))
    except ValueError as error:
        raise WireError("no such state") from error
    return ActionResult(_one(fields, 1, ""), state, _one(fields, 3, ""), _one(fields, 4, 0), _one(fields, 5, ""))


def _one(fields: Fields, number: int, default: ValueT) -> ValueT:
    values = fields.get(number)
    if values is None:
        return default
    value = values[0]
    if not isinstance(value, type(default)):
        raise WireError(f"field {number} is no {type(default).__name__}")
    return value
