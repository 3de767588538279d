"""Whether an action may be ordered: pure. Not here: the fleet-wide brake, which remembers (brake)."""

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from microedr import ids
from microedr.v1.action_pb2 import ActionType, ActionUpdate, ProcessTarget
from microedr.v1.detection_pb2 import Alert, RuleAction

LEAST_AUTO_CONFIDENCE = 0.90
"""No threshold below this arms an automatic action, whatever a rule says."""

PROCESS_UID_BYTES = 16
SUPPORTED_TYPES = frozenset({ActionType.ACTION_TYPE_KILL_PROCESS})
_NS_PER_S = 1_000_000_000


class Verdict(enum.StrEnum):
    """Why an action is not ordered. Values travel in ``ActionUpdate.reason``."""

    NOT_SUPPORTED = "not_supported"
    NO_TARGET = "no_target"
    BRAKE = "brake"
    HOST_OFFLINE = "host_offline"
    NO_RESPONDER = "no_responder"
    TOO_OLD = "too_old"
    NOT_ANSWERED = "not_answered"


@dataclass(frozen=True, slots=True)
class Arming:
    """What may act on its own."""

    every_builtin: bool
    rules: Collection[str]
    max_event_age_s: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """An automatic action that a rule asks for and is armed for."""

    action_id: str
    type: ActionType.ValueType
    process: ProcessTarget


def propose(alert: Alert, arming: Arming, *, now_unix_ns: int) -> Iterator[Proposal]:
    """The automatic actions that ``alert`` leads to; the same alert always proposes the same ids."""
    for wanted in alert.rule.actions:
        if not _is_armed(alert, wanted, arming, now_unix_ns):
            continue
        entities = alert.entities
        process = ProcessTarget(
            pid=entities.pid,
            process_uid=entities.process_uid,
            start_boot_ns=entities.start_boot_ns,
            exe=entities.exe,
        )
        type_name = ActionType.Name(wanted.type).removeprefix("ACTION_TYPE_").lower()
        action_id = ids.action_id(f"alert:{alert.alert_id}", type_name, process.process_uid.hex())
        yield Proposal(action_id, wanted.type, process)


def _is_armed(alert: Alert, wanted: RuleAction, arming: Arming, now_unix_ns: int) -> bool:
    # A rule acts on its own only if all of this holds:
    #
    # 1. It is ours: community rules can never act.
    # 2. Its threshold is one that may arm, and this alert reaches it.
    # 3. The operator armed it, by name or with all.
    # 4. What it saw happened just now.
    rule = alert.rule
    return (
        rule.builtin
        and alert.confidence >= wanted.auto_if_confidence_gte >= LEAST_AUTO_CONFIDENCE
        and (arming.every_builtin or rule.rule_id in arming.rules)
        and now_unix_ns - alert.event_unix_ns <= arming.max_event_age_s * _NS_PER_S
    )


def objection(action_type: ActionType.ValueType, process: ProcessTarget) -> Verdict | None:
    """Why an action of this type can never be ordered against ``process``; None: it can."""
    if action_type not in SUPPORTED_TYPES:
        return Verdict.NOT_SUPPORTED
    if process.pid <= 1 or len(process.process_uid) != PROCESS_UID_BYTES or process.start_boot_ns == 0:
        return Verdict.NO_TARGET
    return None


def is_automatic(update: ActionUpdate) -> bool:
    """Whether a rule, not a person, took this step."""
    return update.actor.startswith("rule:")
