"""The proof that an order is ours: pure, no clock, no disk. Not here: what it aims at (guardrails, kill)."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from microedr.limits import MAX_ACTION_BYTES, MAX_ACTION_LIFE_S
from microedr.signing import ACTION_PAYLOAD_TYPE, pre_authentication_encoding
from microedr_agent.errors import ActionRefusedError
from microedr_agent.responder.action import Action, ActionType, Envelope, read_action, read_envelope
from microedr_agent.responder.keyring import Keyring
from microedr_agent.responder.reasons import Reason
from microedr_agent.responder.wire import WireError

MAX_SIGNATURES = 4
"""Signatures looked at in one order: each costs a verification of 44 us per pinned key."""

MAX_SIGNED_ACTION_BYTES = MAX_ACTION_BYTES + 1024
"""The order and its signatures, 100 bytes each."""

NONCE_BYTES = 16
PROCESS_UID_BYTES = 16
_NS_PER_S = 1_000_000_000


class Started(Protocol):
    """What remembers the orders that were started here; the journal does."""

    def was_started(self, action: Action) -> bool:
        """Whether this action_id, or this place in this session's sequence, was used before."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom orders must be addressed to."""

    tenant_id: str
    host_id: str
    session_nonce: bytes


def verify_action(  # noqa: C901, PLR0913 - one proof, its conditions and its facts stay together
    raw: bytes,
    *,
    keyring: Keyring,
    allowed_types: Collection[ActionType],
    identity: Identity,
    now_unix_ns: int,
    started: Started,
) -> Action:
    """Return the order in ``raw``, a serialised SignedAction, if it is ours to carry out now.

    Raises:
        ActionRefusedError: One condition does not hold; its reason says which.
    """
    # An order is ours only if all of this holds, checked in this order:
    #
    # 1. It is no larger than an order can be.
    # 2. A pinned key signed exactly these bytes. Before this, only the envelope of byte strings is read.
    # 3. The bytes are a whole Action, with nothing in it that we do not understand.
    # 4. Its type is allowed on this host.
    # 5. It names this tenant, this host and this run of the responder.
    # 6. It lives no longer than an order may.
    # 7. Its time has come and has not passed.
    # 8. It was never started here before.

    # 1.
    if len(raw) > MAX_SIGNED_ACTION_BYTES:
        raise ActionRefusedError(Reason.TOO_LARGE)
    signed = _open_envelope(raw)
    if len(signed.action) > MAX_ACTION_BYTES:
        raise ActionRefusedError(Reason.TOO_LARGE)

    # 2.
    message = pre_authentication_encoding(ACTION_PAYLOAD_TYPE, signed.action)
    if not any(keyring.verifies(signature, message) for signature in signed.signatures[:MAX_SIGNATURES]):
        raise ActionRefusedError(Reason.BAD_SIGNATURE)

    # 3.
    action = _parse(signed.action)

    # 4.
    if action.type not in allowed_types:
        raise ActionRefusedError(Reason.TYPE_NOT_ALLOWED)

    # 5.
    if action.tenant_id != identity.tenant_id:
        raise ActionRefusedError(Reason.OTHER_TENANT)
    if action.host_id != identity.host_id:
        raise ActionRefusedError(Reason.OTHER_HOST)
    if action.session_nonce != identity.session_nonce:
        raise ActionRefusedError(Reason.OTHER_SESSION)

    # 6.
    if action.expires_unix_ns - action.not_before_unix_ns > MAX_ACTION_LIFE_S * _NS_PER_S:
        raise ActionRefusedError(Reason.LIFE_TOO_LONG)

    # 7.
    if now_unix_ns < action.not_before_unix_ns:
        raise ActionRefusedError(Reason.NOT_YET_VALID)
    if now_unix_ns >= action.expires_unix_ns:
        raise ActionRefusedError(Reason.EXPIRED)

    # 8.
    if started.was_started(action):
        raise ActionRefusedError(Reason.REPLAYED)
    return action


def _open_envelope(raw: bytes) -> Envelope:
    try:
        return read_envelope(raw)
    except WireError as error:
        raise ActionRefusedError(Reason.MALFORMED) from error


def _parse(signed_bytes: bytes) -> Action:
    """The Action in authentic bytes.

    A field we do not know may narrow the order in a way we would ignore, so it is refused.

    Raises:
        ActionRefusedError: MALFORMED.
    """
    try:
        action = read_action(signed_bytes)
    except WireError as error:
        raise ActionRefusedError(Reason.MALFORMED) from error
    whole = (
        is_action_id(action.action_id)
        and len(action.session_nonce) == NONCE_BYTES
        and action.sequence > 0
        and 0 < action.not_before_unix_ns < action.expires_unix_ns
    )
    if not whole or (action.type == ActionType.KILL_PROCESS and not _names_a_process(action)):
        raise ActionRefusedError(Reason.MALFORMED)
    return action


def _names_a_process(action: Action) -> bool:
    # A start of 0 is allowed: no process but pid 1 and kernel threads has it, and guardrails refuse those.
    return action.process.pid > 0 and len(action.process.process_uid) == PROCESS_UID_BYTES


def is_action_id(text: str) -> bool:
    """Whether ``text`` is a UUID in its canonical form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def claimed_action_id(raw: bytes) -> str:
    """The action_id that a refused order claims, so that its sender can be told which; empty when there is none.

    Proves nothing: used to name a report, never to decide.
    """
    if len(raw) > MAX_SIGNED_ACTION_BYTES:
        return ""
    try:
        claimed = read_action(read_envelope(raw).action).action_id
    except WireError:
        return ""
    return claimed if is_action_id(claimed) else ""
