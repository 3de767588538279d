"""Rules and events for tests of the rule language, in as few words as the test needs."""

import textwrap
from pathlib import Path

from microedr.v1.event_pb2 import (
    NET_DIRECTION_EGRESS,
    NET_PHASE_OPEN,
    AgentEvent,
    NetConn,
    NetPhase,
    Process,
    ProcExec,
)
from microedr_rules.access import packed_address
from microedr_rules.documents import parse_documents
from microedr_rules.interpret import evaluate
from microedr_rules.loader import parse_rule
from microedr_rules.model import Rule
from microedr_rules.ruleset import RuleSet

RULE_ID = "0a8a5f0e-8c1e-4c61-9d3c-2b6f8f4f1c01"


def exec_event(cmdline: str = "ls -l", *, exe: str = "/usr/bin/ls", **process: str | int) -> AgentEvent:
    """A proc.exec; keywords fill its process block."""
    return AgentEvent(
        process=Process(exe=exe, cmdline=cmdline, **process),  # type: ignore[arg-type] # the keywords name fields
        proc_exec=ProcExec(argv=cmdline.split(" "), filename=exe, exe_inode=7, exe_nlink=1),
    )


def net_event(
    dst_ip: str = "203.0.113.7", dst_port: int = 443, *, phase: NetPhase.ValueType = NET_PHASE_OPEN
) -> AgentEvent:
    """A net.conn of curl to the outside."""
    return AgentEvent(
        process=Process(exe="/usr/bin/curl", cmdline="curl https://example.net"),
        net_conn=NetConn(
            proto="tcp",
            direction=NET_DIRECTION_EGRESS,
            phase=phase,
            dst_ip=packed_address(dst_ip) or b"",
            dst_port=dst_port,
        ),
    )


def sigma_text(
    detection: str, *, category: str = "process_creation", level: str = "high", more: str = "", product: str = "linux"
) -> str:
    """A whole Sigma rule around the YAML of a ``detection``."""
    return (
        f"title: A rule\nid: {RULE_ID}\nstatus: test\n"
        f"logsource:\n  product: {product}\n  category: {category}\n"
        f"detection:\n{textwrap.indent(textwrap.dedent(detection).strip(), '  ')}\nlevel: {level}\n{more}"
    )


def lite_text(match: str, *, event_type: str = "proc.exec", more: str = "") -> str:
    """A whole sigma-lite rule around the YAML of a ``match``."""
    body = textwrap.indent(textwrap.dedent(match).strip(), "  ")
    return f"id: T-1\nname: A rule\nseverity: high\nmatch:\n  event_type: {event_type}\n{body}\n{more}"


def rule_of(text: str, *, builtin: bool = False) -> Rule:
    """The one rule in ``text``."""
    (document,) = parse_documents(text)
    return parse_rule(document, Path("rule.yaml"), builtin=builtin)


def fires(rule: Rule, event: AgentEvent) -> bool:
    """Whether ``rule`` fires, by the fast engine, which must say what the plain one says."""
    kind = event.WhichOneof("kind") or ""
    fast = bool(RuleSet([rule]).match(event))
    if rule.coverage.status.evaluated and kind in rule.kinds:
        assert fast == evaluate(rule.condition, event, kind), "the engines disagree"
    return fast
