"""sigma-lite, the short rule language: the seed's example, every operator, and strictness."""

import pytest

from microedr.v1.event_pb2 import NET_PHASE_CLOSE, AgentEvent, ProcFork
from microedr_rules.errors import RuleError
from microedr_rules.model import ActionType, RuleAction, Severity
from support.rule_events import exec_event, fires, lite_text, net_event, rule_of

SEED = """
id: R1001
name: Suspicious curl|wget to IP with bash
match:
  event_type: proc.exec
  any:
    - process.exe: "/usr/bin/curl"
    - process.exe: "/usr/bin/wget"
  contains:
    process.cmdline:
      - "| bash"
      - "| sh"
severity: high
actions:
  - type: kill_process
    when: auto_if_confidence_gte
    value: 0.90
"""


def test_the_example_of_the_specification_works_as_written() -> None:
    rule = rule_of(SEED)

    assert (rule.rule_id, rule.title, rule.severity) == ("R1001", "Suspicious curl|wget to IP with bash", Severity.HIGH)
    assert rule.actions == (RuleAction(ActionType.KILL_PROCESS, 0.90),)
    assert fires(rule, exec_event("curl x | sh", exe="/usr/bin/curl"))
    assert fires(rule, exec_event("wget x | bash", exe="/usr/bin/wget"))
    assert not fires(rule, exec_event("curl x | jq", exe="/usr/bin/curl"))
    assert not fires(rule, exec_event("curl x | sh", exe="/usr/bin/lynx"))


@pytest.mark.parametrize(
    ("match", "cmdline", "expected"),
    [
        ("process.cmdline: ls", "LS", True),
        ("process.cmdline: [a, b]", "b", True),
        ("process.cmdline: 'a*'", "ab", False),  # values are literal
        ("process.cmdline: 'a*'", "a*", True),
        ("contains: {process.cmdline: ['?', x]}", "a?b", True),
        ("contains: {process.cmdline: b}", "abc", True),
        ("contains: {process.cmdline: [x, b], process.exe: ls}", "abc", True),
        ("contains: {process.cmdline: [x, b], process.exe: nope}", "abc", False),
        ("contains_all: {process.cmdline: [a, b]}", "abc", True),
        ("contains_all: {process.cmdline: [a, x]}", "abc", False),
        ("starts_with: {process.cmdline: ab}", "abc", True),
        ("starts_with: {process.cmdline: bc}", "abc", False),
        ("ends_with: {process.cmdline: bc}", "abc", True),
        ("ends_with: {process.cmdline: ab}", "abc", False),
        ("regex: {process.cmdline: 'a.c'}", "xabcx", True),
        ("regex: {process.cmdline: 'a.c'}", "ABC", False),
        ("regex: {process.cmdline: '(?i)a.c'}", "ABC", True),
        ("exists: {process.cmdline: true}", "a", True),
        ("exists: {process.cmdline: false}", "a", False),
        ("process.uid: 33", "a", True),
        ("process.uid: [1, 2]", "a", False),
        ("gt: {process.uid: 32}", "a", True),
        ("gte: {process.uid: 34}", "a", False),
        ("lt: {process.uid: 34}", "a", True),
        ("lte: {process.uid: 32}", "a", False),
        ("process.signing.trusted: false", "a", True),
        ("any: [{process.cmdline: a}, {process.cmdline: b}]", "b", True),
        ("any: [{process.cmdline: a}, {process.cmdline: b}]", "c", False),
        ("all: [{contains: {process.cmdline: a}}, {contains: {process.cmdline: b}}]", "ab", True),
        ("all: [{contains: {process.cmdline: a}}, {contains: {process.cmdline: b}}]", "a", False),
        ("none: [{process.cmdline: a}, {process.cmdline: b}]", "c", True),
        ("none: [{process.cmdline: a}, {process.cmdline: b}]", "b", False),
        ("any: [{process.cmdline: b, none: [{process.uid: 33}]}, {process.cmdline: c}]", "b", False),
        ("Image: /usr/bin/ls", "a", True),  # Sigma's names mean the same here
    ],
)
def test_a_block_matches(match: str, cmdline: str, *, expected: bool) -> None:
    assert fires(rule_of(lite_text(match)), exec_event(cmdline, uid=33)) is expected


@pytest.mark.parametrize(("cidr", "expected"), [("203.0.113.0/24", True), ("10.0.0.0/8", False)])
def test_a_network_matches(cidr: str, *, expected: bool) -> None:
    rule = rule_of(lite_text(f"cidr: {{payload.dst_ip: {cidr}}}", event_type="net.conn"))

    assert fires(rule, net_event()) is expected


