"""From rule files to rules. A file, or a document in it, that is wrong becomes a Problem; the others stay."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from microedr_rules.documents import Document, parse_documents, read_text
from microedr_rules.errors import Position, RuleError
from microedr_rules.lite import parse_lite
from microedr_rules.model import Gravity, Problem, Rule, Status
from microedr_rules.reading import Reader
from microedr_rules.sigma import parse_sigma

MAX_FILES = 20_000
"""Below the given paths. SigmaHQ has fewer than 4000."""

_SUFFIXES = {".yml", ".yaml"}
_LATER = {
    "correlation": "Sigma correlations are not supported yet",
    "filter": "Sigma filters are not supported yet",
    "sql": "SQL rules are not supported yet",
    "threshold": "thresholds are not supported yet",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found in rule files."""

    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...]
    files_total: int


def builtin_dir() -> Path:
    """Where the rules shipped with microedr are."""
    return Path(str(resources.files("microedr_rules") / "builtin"))


def load(paths: Sequence[Path], *, builtin: bool = True) -> Loaded:
    """Load the files in ``paths`` and, below directories, every ``.yml`` and ``.yaml``.

    Args:
        paths: Files and directories of other people's rules.
        builtin: Whether the rules shipped with microedr come first.
    """
    rules: dict[str, Rule] = {}
    problems: list[Problem] = []
    files_total = 0
    for root, ours in [(builtin_dir(), True)] * builtin + [(path, False) for path in paths]:
        files, missing = _files(root)
        problems.extend(missing)
        for path in files:
            files_total += 1
            if files_total > MAX_FILES:
                problems.append(_problem(root, f"more than {MAX_FILES} rule files; the rest is not read"))
                return Loaded(tuple(rules.values()), tuple(problems), MAX_FILES)
            for found in load_file(path, builtin=ours):
                if isinstance(found, Problem):
                    problems.append(found)
                else:
                    problems.extend(_take(found, rules))
    return Loaded(tuple(rules.values()), tuple(problems), files_total)


def load_file(path: Path, *, builtin: bool = False) -> Iterator[Rule | Problem]:
    """The rules of one file, and a Problem for each document that is none."""
    try:
        documents = parse_documents(read_text(path))
    except RuleError as error:
        yield _problem(path, error.detail, error.position)
        return
    if not documents:
        yield _problem(path, "the file is empty")
    for document in documents:
        try:
            yield parse_rule(document, path, builtin=builtin)
        except RuleError as error:
            yield _problem(path, error.detail, error.position or document.position())


def parse_rule(document: Document, path: Path, *, builtin: bool = False) -> Rule:
    """The rule in ``document``; its top-level key tells the language.

    Raises:
        RuleError: It is none, or not one we can use whole.
    """
    reader = Reader(document)
    keys = reader.mapping()
    for key, detail in _LATER.items():
        if key in keys:
            raise reader.error(detail, key)
    if "detection" in keys:
        parsed = parse_sigma(reader, builtin=builtin)
    elif "match" in keys:
        parsed = parse_lite(reader, builtin=builtin)
    else:
        raise reader.error("not a rule: it has neither detection nor match")
    return parsed.finished(document, path, builtin=builtin)


def _take(rule: Rule, rules: dict[str, Rule]) -> Iterator[Problem]:
    first = rules.get(rule.rule_id)
    if first is not None:
        where = f"{first.path}:{first.position.line}"
        yield Problem(rule.path, rule.position, Gravity.ERROR, f"duplicate id {rule.rule_id}, first used in {where}")
        return
    rules[rule.rule_id] = rule
    if rule.coverage.status is not Status.FULL:
        detail = f"{rule.coverage.status.value}: {rule.coverage.reason}"
        yield Problem(rule.path, rule.position, Gravity.WARNING, detail, rule.rule_id)


def _files(root: Path) -> tuple[Iterable[Path], list[Problem]]:
    if root.is_file():
        return [root], []
    if not root.is_dir():
        return [], [_problem(root, "no such file or directory")]
    problems: list[Problem] = []

    def report(error: OSError) -> None:
        problems.append(_problem(Path(error.filename), f"cannot be read: {error.strerror}"))

    found = [
        Path(folder, name)
        for folder, _folders, names in os.walk(root, onerror=report)
        for name in names
        if Path(name).suffix in _SUFFIXES and not name.startswith(".")
    ]
    return sorted(found), problems


def _problem(path: Path, detail: str, position: Position | None = None) -> Problem:
    return Problem(path, position or Position(), Gravity.ERROR, detail)
