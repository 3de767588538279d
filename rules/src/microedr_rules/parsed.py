"""A rule as its language's parser leaves it, before the loader adds where it came from."""

from dataclasses import dataclass
from pathlib import Path

from microedr_rules.ast import MAX_ATOMS, MAX_DEPTH, Node, atoms, depth
from microedr_rules.coverage import coverage_of
from microedr_rules.documents import Document
from microedr_rules.errors import RuleError
from microedr_rules.logsource import Source
from microedr_rules.metadata import OwnKeys
from microedr_rules.model import Rule, Severity


@dataclass(frozen=True, slots=True)
class ParsedRule:
    """What a document says."""

    rule_id: str
    title: str
    severity: Severity
    own: OwnKeys
    condition: Node
    source: Source
    language: str
    description: str = ""
    author: str = ""
    status: str = ""
    logsource: str = ""
    tags: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()

    def finished(self, document: Document, path: Path, *, builtin: bool) -> Rule:
        """The rule, with its place, its hash and what of it can be evaluated.

        Raises:
            RuleError: The condition is too deep or too large to be evaluated.
        """
        place = document.position()
        if depth(self.condition) > MAX_DEPTH:
            raise RuleError(f"the condition is nested deeper than {MAX_DEPTH} levels", place)
        if sum(1 for _atom in atoms(self.condition)) > MAX_ATOMS:
            raise RuleError(f"the condition has more than {MAX_ATOMS} tests", place)
        return Rule(
            rule_id=self.rule_id,
            title=self.title,
            severity=self.severity,
            confidence=self.own.confidence,
            condition=self.condition,
            kinds=self.source.kinds,
            rule_hash=document.text_hash,
            path=path,
            position=document.position("id"),
            language=self.language,
            coverage=coverage_of(self.condition, self.source.kinds, self.source.gap),
            builtin=builtin,
            description=self.description,
            author=self.author,
            status=self.status,
            logsource=self.logsource,
            tags=self.tags,
            references=self.references,
            falsepositives=self.falsepositives,
            actions=self.own.actions,
            group_by=self.own.group_by,
            suppress_s=self.own.suppress_s,
        )
