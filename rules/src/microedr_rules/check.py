"""``microedr rules check`` and ``microedr rules test``, up to the command line: results and how they read.

The command line itself is the standalone member's; it prints ``lines`` and exits with ``exit_code``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microedr_rules.errors import EvidenceError
from microedr_rules.evidence import Outcome, builtin_evidence_dir, run_evidence
from microedr_rules.loader import builtin_dir, load, load_file
from microedr_rules.model import Gravity, Problem, Rule, Status


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What loading some rule files showed."""

    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...]
    files_total: int

    @property
    def exit_code(self) -> int:
        """0 when every file is good; warnings do not count."""
        return int(any(problem.gravity is Gravity.ERROR for problem in self.problems))

    def lines(self) -> list[str]:
        """Problems as compilers say them, then a summary."""
        statuses = Counter(rule.coverage.status for rule in self.rules)
        counts = ", ".join(f"{statuses[status]} {status.value}" for status in Status if statuses[status])
        errors = sum(problem.gravity is Gravity.ERROR for problem in self.problems)
        summary = f"{len(self.rules)} rules in {self.files_total} files: {counts or 'none'}; {errors} errors"
        return [*map(str, self.problems), summary]

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "files": self.files_total,
            "rules": [
                {
                    "rule_id": rule.rule_id,
                    "title": rule.title,
                    "file": str(rule.path),
                    "line": rule.position.line,
                    "severity": rule.severity.value,
                    "confidence": rule.confidence,
                    "status": rule.coverage.status.value,
                    "reason": rule.coverage.reason,
                    "missing_fields": list(rule.coverage.missing_fields),
                }
                for rule in self.rules
            ],
            "problems": [
                {
                    "file": str(problem.path),
                    "line": problem.position.line,
                    "column": problem.position.column,
                    "gravity": problem.gravity.value,
                    "detail": problem.detail,
                }
                for problem in self.problems
            ],
        }


@dataclass(frozen=True, slots=True)
class EvidenceReport:
    """What trying rules on their evidence showed."""

    outcomes: tuple[Outcome, ...]
    problems: tuple[Problem, ...] = ()
    fault: str = ""
    """An evidence file that cannot be read. Empty: none."""

    @property
    def exit_code(self) -> int:
        """0 when there is evidence and all of it holds: no evidence proves nothing."""
        errors = any(problem.gravity is Gravity.ERROR for problem in self.problems)
        held = bool(self.outcomes) and all(outcome.ok for outcome in self.outcomes)
        return int(errors or bool(self.fault) or not held)

    def lines(self) -> list[str]:
        """Failures with file and line, then a summary."""
        failed = [outcome for outcome in self.outcomes if not outcome.ok]
        rules = {outcome.rule.rule_id for outcome in self.outcomes}
        summary = f"{len(rules)} rules on {len(self.outcomes)} events: {len(failed)} failed"
        return [
            *(str(problem) for problem in self.problems if problem.gravity is Gravity.ERROR),
            *filter(None, (self.fault,)),
            *(f"{o.path}:{o.line}:1: {o.rule.rule_id} ({o.rule.title}): {o.detail}" for o in failed),
            summary,
        ]

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "fault": self.fault,
            "outcomes": [
                {
                    "rule_id": outcome.rule.rule_id,
                    "file": str(outcome.path),
                    "line": outcome.line,
                    "expectation": outcome.expectation.value if outcome.expectation else None,
                    "ok": outcome.ok,
                    "detail": outcome.detail,
                }
                for outcome in self.outcomes
            ],
        }


def check(paths: Sequence[Path]) -> CheckReport:
    """Load the rules in ``paths``, or those shipped with microedr when there are none."""
    loaded = load(paths, builtin=not paths)
    return CheckReport(loaded.rules, loaded.problems, loaded.files_total)


def run_tests(paths: Sequence[Path] = (), evidence: Path | None = None) -> EvidenceReport:
    """Try rules on their evidence: those in ``paths``, or those shipped with microedr.

    Args:
        paths: Rule files and directories.
        evidence: Directory with a folder per rule, named as the rule's file. None: ``evidence`` beside
            the directory of the first path, or that shipped with microedr.
    """
    if paths:
        loaded = load(paths, builtin=False)
        rules, problems = loaded.rules, loaded.problems
        home = paths[0] if paths[0].is_dir() else paths[0].parent
        folder = evidence or next((d for d in (home / "evidence", home.parent / "evidence") if d.is_dir()), home)
    else:
        found = [one for path in sorted(builtin_dir().glob("*.yaml")) for one in load_file(path, builtin=True)]
        rules = tuple(one for one in found if isinstance(one, Rule))
        problems = tuple(one for one in found if isinstance(one, Problem))
        folder = evidence or builtin_evidence_dir()
    try:
        return EvidenceReport(tuple(run_evidence(rules, folder)), problems)
    except EvidenceError as error:
        return EvidenceReport((), problems, str(error))
