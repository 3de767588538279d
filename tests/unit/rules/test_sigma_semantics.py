"""A Sigma detection means here what Sigma's specification says it means.

Each row is a selection, an event and whether it is selected, by both engines.
"""

import base64

import pytest

from microedr.v1.event_pb2 import NET_PHASE_CLOSE, AgentEvent
from microedr_rules.errors import RuleError
from microedr_rules.ruleset import RuleSet
from support.rule_events import exec_event, fires, net_event, rule_of, sigma_text


def selects(selection: str, event: AgentEvent, *, category: str = "process_creation") -> bool:
    body = "\n".join(f"  {line}" for line in selection.splitlines())
    return fires(rule_of(sigma_text(f"selection:\n{body}\ncondition: selection", category=category)), event)


@pytest.mark.parametrize(
    ("selection", "cmdline", "expected"),
    [
        # Whole values, without regard to case, and exactly.
        ("CommandLine: ls -l", "ls -l", True),
        ("CommandLine: LS -L", "ls -l", True),
        ("CommandLine: ls -l", "ls -la", False),
        ("CommandLine: ls -l", " ls -l", False),
        ("CommandLine: straße", "STRASSE", True),
        ("CommandLine: 'ΟΔΟΣ'", "οδος", True),
        ("CommandLine: 'ΟΔΟΣ*'", "οδοσα", True),
        # Lists are alternatives.
        ("CommandLine: [a, b]", "b", True),
        ("CommandLine: [a, b]", "c", False),
        # Wildcards.
        ("CommandLine: 'a*c'", "abbbc", True),
        ("CommandLine: 'a*c'", "ac", True),
        ("CommandLine: 'a*c'", "abcd", False),
        ("CommandLine: 'a?c'", "abc", True),
        ("CommandLine: 'a?c'", "ac", False),
        ("CommandLine: 'a?c'", "abbc", False),
        ("CommandLine: 'a?*'", "a", False),
        ("CommandLine: 'a?*'", "ab", True),
        ("CommandLine: '*a*b*'", "xxaxxbxx", True),
        ("CommandLine: '*a*b*'", "xxbxxaxx", False),
        ("CommandLine: 'a*a'", "a", False),
        ("CommandLine: 'a*a'", "aa", True),
        ("CommandLine: 'ab*ba'", "aba", False),
        ("CommandLine: '*ab*ab*ab'", "ababab", True),
        ("CommandLine: '*ab*ab*ab'", "abab", False),
        ("CommandLine: 'a*c'", "a\n\nc", True),
        ("CommandLine: 'a.c'", "abc", False),
        ("CommandLine: 'a+?'", "a+b", True),
        # Escaping, in the YAML's single quotes.
        (r"CommandLine: 'a\*c'", "a*c", True),
        (r"CommandLine: 'a\*c'", "abc", False),
        (r"CommandLine: 'a\?c'", "a?c", True),
        (r"CommandLine: 'a\?c'", "abc", False),
        (r"CommandLine: 'a\\c'", "a\\c", True),
        (r"CommandLine: 'a\c'", "a\\c", True),
        (r"CommandLine: 'a\\*c'", "a\\bbc", True),
        (r"CommandLine: 'a\\*c'", "a*c", False),
        (r"CommandLine: 'a\\\*c'", "a\\*c", True),
        (r"CommandLine: 'a\\\*c'", "a\\bc", False),
        (r"CommandLine: 'c:\windows'", "C:\\Windows", True),
        (r"CommandLine|endswith: '\'", "a\\", True),
        # contains, startswith, endswith.
        ("CommandLine|contains: sh", "bash -c", True),
        ("CommandLine|contains: SH", "bash -c", True),
        ("CommandLine|contains: zsh", "bash -c", False),
        ("CommandLine|contains: 'a*c'", "xxabcxx", True),
        (r"CommandLine|contains: '\*'", "a*b", True),
        (r"CommandLine|contains: '\*'", "ab", False),
        ("CommandLine|startswith: bash", "bash -c", True),
        ("CommandLine|startswith: ash", "bash -c", False),
        ("CommandLine|startswith: 'b?sh'", "bash -c", True),
        ("CommandLine|endswith: '-c'", "bash -c", True),
        ("CommandLine|endswith: bash", "bash -c", False),
        ("CommandLine|endswith: 'b*c'", "bash -c", True),
        # all.
        ("CommandLine|contains|all: [a, b]", "xbxa", True),
        ("CommandLine|contains|all: [a, b]", "xa", False),
        ("CommandLine|all: ['*a*', '*b*']", "ab", True),
        # Several fields are all demanded.
        ("CommandLine|contains: a\nImage|endswith: /ls", "a", True),
        ("CommandLine|contains: a\nImage|endswith: /cat", "a", False),
        # A list of maps is alternatives, a list in a list of maps stays one.
        ("- CommandLine: a\n- Image|endswith: /ls", "b", True),
        ("- CommandLine: a\n- Image|endswith: /cat", "b", False),
        # cased.
        ("CommandLine|cased: Ls", "Ls", True),
        ("CommandLine|cased: Ls", "ls", False),
        ("CommandLine|contains|cased: AbC", "xAbCx", True),
        ("CommandLine|contains|cased: AbC", "xabcx", False),
        ("CommandLine|cased: 'A*C'", "AxC", True),
        ("CommandLine|cased: 'A*C'", "axc", False),
        # re: searched anywhere, with case; i, m, s.
        ("CommandLine|re: 'ba+sh'", "x baaash y", True),
        ("CommandLine|re: 'ba+sh'", "BASH", False),
        ("CommandLine|re|i: 'ba+sh'", "BASH", True),
        ("CommandLine|re: '^sh$'", "sh", True),
        ("CommandLine|re: '^sh$'", "sh\n", False),
        ("CommandLine|re: '^sh$'", "a\nsh\nb", False),
        ("CommandLine|re|m: '^sh$'", "a\nsh\nb", True),
        ("CommandLine|re: 'a.b'", "a\nb", False),
        ("CommandLine|re|s: 'a.b'", "a\nb", True),
        (r"CommandLine|re: 'a\*b\?c'", "a*b?c", True),
        (r"CommandLine|re: 'a*b?c'", "aac", True),
        (r"CommandLine|re: '\\\\x'", "\\\\x", True),
        (r"CommandLine|re: '\d{2}'", "a42", True),
        # windash.
        ("CommandLine|windash|contains: ' -d '", "tool /d x", True),
        ("CommandLine|windash|contains: ' -d '", "tool -d x", True),
        ("CommandLine|windash|contains: ' -d '", "tool –d x", True),  # noqa: RUF001 - the en dash is the point
        ("CommandLine|windash|contains: ' -d '", "tool +d x", False),
        # exists, null and empty: an unset text is an empty one.
        ("CommandLine|exists: true", "a", True),
        ("CommandLine|exists: true", "", False),
        ("CommandLine|exists: false", "", True),
        ("CommandLine|exists: false", "a", False),
        ("CommandLine: null", "", True),
        ("CommandLine: null", "a", False),
        ("CommandLine: ''", "", True),
        ("CommandLine: ''", "a", False),
        ("CommandLine: ['', a]", "", True),
        ("CommandLine: '*'", "a", True),
        ("CommandLine: '*'", "", False),
        # Numbers against text are compared as written.
        ("CommandLine: 42", "42", True),
        ("CommandLine: 42", "042", False),
        ("CommandLine: 4.5", "4.5", True),
        ("CommandLine|gt: 41", "42", True),
        ("CommandLine|gt: 41", "a", False),
        ("CommandLine: true", "TRUE", True),
        # fieldref.
        ("CommandLine|fieldref: Image", "/USR/bin/ls", True),
        ("CommandLine|fieldref: Image", "/usr/bin/ls -l", False),
        ("CommandLine|fieldref|startswith: Image", "/usr/bin/ls -l", True),
        ("CommandLine|fieldref|endswith: Image", "run /usr/bin/ls", True),
        ("CommandLine|fieldref|contains: Image", "x /usr/bin/ls y", True),
        ("CommandLine|fieldref: User", "", False),
        # neq.
        ("CommandLine|neq: a", "b", True),
        ("CommandLine|neq: [a, b]", "b", False),
    ],
)
def test_a_selection_selects(selection: str, cmdline: str, *, expected: bool) -> None:
    assert selects(selection, exec_event(cmdline)) is expected


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_base64offset_finds_the_word_wherever_it_stands(offset: int) -> None:
    hidden = base64.b64encode(b"x" * offset + b"/bin/bash -i" + b"yy").decode()

    assert selects("CommandLine|base64offset|contains: /bin/bash", exec_event(f"echo {hidden} | base64 -d"))
    assert not selects("CommandLine|base64offset|contains: /bin/dash", exec_event(f"echo {hidden} | base64 -d"))


