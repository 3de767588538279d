"""ActionUpdates that the actioner publishes, and records of them."""

from microedr import headers
from microedr.v1.action_pb2 import Action, ActionState, ActionUpdate, SignedAction
from microedr.v1.detection_pb2 import Alert
from microedr_actioner.policy import Proposal
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Record

ACTOR = "service:actioner"
MAX_REASON_CHARS = 200


def decided(alert: Alert, proposal: Proposal, *, refused: str, now_unix_ns: int) -> ActionUpdate:
    """What became of a rule's proposal: APPROVED, or REFUSED with the reason ``refused``."""
    return ActionUpdate(
        action_id=proposal.action_id,
        tenant_id=alert.tenant_id,
        host_id=alert.host_id,
        state=ActionState.ACTION_STATE_REFUSED if refused else ActionState.ACTION_STATE_APPROVED,
        at_unix_ns=now_unix_ns,
        type=proposal.type,
        process=proposal.process,
        alert_id=alert.alert_id,
        rule_id=alert.rule.rule_id,
        actor=f"rule:{alert.rule.rule_id}",
        reason=refused,
        trace_id=alert.trace_id,
    )


def follow(  # noqa: PLR0913 - one per field that differs
    update: ActionUpdate,
    state: ActionState.ValueType,
    *,
    now_unix_ns: int,
    actor: str = ACTOR,
    reason: str = "",
    signed: SignedAction | None = None,
) -> ActionUpdate:
    """The next step after ``update`` in the life of the same action."""
    return ActionUpdate(
        action_id=update.action_id,
        tenant_id=update.tenant_id,
        host_id=update.host_id,
        state=state,
        at_unix_ns=now_unix_ns,
        type=update.type,
        process=update.process,
        alert_id=update.alert_id,
        rule_id=update.rule_id,
        actor=actor,
        reason=reason,
        signed=signed,
        trace_id=update.trace_id,
    )


def order_of(  # noqa: PLR0913 - what an order is bound to
    approved: ActionUpdate, *, nonce: bytes, sequence: int, now_unix_ns: int, skew_ns: int, life_ns: int
) -> Action:
    """The order that carries out an approved action, not yet signed."""
    by_alert = approved.alert_id and approved.actor.startswith("rule:")
    reason = f"alert:{approved.alert_id}" if by_alert else f"request:{approved.actor.removeprefix('user:')}"
    return Action(
        action_id=approved.action_id,
        tenant_id=approved.tenant_id,
        host_id=approved.host_id,
        session_nonce=nonce,
        sequence=sequence,
        not_before_unix_ns=now_unix_ns - skew_ns,
        expires_unix_ns=now_unix_ns + life_ns,
        type=approved.type,
        process=approved.process,
        reason=reason[:MAX_REASON_CHARS],
        alert_id=approved.alert_id,
        approved_by=[approved.actor],
    )


def record_of(update: ActionUpdate) -> Record:
    """``update`` as a record of topic actions."""
    return Record(
        topic=topics.ACTIONS,
        key=update.host_id.encode("ascii"),
        value=update.SerializeToString(),
        headers={
            headers.TENANT: update.tenant_id.encode("ascii"),
            headers.HOST: update.host_id.encode("ascii"),
            headers.TRACE: update.trace_id.encode("ascii", "replace"),
        },
    )
