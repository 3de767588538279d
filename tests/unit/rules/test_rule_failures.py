"""An exception in one rule costs no other rule its match, and in the end only that rule its place."""

from dataclasses import replace

from microedr_rules.ast import And, Atom, Compare, Order, Place, Regex, Text
from microedr_rules.ruleset import RuleSet
from support.rule_events import exec_event, lite_text, rule_of

GOOD = rule_of(lite_text("process.exe: /usr/bin/ls"))


class Bomb(int):
    """A number that cannot be compared; no loader makes one."""

    def __repr__(self) -> str:
        return "(1 // 0)"

    def __lt__(self, _other: object) -> bool:
        raise ZeroDivisionError


BAD = replace(
    GOOD,
    rule_id="T-0",
    condition=And((Atom("process.exe", Text(Place.START, "/usr")), Atom("process.uid", Compare(Order.GT, Bomb())))),
)


def test_a_rule_that_raises_is_counted_and_then_disabled() -> None:
    rules = RuleSet([GOOD, BAD], max_errors=3)

    fired = [[match.rule.rule_id for match in rules.match(exec_event())] for _ in range(5)]

    assert fired == [["T-1"]] * 5
    assert rules.errors_total == {"T-0": 3}
    assert rules.failures_total == 3
    assert rules.disabled.keys() == {"T-0"}
    assert rules.disabled["T-0"].startswith("ZeroDivisionError")
    assert [rule.rule_id for rule in rules.evaluated] == ["T-1"]


def test_an_error_that_does_not_come_again_disables_nothing() -> None:
    rules = RuleSet([GOOD, BAD], max_errors=3)
    rules.match(exec_event())
    for _ in range(10):
        rules.match(exec_event(exe="/bin/ls"))

    assert not rules.disabled
    assert len(rules.evaluated) == 2


def test_a_rule_that_cannot_be_compiled_is_disabled_alone() -> None:
    uncompilable = replace(GOOD, rule_id="T-2", condition=Atom("process.exe", Regex("(")))
    rules = RuleSet([GOOD, uncompilable])

    assert [match.rule.rule_id for match in rules.match(exec_event())] == ["T-1"]
    assert rules.disabled.keys() == {"T-2"}
    assert rules.failures_total > 0
