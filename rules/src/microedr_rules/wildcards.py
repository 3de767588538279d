"""Literals and wildcards against a text in linear time.

``covers`` in ``interpret`` says what is meant; here it is fast: a chain of finds when every wildcard is ``*``,
RE2 when there is a ``?``. Python's own ``re`` needs quadratic time for a few ``*`` over a long command line.
"""

from collections.abc import Callable, Sequence

from microedr_rules.ast import Wild, squeeze
from microedr_rules.regexes import compile_regex, wildcards_as_regex


def compile_pattern(parts: Sequence[str | Wild]) -> Callable[[str], bool]:
    """A function that tells whether ``parts`` cover a text; both in the same case."""
    parts = squeeze(parts)
    if Wild.ONE in parts:
        search = compile_regex(wildcards_as_regex(parts)).search
        return lambda text: search(text) is not None
    if Wild.ANY not in parts:
        whole = "".join(part for part in parts if isinstance(part, str))
        return lambda text: text == whole
    return _chain(parts)


def _chain(parts: Sequence[str | Wild]) -> Callable[[str], bool]:
    # Between any two literals stands a wildcard, and there is at least one.
    literals = [part for part in parts if isinstance(part, str)]
    prefix = literals.pop(0) if parts and isinstance(parts[0], str) else ""
    suffix = literals.pop() if literals and isinstance(parts[-1], str) else ""

    def covers(text: str) -> bool:
        if not text.startswith(prefix) or not text.endswith(suffix):
            return False
        # The leftmost place for each literal leaves the most room for the next.
        at, end = len(prefix), len(text) - len(suffix)
        for literal in literals:
            at = text.find(literal, at, end)
            if at < 0:
                return False
            at += len(literal)
        return at <= end

    return covers