def test_base64_wide_and_utf16le() -> None:
    assert selects("CommandLine|base64|contains: foobar", exec_event("x Zm9vYmFy y"))
    hidden = base64.b64encode("whoami".encode("utf-16-le")).decode()
    assert selects("CommandLine|wide|base64|contains: whoami", exec_event(f"powershell -enc {hidden}"))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("ProcessId: 42", True),
        ("ProcessId: '42'", True),
        ("ProcessId: 43", False),
        ("ProcessId|gt: 41", True),
        ("ProcessId|gt: 42", False),
        ("ProcessId|gte: 42", True),
        ("ProcessId|lt: 42.5", True),
        ("ProcessId|lte: 41", False),
        ("ProcessId|startswith: '4'", True),
        ("ProcessId|exists: true", True),
        ("process.uid: 0", True),
        ("process.uid: null", False),
        ("exec.argv: -L", True),
        ("exec.argv: l", False),
        ("exec.argv|contains|all: [ls, l]", True),
        ("exec.argv|re: '^-l$'", True),
        ("exec.env_keys: null", True),
        ("exec.env_keys|exists: true", False),
        ("exec.exe_nlink: [1, 2]", True),
    ],
)
def test_numbers_and_lists_of_our_telemetry(selection: str, *, expected: bool) -> None:
    assert selects(selection, exec_event(pid=42)) is expected


