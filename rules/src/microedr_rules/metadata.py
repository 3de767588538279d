"""What rules of every language say of themselves: how sure, how bad, what to do, how to group."""

import re
from dataclasses import dataclass

from microedr_rules.model import (
    MAX_COMMUNITY_CONFIDENCE,
    MIN_AUTO_CONFIDENCE,
    ActionType,
    RuleAction,
    Severity,
)
from microedr_rules.reading import Reader

OWN_KEYS = frozenset({"confidence", "actions", "group_by", "suppress"})
"""What may stand under ``microedr:`` in a Sigma rule, and at the top of a sigma-lite rule."""

_CONFIDENCE = {
    Severity.INFORMATIONAL: 0.20,
    Severity.LOW: 0.35,
    Severity.MEDIUM: 0.55,
    Severity.HIGH: 0.75,
    Severity.CRITICAL: 0.85,
}
"""Of rules that name none: Sigma has a level, not a confidence. All of it lies below what arms an action."""

_EXPERIMENTAL_DISCOUNT = 0.10
"""Off the table's value for a rule its author calls experimental."""

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SPAN_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_SUPPRESS_S = 30 * 86400


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The values of ``OWN_KEYS``."""

    confidence: float
    actions: tuple[RuleAction, ...]
    group_by: tuple[str, ...]
    suppress_s: float


def read_own_keys(reader: Reader, *root: str, severity: Severity, status: str, builtin: bool) -> OwnKeys:
    """Read our keys below ``root``.

    The confidence of a rule that is not ours is cut to ``MAX_COMMUNITY_CONFIDENCE``, whatever it says.

    Raises:
        RuleError: A value is wrong.
    """
    return OwnKeys(
        confidence=_confidence(reader, *root, severity=severity, status=status, builtin=builtin),
        actions=tuple(_action(reader, *root, "actions", i) for i in range(len(reader.items(*root, "actions")))),
        group_by=reader.texts(*root, "group_by"),
        suppress_s=_span(reader, *root, "suppress"),
    )


def read_severity(reader: Reader, *place: str) -> Severity:
    """A severity; medium when the rule names none."""
    word = reader.text(*place).lower()
    try:
        return Severity(word or "medium")
    except ValueError:
        allowed = ", ".join(severity.value for severity in Severity)
        raise reader.error(f"unknown {place[-1]} {word!r}; known are {allowed}", *place) from None


def _confidence(reader: Reader, *root: str, severity: Severity, status: str, builtin: bool) -> float:
    written = reader.number(*root, "confidence", low=0, high=1)
    confidence = written
    if confidence is None:
        confidence = _CONFIDENCE[severity] - (_EXPERIMENTAL_DISCOUNT if status == "experimental" else 0)
    return round(confidence if builtin else min(confidence, MAX_COMMUNITY_CONFIDENCE), 4)


def _action(reader: Reader, *place: str | int) -> RuleAction:
    reader.mapping(*place, keys={"type", "when", "value"})
    word = reader.text(*place, "type", required=True)
    try:
        kind = ActionType(word)
    except ValueError:
        allowed = ", ".join(action.value for action in ActionType)
        raise reader.error(f"unknown action {word!r}; known are {allowed}", *place, "type") from None
    when = reader.text(*place, "when") or "on_request"
    if when == "on_request":
        return RuleAction(kind)
    if when != "auto_if_confidence_gte":
        raise reader.error(f"unknown condition {when!r}; known are on_request, auto_if_confidence_gte", *place, "when")
    threshold = reader.number(*place, "value", low=MIN_AUTO_CONFIDENCE, high=1)
    if threshold is None:
        raise reader.error("auto_if_confidence_gte needs a value", *place, "when")
    return RuleAction(kind, threshold)


def _span(reader: Reader, *place: str) -> float:
    text = reader.text(*place)
    if not text:
        return 0.0
    found = _SPAN.fullmatch(text)
    seconds = int(found[1]) * _SPAN_S[found[2]] if found else 0
    if not 0 < seconds <= _MAX_SUPPRESS_S:
        raise reader.error(f"{place[-1]} {text!r} must be a time such as 30s, 15m, 2h or 1d, at most 30d", *place)
    return float(seconds)
