"""Every error the rules raise on purpose, and who is expected to catch it.

* RulesError
  + RuleError               loader: becomes a Problem with file, line and column; other rules stay
  + EvidenceError           evidence: the file is shown as failing; main: exit 1
"""

from dataclasses import dataclass


class RulesError(Exception):
    """Base of all of them."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text, counted from 1 as editors do."""

    line: int = 1
    column: int = 1


class RuleError(RulesError):
    """A rule cannot be used. ``position`` is where in its file, None when the whole rule is meant."""

    def __init__(self, detail: str, position: Position | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.position = position


class EvidenceError(RulesError):
    """An evidence file cannot be read; the text names the file."""
