"""Evidence: events that a rule must fire on, and near misses that it must not.

For the rule in ``rules/NAME.yaml`` it lies in ``NAME/`` below an evidence directory: files whose names begin with
``fires`` and ``near-miss``, YAML or JSON, one AgentEvent per document in protobuf's JSON form. Two
things are written as people write them: addresses as text, and ``cmdline`` not at all where ``argv`` says it.
"""

import base64
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from microedr.v1.event_pb2 import AgentEvent
from microedr_rules.access import packed_address
from microedr_rules.documents import parse_documents, read_text
from microedr_rules.errors import EvidenceError, RuleError
from microedr_rules.interpret import evaluate
from microedr_rules.model import Rule
from microedr_rules.ruleset import RuleSet


class Expectation(enum.Enum):
    """What an evidence file is for; the value is how its name begins."""

    FIRES = "fires"
    QUIET = "near-miss"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One event of an evidence file."""

    path: Path
    line: int
    expectation: Expectation
    event: AgentEvent


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rule did on one event, or why it has too little evidence. ``detail`` empty: as it must."""

    rule: Rule
    path: Path
    line: int
    expectation: Expectation | None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the rule did what it must."""
        return not self.detail


def builtin_evidence_dir() -> Path:
    """Where the evidence of the rules shipped with microedr is."""
    return Path(str(resources.files("microedr_rules") / "evidence"))


def read_evidence(folder: Path) -> Iterator[Evidence]:
    """The events in the evidence files of one rule.

    Raises:
        EvidenceError: A file is not evidence; the text begins with ``file:line:column``.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix not in {".yaml", ".yml", ".json"}:
            continue
        expectation = next((e for e in Expectation if path.name.startswith(e.value)), None)
        if expectation is None:
            raise EvidenceError(f"{path}:1:1: the name must begin with fires or near-miss")
        try:
            documents = parse_documents(read_text(path))
        except RuleError as error:
            line, column = (error.position.line, error.position.column) if error.position else (1, 1)
            raise EvidenceError(f"{path}:{line}:{column}: {error.detail}") from error
        for document in documents:
            place = document.position()
            try:
                event = event_from(document.value)
            except (ParseError, ValueError, TypeError, AttributeError) as error:
                raise EvidenceError(f"{path}:{place.line}:{place.column}: not an event: {error}") from error
            yield Evidence(path, place.line, expectation, event)


def event_from(value: Mapping[str, Any]) -> AgentEvent:
    """The event that an evidence document describes.

    Raises:
        ParseError: It has a field that events have not, or a wrong value.
        ValueError: It has no kind.
    """
    if not isinstance(value, Mapping):
        raise ValueError("an event must be a mapping")  # noqa: TRY004 - the same to the reader as any other flaw
    event = ParseDict({key: _as_json(part) for key, part in value.items()}, AgentEvent())
    if event.WhichOneof("kind") is None:
        raise ValueError("it has no kind such as proc_exec")
    if not event.process.cmdline and event.proc_exec.argv:
        event.process.cmdline = " ".join(event.proc_exec.argv)
    return event


def run_evidence(rules: Sequence[Rule], folder: Path) -> list[Outcome]:
    """Try every rule on its evidence, by the fast engine and by the plain one.

    A rule without an event that fires it, or without a near miss, fails.

    Raises:
        EvidenceError: As ``read_evidence``.
    """
    outcomes: list[Outcome] = []
    for rule in rules:
        own = folder / rule.path.stem
        engine = RuleSet([rule])
        found = [_try(rule, engine, evidence) for evidence in read_evidence(own)]
        outcomes.extend(found)
        missing = set(Expectation) - {outcome.expectation for outcome in found}
        outcomes.extend(Outcome(rule, own, 1, None, f"no {e.value} evidence") for e in Expectation if e in missing)
    return outcomes


def _try(rule: Rule, engine: RuleSet, evidence: Evidence) -> Outcome:
    kind = evidence.event.WhichOneof("kind") or ""
    fired = bool(engine.match(evidence.event))
    plain = kind in rule.kinds and rule.coverage.status.evaluated and evaluate(rule.condition, evidence.event, kind)
    wanted = evidence.expectation is Expectation.FIRES
    detail = ""
    if fired != plain:
        detail = f"the fast engine says {fired}, the plain one {plain}: a fault of the engine"
    elif fired != wanted:
        detail = "does not fire" if wanted else "fires on a near miss"
    return Outcome(rule, evidence.path, evidence.line, evidence.expectation, detail)


def _as_json(value: Any, key: str = "") -> Any:
    """``value`` with addresses as protobuf's JSON form has bytes; ParseDict takes base64."""
    if isinstance(value, Mapping):
        return {name: _as_json(part, str(name)) for name, part in value.items()}
    if isinstance(value, str) and key.endswith("_ip"):
        packed = packed_address(value)
        if packed is None:
            raise ValueError(f"{key}: {value!r} is no address")
        return base64.b64encode(packed).decode()
    return value
