"""The fast engine says what the plain one says, on any rule and any event."""

from ipaddress import ip_network
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from microedr.v1.event_pb2 import AgentEvent, Container, NetConn, Process, ProcExec
from microedr_rules.ast import (
    And,
    Atom,
    Cidr,
    Compare,
    Exists,
    Node,
    Not,
    Null,
    Number,
    Or,
    Order,
    Pattern,
    Place,
    Regex,
    SameAs,
    Test,
    Text,
    Wild,
)
from microedr_rules.compile import compile_kind
from microedr_rules.errors import Position
from microedr_rules.interpret import covers, evaluate, matched_fields
from microedr_rules.model import Coverage, Rule, Severity, Status
from microedr_rules.ruleset import RuleSet
from microedr_rules.wildcards import compile_pattern

# Few letters, so that literals are found; with and without case, and letters whose folding is not plain.
WORDS = st.text(alphabet="abAB/. -ßΣσςK42", max_size=6)  # noqa: RUF001 - the Kelvin sign is one of them
LITERALS = st.text(alphabet="abAB/. -ßΣσςK42", min_size=1, max_size=3)  # noqa: RUF001 - as above
PARTS = st.lists(LITERALS | st.sampled_from(Wild), min_size=1, max_size=6)
NUMBERS = st.sampled_from([0, 1, 2, 4, 42, 443, -1, 4.5])
NETWORKS = st.sampled_from([ip_network(n) for n in ("10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "2001:db8::/32", "::/0")])
ADDRESSES = st.sampled_from(
    [
        b"",
        b"\x0a\x01\x02\x03",
        b"\xcb\x00\x71\x07",
        bytes.fromhex("20010db8000000000000000000000007"),
        bytes(10) + b"\xff\xff\x0a\x01\x02\x03",
        b"\x01\x02",
    ]
)
EXPRESSIONS = st.sampled_from(["a+b", "^a", "b$", "[ab]{2}", "a.*4", "(a|4)2", r"\d", "^$"])
FLAGS = st.sets(st.sampled_from("ims")).map(frozenset)

EXEC_FIELDS = (
    "process.exe",
    "CommandLine",
    "ParentImage",
    "process.user",
    "process.uid",
    "process.signing.trusted",
    "process.sha256",
    "process_uid",
    "container.id",
    "exec.argv",
    "exec.exe_nlink",
    "no.such.field",
)
NET_FIELDS = ("process.exe", "DestinationIp", "SourceIp", "DestinationPort", "Initiated", "net.phase", "net.direction")

ADDRESS_TEXTS = st.sampled_from(["10.1.2.3", "2001:DB8::7", "::ffff:10.1.2.3", "10.1", "::"])
WORD_TEXTS = st.sampled_from(["true", "FALSE", "egress", "open", "Close", "1", "42", "0a"])


def field_tests(fields: tuple[str, ...]) -> st.SearchStrategy[Test]:
    return st.one_of(
        st.builds(Text, st.sampled_from(Place), LITERALS | ADDRESS_TEXTS | WORD_TEXTS, st.booleans()),
        st.builds(Text, st.just(Place.WHOLE), st.just("")),
        st.builds(Pattern, PARTS.map(tuple), st.booleans()),
        st.builds(Regex, EXPRESSIONS, FLAGS),
        st.builds(Cidr, NETWORKS),
        st.builds(Number, NUMBERS),
        st.builds(Compare, st.sampled_from(Order), NUMBERS),
        st.builds(Exists, st.booleans()),
        st.just(Null()),
        st.builds(SameAs, st.sampled_from(fields), st.sampled_from(Place)),
    )


def keywords() -> st.SearchStrategy[Node]:
    return st.builds(
        Atom,
        st.none(),
        st.one_of(
            st.builds(Text, st.just(Place.INSIDE), LITERALS, st.booleans()),
            st.builds(Pattern, PARTS.map(lambda parts: (Wild.ANY, *parts, Wild.ANY)), st.booleans()),
            st.builds(Regex, EXPRESSIONS, FLAGS),
        ),
    )


def conditions(fields: tuple[str, ...]) -> st.SearchStrategy[Node]:
    leaves: st.SearchStrategy[Node] = st.builds(Atom, st.sampled_from(fields), field_tests(fields)) | keywords()
    return st.recursive(
        leaves,
        lambda nodes: st.one_of(
            st.builds(Not, nodes),
            st.builds(And, st.lists(nodes, min_size=1, max_size=4).map(tuple)),
            st.builds(Or, st.lists(nodes, min_size=1, max_size=4).map(tuple)),
        ),
        max_leaves=12,
    )


PROCESSES = st.builds(
    Process,
    exe=WORDS,
    cmdline=WORDS,
    parent_exe=WORDS,
    user=WORDS,
    uid=st.sampled_from([0, 1, 42]),
)
EXECS = st.builds(
    AgentEvent,
    process_uid=st.binary(max_size=2),
    process=PROCESSES,
    container=st.none() | st.builds(Container, container_id=WORDS),
    proc_exec=st.builds(
        ProcExec, argv=st.lists(WORDS, max_size=3), parent_exe=WORDS, exe_nlink=st.sampled_from([0, 1, 2])
    ),
)
CONNECTIONS = st.builds(
    AgentEvent,
    process=PROCESSES,
    net_conn=st.builds(
        NetConn,
        dst_ip=ADDRESSES,
        src_ip=ADDRESSES,
        dst_port=st.sampled_from([0, 42, 443]),
        direction=st.sampled_from([0, 1, 2, 9]),
        phase=st.sampled_from([0, 1, 3]),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(conditions(EXEC_FIELDS), min_size=1, max_size=4), st.lists(EXECS, min_size=1, max_size=4))
def test_on_executions(rules: list[Node], events: list[AgentEvent]) -> None:
    agree("proc_exec", rules, events)


@settings(max_examples=150, deadline=None)
@given(st.lists(conditions(NET_FIELDS), min_size=1, max_size=4), st.lists(CONNECTIONS, min_size=1, max_size=4))
def test_on_connections(rules: list[Node], events: list[AgentEvent]) -> None:
    agree("net_conn", rules, events)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.builds(Atom, st.sampled_from(NET_FIELDS), field_tests(NET_FIELDS)), min_size=8, max_size=8),
    st.lists(CONNECTIONS, min_size=4, max_size=4),
)
def test_on_single_tests(rules: list[Node], events: list[AgentEvent]) -> None:
    agree("net_conn", rules, events)


def agree(kind: str, rules: list[Node], events: list[AgentEvent]) -> None:
    match = compile_kind(kind, rules)
    for event in events:
        assert match(event) == tuple(i for i, node in enumerate(rules) if evaluate(node, event, kind))


@settings(max_examples=150, deadline=None)
@given(PARTS, WORDS | st.text(alphabet="ab", max_size=12))
def test_wildcards_in_linear_time_cover_what_the_plain_ones_cover(parts: list[str | Wild], text: str) -> None:
    assert compile_pattern(parts)(text) == covers(parts, text, cased=True)


@settings(max_examples=100, deadline=None)
@given(conditions(EXEC_FIELDS), EXECS)
def test_the_fields_of_a_match_are_ones_the_rule_names(condition: Node, event: AgentEvent) -> None:
    rule = Rule(
        rule_id="p",
        title="p",
        severity=Severity.LOW,
        confidence=0.1,
        condition=condition,
        kinds=("proc_exec",),
        rule_hash="",
        path=Path("p"),
        position=Position(),
        language="lite",
        coverage=Coverage(Status.FULL),
    )
    rules = RuleSet([rule])
    for match in rules.match(event):
        assert match.matched_fields == matched_fields(condition, event, "proc_exec")

    assert not rules.errors_total