@pytest.mark.parametrize(
    ("selection", "dst_ip", "expected"),
    [
        ("DestinationIp: 203.0.113.7", "203.0.113.7", True),
        ("DestinationIp: 203.0.113.8", "203.0.113.7", False),
        ("DestinationIp|startswith: 203.0.", "203.0.113.7", True),
        ("DestinationIp: 203.0.*", "203.0.113.7", True),
        ("DestinationIp|cidr: 203.0.113.0/24", "203.0.113.7", True),
        ("DestinationIp|cidr: 203.0.112.0/24", "203.0.113.7", False),
        ("DestinationIp|cidr: [10.0.0.0/8, 203.0.113.7/32]", "203.0.113.7", True),
        ("DestinationIp|cidr: 0.0.0.0/0", "203.0.113.7", True),
        ("DestinationIp|cidr: ::/0", "203.0.113.7", False),
        ("DestinationIp|cidr: 2001:db8::/32", "2001:db8::7", True),
        ("DestinationIp|cidr: 0.0.0.0/0", "2001:db8::7", False),
        ("DestinationIp: '2001:DB8:0:0:0:0:0:7'", "2001:db8::7", True),
        ("DestinationIp|endswith: '::7'", "2001:db8::7", True),
        ("DestinationIp|cidr: 203.0.113.0/24", "", False),
        ("DestinationIp: null", "", True),
        ("DestinationIp|exists: true", "", False),
        ("DestinationIp|exists: true", "10.0.0.1", True),
        ("DestinationPort: 443", "10.0.0.1", True),
        ("DestinationPort: [80, 443]", "10.0.0.1", True),
        ("DestinationPort: '44*'", "10.0.0.1", True),
        ("Initiated: true", "10.0.0.1", True),
        ("Initiated: 'true'", "10.0.0.1", True),
        ("Initiated: false", "10.0.0.1", False),
        ("Initiated: 'maybe'", "10.0.0.1", False),
        ("net.direction: EGRESS", "10.0.0.1", True),
        ("net.direction: ingress", "10.0.0.1", False),
        ("net.direction|startswith: eg", "10.0.0.1", True),
        ("Protocol: tcp", "10.0.0.1", True),
        ("Image|endswith: /curl", "10.0.0.1", True),
    ],
)
def test_connections(selection: str, dst_ip: str, *, expected: bool) -> None:
    assert selects(selection, net_event(dst_ip), category="network_connection") is expected


def test_an_address_of_the_old_protocol_in_the_new_ones_form_is_the_same_address() -> None:
    event = net_event()
    event.net_conn.dst_ip = bytes(10) + b"\xff\xff" + event.net_conn.dst_ip

    assert selects("DestinationIp|cidr: 203.0.113.0/24", event, category="network_connection")
    assert selects("DestinationIp: 203.0.113.7", event, category="network_connection")


def test_a_connection_is_matched_when_it_opens_and_not_again_when_it_ends() -> None:
    assert selects("DestinationPort: 443", net_event(), category="network_connection")
    assert not selects("DestinationPort: 443", net_event(phase=NET_PHASE_CLOSE), category="network_connection")


