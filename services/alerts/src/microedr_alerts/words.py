"""Enumerations of the contract as the words of the API: ``SEVERITY_HIGH`` is ``high``."""

from collections.abc import Callable
from typing import Any

from microedr.v1.action_pb2 import ActionState, ActionType
from microedr.v1.detection_pb2 import Severity
from microedr.v1.transport_pb2 import SessionState


def word(name_of: Callable[[Any], str], prefix: str, number: int) -> str:
    """The word of ``number``; a number this version does not know stands as digits."""
    try:
        return name_of(number).removeprefix(prefix).lower()
    except ValueError:
        return str(number)


def severity_word(number: int) -> str:
    """``informational``, ``low`` and so on."""
    return word(Severity.Name, "SEVERITY_", number)


def severity_number(text: str) -> int:
    """The opposite of ``severity_word``."""
    return Severity.Value(f"SEVERITY_{text.upper()}")


def state_word(number: int) -> str:
    """``requested``, ``approved`` and so on."""
    return word(ActionState.Name, "ACTION_STATE_", number)


def state_number(text: str) -> int:
    """The opposite of ``state_word``."""
    return ActionState.Value(f"ACTION_STATE_{text.upper()}")


def type_word(number: int) -> str:
    """``kill_process`` and so on."""
    return word(ActionType.Name, "ACTION_TYPE_", number)


def connection_word(number: int) -> str:
    """``connected`` or ``disconnected``."""
    return word(SessionState.Name, "SESSION_STATE_", number)


STATE_RANKS = {
    ActionState.ACTION_STATE_REQUESTED: 1,
    ActionState.ACTION_STATE_APPROVED: 2,
    ActionState.ACTION_STATE_SIGNED: 3,
    ActionState.ACTION_STATE_RELAYED: 4,
    ActionState.ACTION_STATE_REFUSED: 5,
    ActionState.ACTION_STATE_EXPIRED: 5,
    ActionState.ACTION_STATE_EXECUTED: 5,
    ActionState.ACTION_STATE_FAILED: 5,
    ActionState.ACTION_STATE_UNKNOWN: 5,
    ActionState.ACTION_STATE_OBSERVED: 6,
    ActionState.ACTION_STATE_REVERTED: 7,
}
"""How far a state is in an action's life; among equals the later one counts."""
