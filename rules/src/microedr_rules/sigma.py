"""Sigma detections, unmodified: parsed and validated by pySigma, then turned into our AST.

pySigma says what is wrong but not where; ``_locate`` finds the place by trying the parts one by one.
Not here: correlations, filters and SQL.
"""

import uuid
from collections.abc import Iterator
from typing import Any

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.exceptions import SigmaConditionError, SigmaDetectionError, SigmaError, SigmaLogsourceError
from sigma.rule import SigmaDetectionItem, SigmaRule

from microedr_rules.ast import Node, Not, all_of, any_of
from microedr_rules.documents import Place
from microedr_rules.errors import RuleError
from microedr_rules.logsource import describe, source_of
from microedr_rules.metadata import OWN_KEYS, read_own_keys, read_severity
from microedr_rules.parsed import ParsedRule
from microedr_rules.reading import Reader
from microedr_rules.sigma_values import field_node, keyword_node


def parse_sigma(reader: Reader, *, builtin: bool) -> ParsedRule:
    """The rule in a document with ``detection:``.

    Raises:
        RuleError: pySigma or our AST does not take it.
    """
    reader.mapping("detection")
    reader.mapping("microedr", keys=OWN_KEYS)
    if reader.value("detection", "timeframe") is not None:
        raise reader.error(
            "timeframe needs a correlation rule; a detection looks at one event", "detection", "timeframe"
        )
    reader.text("title", required=True)
    _check_id(reader)
    rule, condition = _parse(reader)
    severity = read_severity(reader, "level")
    status = "" if rule.status is None else rule.status.name.lower()
    own = read_own_keys(reader, "microedr", severity=severity, status=status, builtin=builtin)
    log = rule.logsource
    source = source_of(log.product, log.category, log.service)
    return ParsedRule(
        rule_id=str(rule.id),
        title=rule.title,
        severity=severity,
        own=own,
        condition=all_of([source.condition, condition]) if source.condition else condition,
        source=source,
        language="sigma",
        description=rule.description or "",
        author=rule.author or "",
        status=status,
        logsource=describe(log.product, log.category, log.service),
        tags=tuple(str(tag) for tag in rule.tags),
        references=reader.texts("references"),
        falsepositives=reader.texts("falsepositives"),
    )


def _check_id(reader: Reader) -> None:
    written = reader.text("id", required=True)
    try:
        uuid.UUID(written)
    except ValueError:
        raise reader.error(f"id {written!r} is no UUID", "id") from None


def _parse(reader: Reader) -> tuple[SigmaRule, Node]:
    try:
        rule = SigmaRule.from_dict(reader.value())
        return rule, _condition(rule)
    except RuleError as error:
        raise _locate(reader, error) from error
    except SigmaError as error:
        raise _locate(reader, error) from error
    except Exception as error:  # pySigma answers some wrong types with AttributeError or TypeError
        raise _locate(reader, error) from error


def _condition(rule: SigmaRule) -> Node:
    nodes = []
    for condition in rule.detection.parsed_condition:
        parsed = condition.parsed
        if parsed is None:
            raise RuleError("the condition is empty")
        nodes.append(_node(parsed))
    return any_of(nodes)


def _node(parsed: Any) -> Node:
    match parsed:
        case ConditionAND():
            return all_of([_node(arg) for arg in parsed.args])
        case ConditionOR():
            return any_of([_node(arg) for arg in parsed.args])
        case ConditionNOT():
            (arg,) = parsed.args
            return Not(_node(arg))
        case ConditionFieldEqualsValueExpression():
            return field_node(parsed.field, parsed.value)
        case ConditionValueExpression():
            return keyword_node(parsed.value)
        case _:
            raise RuleError(f"conditions of type {type(parsed).__name__} are not supported")


def _locate(reader: Reader, error: Exception) -> RuleError:
    """``error`` at the place that causes it, as near as trying the parts tells."""
    for place, key, value in _items(reader):
        problem = _item_problem(key, value)
        if problem is not None:
            return reader.error(problem, *place)
    return reader.error(_plain(error), *_likely_place(reader, error))


def _items(reader: Reader) -> Iterator[tuple[Place, str | None, Any]]:
    """Every field test and keyword of the detection, with its place."""
    for name in reader.value("detection") or {}:
        if name == "condition":
            continue
        stack: list[Place] = [("detection", name)]
        while stack:
            place = stack.pop()
            value = reader.value(*place)
            if isinstance(value, dict):
                for key, tested in value.items():
                    yield (*place, key), key, tested
            elif isinstance(value, list):
                stack.extend((*place, index) for index in reversed(range(len(value))))
            else:
                yield place, None, value


def _item_problem(key: str | None, value: Any) -> str | None:
    try:
        item = SigmaDetectionItem.from_mapping(key, value)
        for one in item.value:
            if item.field is None:
                keyword_node(one)
            else:
                field_node(item.field, one)
    except Exception as error:  # noqa: BLE001 - see _parse; whatever it is, this is the place
        return _plain(error)
    return None


def _likely_place(reader: Reader, error: Exception) -> Place:
    words = str(error).lower()
    if isinstance(error, SigmaLogsourceError):
        return ("logsource",)
    if isinstance(error, SigmaConditionError | SigmaDetectionError) or "condition" in words:
        return ("detection", "condition") if reader.value("detection") else ("detection",)
    for key in ("identifier", "id"), ("level", "level"), ("status", "status"), ("tag", "tags"), ("title", "title"):
        if key[0] in words:
            return (key[1],)
    for key in reader.value():
        if isinstance(key, str) and key in words:
            return (key,)
    return ()


def _plain(error: Exception) -> str:
    if isinstance(error, RuleError):
        return error.detail
    if isinstance(error, SigmaError):
        return str(error.args[0]) if error.args else str(error)
    return f"not valid Sigma: {error}"