@pytest.mark.parametrize(
    ("condition", "cmdline", "expected"),
    [
        ("sel_a", "a", True),
        ("sel_a and sel_b", "a", False),
        ("sel_a and sel_b", "ab", True),
        ("sel_a or sel_b", "b", True),
        ("not sel_a", "b", True),
        ("not sel_a", "a", False),
        ("not not sel_a", "a", True),
        ("sel_a and not sel_b", "a", True),
        ("sel_a and not sel_b", "ab", False),
        ("sel_a or sel_b and other", "a", True),
        ("(sel_a or sel_b) and other", "a", False),
        ("not (sel_a or sel_b)", "c", True),
        ("not sel_a and not sel_b", "b", False),
        ("1 of sel_*", "b", True),
        ("1 of sel_*", "c", False),
        ("all of sel_*", "a", False),
        ("all of sel_*", "ab", True),
        ("1 of them", "c", True),
        ("any of them", "c", True),
        ("all of them", "ab", False),
        ("all of them", "abc", True),
        ("other and not 1 of sel_*", "c", True),
        ("other and not 1 of sel_*", "ca", False),
        ("other and not all of sel_*", "ca", True),
        ("1 of other*", "c", True),
        ("[sel_a, sel_b]", "b", True),
    ],
)
def test_a_condition_holds(condition: str, cmdline: str, *, expected: bool) -> None:
    rule = rule_of(
        sigma_text(
            f"sel_a:\n  CommandLine|contains: a\nsel_b:\n  CommandLine|contains: b\n"
            f"other:\n  CommandLine|contains: c\ncondition: {condition}"
        )
    )

    assert fires(rule, exec_event(cmdline)) is expected


@pytest.mark.parametrize(
    ("keywords", "cmdline", "expected"),
    [
        ("[evil]", "run EVIL now", True),
        ("[evil]", "run", False),
        ("['e*l']", "run evil now", True),
        ("[bin/ls]", "x", True),  # any text of the event
        ("{'|all': [run, evil]}", "run evil", True),
        ("{'|all': [run, evil]}", "run", False),
        ("[4711]", "run 4711", True),
        ("{'|re': 'ev.l'}", "run evil", True),
    ],
)
def test_keywords_are_found_in_any_text(keywords: str, cmdline: str, *, expected: bool) -> None:
    assert fires(rule_of(sigma_text(f"keywords: {keywords}\ncondition: keywords")), exec_event(cmdline)) is expected


@pytest.mark.parametrize(
    ("detection", "complaint"),
    [
        ("s:\n  CommandLine|nonsense: a\ncondition: s", "Unknown modifier"),
        ("s:\n  CommandLine|expand: '%admins%'\ncondition: s", "placeholder %admins%"),
        ("s:\n  CommandLine|re: '(?=a)b'\ncondition: s", "(?="),
        ("s:\n  CommandLine|re: '(a)\\1'\ncondition: s", "\\1"),
        ("s:\n  CommandLine|re: '('\ncondition: s", "missing )"),
        ("s:\n  DestinationIp|cidr: 10.0.0.1/8\ncondition: s", "Invalid CIDR"),
        ("s:\n  ProcessId|gt: a\ncondition: s", "incompatible"),
        ("s:\n  ProcessId|hour: 3\ncondition: s", "minute to year"),
        ("s:\n  CommandLine: a\ncondition: t", "'t' not defined"),
        ("s:\n  CommandLine: a\ncondition: s and", "Expected"),
        ("s:\n  CommandLine: a\ncondition: 1 of t*", "doesn't match any detection"),
        ("s:\n  CommandLine: a\ncondition: s | count() > 3", "pipe syntax"),
        ("s:\n  CommandLine: a\ntimeframe: 5m\ncondition: s", "timeframe"),
        ("s:\n  CommandLine: a", "at least one condition"),
        ("s: ['*']\ncondition: s", "would match every event"),
        ("s: [null]\ncondition: s", "field"),
        ("s:\n  CommandLine:\n    a: b\ncondition: s", "Unsupported type"),
        ("s:\n  CommandLine|exists: 3\ncondition: s", "incompatible"),
        ("s: {}\ncondition: s", "empty"),
    ],
)
def test_what_cannot_be_evaluated_as_written_is_refused(detection: str, complaint: str) -> None:
    with pytest.raises(RuleError) as caught:
        rule_of(sigma_text(detection))

    assert complaint in caught.value.detail
    assert caught.value.position is not None


def test_a_hostile_command_line_does_not_make_wildcards_or_expressions_slow() -> None:
    hostile = exec_event("a" * 60_000)
    rule = rule_of(
        sigma_text(
            "s:\n  - CommandLine: '*a*a*a*a*a*a*b'\n  - CommandLine|re: '(a+)+(a+)+b'\n"
            "  - CommandLine: '*?a?*?b'\ncondition: s"
        )
    )

    assert not RuleSet([rule]).match(hostile)
