"""The rules in force: loaded, hashed, compiled, matched. One exception in a rule never costs another its match."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from microedr.v1.event_pb2 import AgentEvent
from microedr_rules.access import text_of
from microedr_rules.compile import KindMatcher, compile_kind
from microedr_rules.interpret import evaluate, matched_fields
from microedr_rules.loader import load
from microedr_rules.model import Problem, Rule, RuleMatch

MAX_RULE_ERRORS = 10
"""After this many exceptions a rule is no longer evaluated: it would only cost time."""

_NONE: tuple[RuleMatch, ...] = ()


class RuleSet:
    """All rules and what they match. Not for two threads at once: it counts errors."""

    def __init__(
        self, rules: Sequence[Rule], problems: Sequence[Problem] = (), *, max_errors: int = MAX_RULE_ERRORS
    ) -> None:
        self.rules: tuple[Rule, ...] = tuple(sorted(rules, key=lambda rule: rule.rule_id))
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.hash = _hash(self.rules)
        self._max_errors = max_errors
        self._errors: Counter[str] = Counter()
        self._failures_total = 0
        self._reasons: dict[str, str] = {}
        self._by_kind: dict[str, list[Rule]] = {}
        self._matchers: dict[str, KindMatcher] = {}
        for rule in self.rules:
            if rule.coverage.status.evaluated:
                for kind in rule.kinds:
                    self._by_kind.setdefault(kind, []).append(rule)
        for kind in self._by_kind:
            self._compile(kind)

    @classmethod
    def load(cls, paths: Sequence[Path] = (), *, builtin: bool = True, max_errors: int = MAX_RULE_ERRORS) -> "RuleSet":
        """The rules in these files and directories, those shipped with microedr first.

        Wrong files and rules are left out and stand in ``problems``.
        """
        loaded = load(paths, builtin=builtin)
        return cls(loaded.rules, loaded.problems, max_errors=max_errors)

    @property
    def evaluated(self) -> tuple[Rule, ...]:
        """The rules that are matched: those our telemetry covers, and that did not fail too often."""
        return tuple(rule for rule in self.rules if rule.coverage.status.evaluated and not self.is_disabled(rule))

    @property
    def failures_total(self) -> int:
        """Exceptions of all rules; never goes down."""
        return self._failures_total

    @property
    def errors_total(self) -> Mapping[str, int]:
        """Exceptions per rule id."""
        return MappingProxyType(self._errors)

    @property
    def disabled(self) -> Mapping[str, str]:
        """Rules that failed too often, by id, and how they failed the last time."""
        return {
            rule_id: reason for rule_id, reason in self._reasons.items() if self._errors[rule_id] >= self._max_errors
        }

    def is_disabled(self, rule: Rule) -> bool:
        """Whether ``rule`` failed too often to be evaluated any more."""
        return self._errors[rule.rule_id] >= self._max_errors

    def match(self, event: AgentEvent) -> Sequence[RuleMatch]:
        """The rules that fire on ``event``, in order of their ids. Never raises."""
        kind = event.WhichOneof("kind")
        if kind not in self._matchers:
            return _NONE
        try:
            hits = self._matchers[kind](event)
            if not hits:
                return _NONE
            return [self._matched(self._by_kind[kind][index], event, kind) for index in hits]
        except Exception:  # noqa: BLE001 - whatever a rule does, the others must still be heard
            return self._one_by_one(event, kind)

    def _matched(self, rule: Rule, event: AgentEvent, kind: str) -> RuleMatch:
        found = matched_fields(rule.condition, event, kind)
        found.update((name, text_of(event, name)) for name in rule.group_by)
        return RuleMatch(rule, found)

    def _one_by_one(self, event: AgentEvent, kind: str) -> Sequence[RuleMatch]:
        """The same by the plain evaluator, which tells the rule that fails from the rest."""
        matches = []
        for rule in tuple(self._by_kind[kind]):
            try:
                if evaluate(rule.condition, event, kind):
                    matches.append(self._matched(rule, event, kind))
            except Exception as error:  # noqa: BLE001 - counted against this rule
                self._failed(rule, error)
        return matches

    def _failed(self, rule: Rule, error: Exception) -> None:
        self._count(rule, error)
        if self.is_disabled(rule):
            for kind in rule.kinds:
                self._compile(kind)

    def _count(self, rule: Rule, error: Exception, times: int = 1) -> None:
        self._failures_total += times
        self._errors[rule.rule_id] += times
        self._reasons[rule.rule_id] = f"{type(error).__name__}: {error}"

    def _compile(self, kind: str) -> None:
        rules = self._by_kind[kind] = [rule for rule in self._by_kind[kind] if not self.is_disabled(rule)]
        try:
            self._matchers[kind] = compile_kind(kind, [rule.condition for rule in rules])
        except Exception:
            guilty = [(rule, error) for rule in rules if (error := _compile_error(kind, rule))]
            if not guilty:
                raise
            for rule, error in guilty:
                self._count(rule, error, self._max_errors)
            self._compile(kind)


def _compile_error(kind: str, rule: Rule) -> Exception | None:
    try:
        compile_kind(kind, [rule.condition])
    except Exception as error:  # noqa: BLE001 - one rule must not keep all others from being evaluated
        return error
    return None


def _hash(rules: Sequence[Rule]) -> str:
    digest = hashlib.sha256()
    for rule in rules:
        digest.update(f"{rule.rule_id}\0{rule.rule_hash}\0{rule.builtin}\n".encode())
    return digest.hexdigest()[:16]
