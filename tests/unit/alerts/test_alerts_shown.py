"""How messages look to people: ids, addresses and words in the form other tools print them; cursors come back whole."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr.v1.detection_pb2 import ProcessNode, RuleRef
from microedr.v1.event_pb2 import AgentEvent, ContainerLifecycle, FileOp, FileWrite, NetConn
from microedr_alerts.cursor import decode_cursor, encode_cursor
from microedr_alerts.errors import ProblemError
from microedr_alerts.readable import complete, readable
from microedr_alerts.words import severity_number, severity_word, state_number, state_word
from support.alert_records import an_alert


def test_ids_addresses_and_words_are_readable() -> None:
    event = AgentEvent(
        event_id=uuid.UUID(int=5).bytes,
        process_uid=bytes(16),
        timestamp_unix_ns=2**63,
        net_conn=NetConn(dst_ip=bytes(15) + b"\1", src_ip=b"\x7f\0\0\1", dst_port=443),
    )
    shown = readable(event)

    assert shown["event_id"] == str(uuid.UUID(int=5))
    assert shown["process_uid"] == "00" * 16
    assert shown["timestamp_unix_ns"] == 2**63
    assert shown["net_conn"] == {"src_ip": "127.0.0.1", "dst_ip": "::1", "dst_port": 443}


def test_enums_are_words_and_unknown_ones_digits() -> None:
    assert readable(FileWrite(op=FileOp.FILE_OP_SPIKE)) == {"op": "spike"}
    assert readable(FileWrite.FromString(b"\x10\x63")) == {"op": "99"}


def test_maps_stay_maps() -> None:
    assert readable(ContainerLifecycle(labels={"app": "web"})) == {"labels": {"app": "web"}}


def test_bytes_of_a_wrong_length_are_hex() -> None:
    assert readable(AgentEvent(event_id=b"\1\2", net_conn=NetConn(dst_ip=b"\1"))) == {
        "event_id": "0102",
        "net_conn": {"dst_ip": "01"},
    }


def test_complete_leaves_nothing_out() -> None:
    assert set(complete(ProcessNode(pid=1))) == {field.name for field in ProcessNode.DESCRIPTOR.fields}
    assert complete(RuleRef())["actions"] == []
    assert complete(RuleRef())["severity"] == "unspecified"


def test_every_alert_can_be_shown() -> None:
    assert readable(an_alert())["rule"]["severity"] == "high"


@pytest.mark.parametrize("text", ["informational", "low", "medium", "high", "critical"])
def test_severities_go_both_ways(text: str) -> None:
    assert severity_word(severity_number(text)) == text


def test_states_go_both_ways() -> None:
    assert state_word(state_number("observed")) == "observed"
    assert state_word(77) == "77"


@given(st.integers(0, 2**63 - 1), st.text(st.characters(codec="ascii"), min_size=1))
def test_a_cursor_comes_back_whole(at_unix_ns: int, item_id: str) -> None:
    assert decode_cursor(encode_cursor(at_unix_ns, item_id)) == (at_unix_ns, item_id)


@given(st.text())
def test_any_other_text_is_a_cursor_or_a_problem(text: str) -> None:
    try:
        at_unix_ns, item_id = decode_cursor(text)
    except ProblemError:
        return
    assert at_unix_ns >= 0
    assert item_id
