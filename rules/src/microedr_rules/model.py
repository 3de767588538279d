"""A rule as loaded, and a rule that fired."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from microedr.v1 import detection_pb2
from microedr_rules.ast import Node
from microedr_rules.errors import Position

MAX_COMMUNITY_CONFIDENCE = 0.89
"""What a rule from outside can reach at most: 0.90 arms automatic actions, which only rules shipped
with microedr may do."""

MIN_AUTO_CONFIDENCE = 0.90
"""No rule may ask for an automatic action below this."""


class Severity(enum.Enum):
    """How much it matters when a rule is right."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def wire(self) -> detection_pb2.Severity.ValueType:
        """The same on the wire."""
        return detection_pb2.Severity.Value(f"SEVERITY_{self.name}")


class ActionType(enum.Enum):
    """What a rule may ask for."""

    KILL_PROCESS = "kill_process"
    ISOLATE_EGRESS = "isolate_egress"
    QUARANTINE_FILE = "quarantine_file"


@dataclass(frozen=True, slots=True)
class RuleAction:
    """One containment a rule offers. ``auto_if_confidence_gte`` None: only when a person asks."""

    type: ActionType
    auto_if_confidence_gte: float | None = None


class Status(enum.Enum):
    """How much of a rule our telemetry can evaluate."""

    FULL = "full"
    DEGRADED = "degraded"
    FILTER_LOST = "filter lost"
    NOT_EVALUABLE = "not evaluable"

    @property
    def evaluated(self) -> bool:
        """Whether such a rule is used. One that lost a filter would fire where its author said it must not."""
        return self in {Status.FULL, Status.DEGRADED}


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a rule can be evaluated, and why not the rest."""

    status: Status
    reason: str = ""
    missing_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One detection."""

    rule_id: str
    title: str
    severity: Severity
    confidence: float
    condition: Node
    kinds: tuple[str, ...]
    """Names of AgentEvent's kinds it is about. Empty: none of ours."""
    rule_hash: str
    path: Path
    position: Position
    language: str
    """``sigma`` or ``lite``."""
    coverage: Coverage
    builtin: bool = False
    description: str = ""
    author: str = ""
    status: str = ""
    """As its author says: ``stable``, ``test``, ``experimental``."""
    logsource: str = ""
    tags: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    actions: tuple[RuleAction, ...] = ()
    group_by: tuple[str, ...] = ()
    suppress_s: float = 0.0
    """After an alert, matches of the same group fold into it for this long. 0: as the correlator is set."""

    def to_wire(self) -> detection_pb2.RuleRef:
        """The rule as it travels with a Match."""
        return detection_pb2.RuleRef(
            rule_id=self.rule_id,
            title=self.title,
            description=self.description,
            severity=self.severity.wire,
            confidence=self.confidence,
            rule_hash=self.rule_hash,
            tags=self.tags,
            author=self.author,
            references=self.references,
            builtin=self.builtin,
            actions=[
                detection_pb2.RuleAction(
                    type=f"ACTION_TYPE_{action.type.name}",  # type: ignore[arg-type] # protobuf takes names of values
                    auto_if_confidence_gte=action.auto_if_confidence_gte or 0.0,
                )
                for action in self.actions
            ],
            group_by=self.group_by,
        )


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """A rule that fired on an event, and the fields that made it."""

    rule: Rule
    matched_fields: Mapping[str, str] = field(default_factory=dict)


class Gravity(enum.Enum):
    """Whether a problem keeps a rule from being used."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a rule's writer should know."""

    path: Path
    position: Position
    gravity: Gravity
    detail: str
    rule_id: str = ""

    def __str__(self) -> str:
        """``file:line:column: message``, as compilers say it."""
        prefix = "" if self.gravity is Gravity.ERROR else "warning: "
        return f"{self.path}:{self.position.line}:{self.position.column}: {prefix}{self.detail}"