def test_the_end_of_a_connection_is_only_for_rules_that_ask_for_a_phase() -> None:
    end = net_event(phase=NET_PHASE_CLOSE)

    assert not fires(rule_of(lite_text("net.dst_port: 443", event_type="net.conn")), end)
    assert fires(rule_of(lite_text("net.dst_port: 443\nnet.phase: close", event_type="net.conn")), end)


def test_a_rule_may_be_about_several_types_of_event() -> None:
    rule = rule_of(lite_text("process.exe: /usr/bin/ls", event_type="[proc.exec, proc.fork]"))
    fork = exec_event()
    fork.proc_fork.CopyFrom(ProcFork(child_pid=3))

    assert fires(rule, exec_event())
    assert fires(rule, fork)
    assert not fires(rule, AgentEvent())


@pytest.mark.parametrize(
    ("text", "complaint", "line"),
    [
        (
            lite_text("process.exx: a"),
            "unknown field or operator 'process.exx' for proc.exec; did you mean process.exe?",
            6,
        ),
        (lite_text("contain: {process.exe: a}"), "unknown field or operator 'contain'", 6),
        (lite_text("payload.dst_ip: a"), "unknown field or operator 'payload.dst_ip' for proc.exec", 6),
        (lite_text("process.exe: []"), "process.exe has no values", 6),
        (lite_text("process.exe: {a: b}"), "must be a text, a number or a list", 6),
        (lite_text("process.exe: null"), "must be a text, a number or a list", 6),
        (lite_text("contains: {process.exe: ''}"), "not empty", 6),
        (lite_text("contains: [a]"), "contains must be a mapping", 6),
        (lite_text("contains: {}"), "contains is empty", 6),
        (lite_text("any: []"), "any is empty", 6),
        (lite_text("any: [{}]"), "the block is empty", 6),
        (lite_text("any: [a]"), "must be a mapping", 6),
        (lite_text("regex: {process.exe: '('}"), "not valid in RE2", 6),
        (lite_text("regex: {process.exe: '(?=a)'}"), "not valid in RE2", 6),
        (lite_text("regex: {process.exe: '" + "a" * 5000 + "'}"), "5000 characters", 6),
        (lite_text("gt: {process.uid: a}"), "must be a number", 6),
        (lite_text("exists: {process.uid: 1}"), "true or false", 6),
        (lite_text("cidr: {process.exe: 10.0.0.1/8}"), "not a network", 6),
        (lite_text("", event_type="proc.exec"), "the block is empty", 4),
        (
            lite_text("process.exe: a", event_type="proc.nothing"),
            "unknown event type 'proc.nothing'; known are proc.exec",
            5,
        ),
        (lite_text("process.exe: a", event_type=""), "event_type is missing", 5),
        (lite_text("process.exe: a", more="colour: red"), "unknown key 'colour'", 7),
        (lite_text("process.exe: a", more="threshold: {count: 5}"), "thresholds are not supported yet", 7),
        (lite_text("process.exe: a", more="confidence: 1.5"), "confidence must be a number from 0 to 1", 7),
        (lite_text("process.exe: a", more="confidence: high"), "confidence must be a number from 0 to 1", 7),
        (lite_text("process.exe: a", more="actions: [{type: reboot}]"), "unknown action 'reboot'", 7),
        (lite_text("process.exe: a", more="actions: [{type: kill_process, when: always}]"), "unknown condition", 7),
        (
            lite_text("process.exe: a", more="actions: [{type: kill_process, when: auto_if_confidence_gte}]"),
            "needs a value",
            7,
        ),
        (
            lite_text(
                "process.exe: a", more="actions: [{type: kill_process, when: auto_if_confidence_gte, value: 0.5}]"
            ),
            "from 0.9 to 1",
            7,
        ),
        (lite_text("process.exe: a", more="suppress: soon"), "must be a time", 7),
        (lite_text("process.exe: a").replace("severity: high", "severity: dire"), "unknown severity 'dire'", 3),
        (lite_text("process.exe: a").replace("id: T-1\n", ""), "id is missing", 1),
    ],
)
def test_a_wrong_rule_is_refused_at_its_line(text: str, complaint: str, line: int) -> None:
    with pytest.raises(RuleError) as caught:
        rule_of(text)

    assert complaint in caught.value.detail
    assert caught.value.position is not None
    assert caught.value.position.line == line


def test_suppress_and_group_by_are_read() -> None:
    rule = rule_of(lite_text("process.exe: a", more="suppress: 15m\ngroup_by: [process.exe]"))

    assert rule.suppress_s == 900
    assert rule.group_by == ("process.exe",)
