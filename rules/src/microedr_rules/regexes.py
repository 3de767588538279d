"""Regular expressions: RE2's syntax and RE2's promise that a search takes linear time.

The engine is the one pySigma validates rules with, so a pattern that loads is a pattern that runs.
Backreferences and look-around do not exist in it; a rule that uses them is refused when it loads.
"""

import re
from collections.abc import Iterable
from typing import Protocol, cast

from sigma.policy import default_policy

from microedr_rules.ast import Regex, Wild
from microedr_rules.errors import RuleError

MAX_PATTERN_CHARS = 4096
"""Of one expression. Public rules stay below 700; RE2's automaton grows with the pattern."""

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}


class Searcher(Protocol):
    """A compiled expression."""

    def search(self, text: str, /) -> object | None:
        """Something true when it is found anywhere in ``text``."""


def compile_regex(regex: Regex) -> Searcher:
    """``regex``, ready to search.

    Raises:
        RuleError: RE2 does not take it, or it is too long.
    """
    if len(regex.pattern) > MAX_PATTERN_CHARS:
        raise RuleError(f"regular expression of {len(regex.pattern)} characters, allowed are {MAX_PATTERN_CHARS}")
    engine = default_policy.regex_engine
    flags = 0
    for flag in regex.flags:
        flags |= _FLAGS[flag]
    try:
        return cast("Searcher", engine.compile(regex.pattern, flags))
    except engine.error as error:
        raise RuleError(f"regular expression {regex.pattern!r} is not valid in RE2: {_message(error)}") from error


def wildcards_as_regex(parts: Iterable[str | Wild]) -> Regex:
    """A regular expression for literals and wildcards over a whole text."""
    body = "".join(_SPECIAL.sub(r"\\\g<0>", part) if isinstance(part, str) else _WILD[part] for part in parts)
    return Regex(rf"\A(?:{body})\z", frozenset("s"))


_SPECIAL = re.compile(r"[!-/:-@\[-`{-~]")
"""ASCII punctuation: RE2 takes it escaped, and nothing else."""

_WILD = {Wild.ANY: ".*", Wild.ONE: "."}


def _message(error: Exception) -> str:
    text = error.args[0] if error.args else str(error)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
