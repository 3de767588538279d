"""From the values pySigma parsed to the tests of our AST. What has no equivalent here is refused."""

from sigma.types import (
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaRegularExpressionFlag,
    SigmaString,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from microedr_rules.ast import (
    Atom,
    Cidr,
    Compare,
    Exists,
    Node,
    Null,
    Number,
    Order,
    Pattern,
    Place,
    Regex,
    SameAs,
    Test,
    Text,
    Wild,
    any_of,
    text_pattern,
)
from microedr_rules.errors import RuleError
from microedr_rules.regexes import compile_regex, wildcards_as_regex

_WILD = {SpecialChars.WILDCARD_MULTI: Wild.ANY, SpecialChars.WILDCARD_SINGLE: Wild.ONE}
_FLAGS = {
    SigmaRegularExpressionFlag.IGNORECASE: "i",
    SigmaRegularExpressionFlag.MULTILINE: "m",
    SigmaRegularExpressionFlag.DOTALL: "s",
}


def field_node(field: str, value: SigmaType) -> Node:
    """The test of ``field`` that ``value`` means.

    Raises:
        RuleError: Nothing of ours means that.
    """
    if isinstance(value, SigmaExpansion):
        return any_of([field_node(field, one) for one in value.values])
    return Atom(field, _test(value))


def keyword_node(value: SigmaType) -> Node:
    """The test of any text of the event that the keyword ``value`` means.

    Raises:
        RuleError: As ``field_node``; also for what would match every event.
    """
    if isinstance(value, SigmaExpansion):
        return any_of([keyword_node(one) for one in value.values])
    if isinstance(value, SigmaNumber) and not isinstance(value, SigmaTimestampPart):
        return Atom(None, Text(Place.INSIDE, str(value.number)))
    if isinstance(value, SigmaString):
        cased = isinstance(value, SigmaCasedString)
        test = _checked(text_pattern([Wild.ANY, *_parts(value), Wild.ANY], cased=cased))
        if isinstance(test, Exists):
            raise RuleError("a keyword that is empty or only * would match every event")
        return Atom(None, test)
    if isinstance(value, SigmaRegularExpression):
        return Atom(None, _test(value))
    raise RuleError(f"{type(value).__name__.removeprefix('Sigma')} needs a field")


def _test(value: SigmaType) -> Test:  # noqa: C901, PLR0911 - one answer per type of value
    match value:
        case SigmaTimestampPart():
            raise RuleError("the modifiers minute to year are not supported")
        case SigmaString():
            return _checked(text_pattern(_parts(value), cased=isinstance(value, SigmaCasedString)))
        case SigmaNumber():
            return Number(value.number)
        case SigmaBool():
            return Text(Place.WHOLE, "true" if value.boolean else "false")
        case SigmaNull():
            return Null()
        case SigmaExists():
            return Exists(value.exists)
        case SigmaRegularExpression():
            return _regex(value)
        case SigmaCIDRExpression():
            return Cidr(value.network)
        case SigmaCompareExpression():
            return Compare(Order[value.op.name], value.number.number)
        case SigmaFieldReference():
            return SameAs(value.field, _place(starts=value.starts_with, ends=value.ends_with))
        case _:
            raise RuleError(f"values of type {type(value).__name__} are not supported")


def _parts(value: SigmaString) -> list[str | Wild]:
    parts: list[str | Wild] = []
    for part in value.s:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, SpecialChars):
            parts.append(_WILD[part])
        else:
            raise RuleError(f"the placeholder %{part.name}% has no values here")
    return parts


def _checked(test: Test) -> Test:
    """``test``, known to compile: patterns with ``?`` run as regular expressions."""
    if isinstance(test, Pattern) and Wild.ONE in test.parts:
        compile_regex(wildcards_as_regex(test.parts))
    return test


def _regex(value: SigmaRegularExpression) -> Regex:
    if value.contains_placeholder():
        raise RuleError("placeholders in regular expressions are not supported")
    regex = Regex(str(value.regexp), frozenset(_FLAGS[flag] for flag in value.flags))
    compile_regex(regex)
    return regex


def _place(*, starts: bool, ends: bool) -> Place:
    # pySigma marks contains as both.
    if starts and ends:
        return Place.INSIDE
    return Place.START if starts else Place.END if ends else Place.WHOLE
