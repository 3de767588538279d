"""The rules shipped with microedr: each has evidence that holds, and few may act on their own."""

import re
import uuid
from dataclasses import replace

import pytest

from microedr_rules.ast import And, Atom, Node, Not, Or, Place, Text
from microedr_rules.check import check, run_tests
from microedr_rules.evidence import Expectation, builtin_evidence_dir, read_evidence, run_evidence
from microedr_rules.loader import builtin_dir, load
from microedr_rules.model import ActionType, Rule, Severity, Status
from microedr_rules.ruleset import RuleSet

RULES = load([]).rules
ARMED = {"microedr-demo", "R1001", "R1002", "R1003", "c0a3d9e5-0e0b-4b0e-9f0c-7a9b2a6f4d55"}


def test_all_of_them_load_whole() -> None:
    report = check([])

    assert not report.problems
    assert report.exit_code == 0
    assert len(report.rules) == report.files_total == len(list(builtin_dir().iterdir())) >= 12
    assert {rule.coverage.status for rule in report.rules} == {Status.FULL}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.path.stem)
def test_its_evidence_fires_it_and_its_near_misses_do_not(rule: Rule) -> None:
    outcomes = run_evidence([rule], builtin_evidence_dir())

    assert [f"{o.path.name}:{o.line}: {o.detail}" for o in outcomes if not o.ok] == []
    assert {o.expectation for o in outcomes} == set(Expectation)


def test_every_folder_of_evidence_belongs_to_a_rule() -> None:
    assert {path.name for path in builtin_evidence_dir().iterdir()} == {rule.path.stem for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.path.stem)
def test_near_misses_are_near(rule: Rule) -> None:
    """Some single demand of the rule keeps each from firing."""
    weaker = [RuleSet([replace(rule, condition=condition)]) for condition in _weakened(rule.condition) or [ALWAYS]]
    far = [
        f"{one.path.name}:{one.line}"
        for one in read_evidence(builtin_evidence_dir() / rule.path.stem)
        if one.expectation is Expectation.QUIET and not any(rules.match(one.event) for rules in weaker)
    ]

    assert far == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.path.stem)
def test_it_says_what_it_is(rule: Rule) -> None:
    assert rule.builtin
    assert rule.description
    assert rule.author == "microedr"
    assert any(re.fullmatch(r"attack\.t\d{4}(\.\d{3})?", tag) for tag in rule.tags)
    assert rule.rule_id == "microedr-demo" or re.fullmatch(r"R1\d{3}", rule.rule_id) or uuid.UUID(rule.rule_id)


def test_only_these_may_kill_on_their_own() -> None:
    automatic = {rule.rule_id for rule in RULES if any(action.auto_if_confidence_gte for action in rule.actions)}

    assert automatic == ARMED
    for rule in RULES:
        for action in rule.actions:
            assert action.auto_if_confidence_gte is None or action.auto_if_confidence_gte >= 0.90
        assert (rule.confidence >= 0.90) == (rule.rule_id in ARMED)


def test_the_demo_rule_fires_on_the_demo_and_asks_for_the_kill() -> None:
    (demo,) = [rule for rule in RULES if rule.rule_id == "microedr-demo"]

    assert demo.title == "Demo: remote fetch piped to a shell by the demo program"
    assert demo.severity is Severity.HIGH
    assert demo.confidence == pytest.approx(0.95)
    (action,) = demo.actions
    assert (action.type, action.auto_if_confidence_gte) == (ActionType.KILL_PROCESS, 0.90)


def test_the_demo_fires_no_rule_but_its_own() -> None:
    evidence = read_evidence(builtin_evidence_dir() / "microedr-demo")
    fired = {
        match.rule.rule_id
        for one in evidence
        if one.expectation is Expectation.FIRES
        for match in RuleSet(RULES).match(one.event)
    }

    assert fired == {"microedr-demo"}


def test_the_command_says_how_many_were_tried() -> None:
    report = run_tests()

    assert report.exit_code == 0
    assert report.lines() == [f"{len(RULES)} rules on {len(report.outcomes)} events: 0 failed"]


ALWAYS = Not(Atom("process.exe", Text(Place.WHOLE, "\0")))


def _weakened(node: Node) -> list[Node]:
    """The condition with one demand of it taken away, in every way."""
    match node:
        case And(nodes):
            dropped: list[Node] = [And((*nodes[:i], ALWAYS, *nodes[i + 1 :])) for i in range(len(nodes))]
            return dropped + [And((*nodes[:i], w, *nodes[i + 1 :])) for i, n in enumerate(nodes) for w in _weakened(n)]
        case Or(nodes):
            return [Or((*nodes[:i], w, *nodes[i + 1 :])) for i, n in enumerate(nodes) for w in _weakened(n)]
        case _:
            return []
