"""What the responder reads and writes by hand is the contract, field by field, and forgives nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr.v1 import action_pb2 as contract
from microedr_agent.responder import action
from microedr_agent.responder.action import ActionResult, ActionState, read_action, read_envelope, read_result
from microedr_agent.responder.wire import Kind, WireError

_NUMBERS = st.integers(min_value=0, max_value=2**64 - 1)
_TEXTS = st.text(max_size=20)
_ACTIONS = st.builds(
    contract.Action,
    action_id=_TEXTS,
    tenant_id=_TEXTS,
    host_id=_TEXTS,
    session_nonce=st.binary(max_size=20),
    sequence=_NUMBERS,
    not_before_unix_ns=_NUMBERS,
    expires_unix_ns=_NUMBERS,
    type=st.sampled_from([0, 1, 2, 3]),
    process=st.builds(
        contract.ProcessTarget,
        pid=st.integers(min_value=0, max_value=2**32 - 1),
        process_uid=st.binary(max_size=20),
        start_boot_ns=_NUMBERS,
        exe=_TEXTS,
    ),
    reason=_TEXTS,
    alert_id=_TEXTS,
    approved_by=st.lists(_TEXTS, max_size=3),
)


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        (contract.SignedAction, action.SIGNED_ACTION),
        (contract.Signature, action.SIGNATURE),
        (contract.Action, action.ACTION),
        (contract.ProcessTarget, action.PROCESS_TARGET),
        (contract.ActionResult, action.ACTION_RESULT),
    ],
)
def test_every_field_of_the_contract_is_known_by_its_type(message: type, shape: dict[int, Kind]) -> None:
    fields = message.DESCRIPTOR.fields  # type: ignore[attr-defined]
    kinds = {}
    for field in fields:
        if field.is_repeated:
            kinds[field.number] = Kind.REPEATED_BYTES
        elif field.type == field.TYPE_STRING:
            kinds[field.number] = Kind.TEXT
        elif field.type in {field.TYPE_BYTES, field.TYPE_MESSAGE}:
            kinds[field.number] = Kind.BYTES
        elif field.type == field.TYPE_FIXED64:
            kinds[field.number] = Kind.FIXED64
        else:
            kinds[field.number] = Kind.NUMBER

    assert shape == kinds


def test_types_and_states_have_the_numbers_of_the_contract() -> None:
    for kind in action.ActionType:
        assert int(contract.ActionType.Value(f"ACTION_TYPE_{kind.name}")) == int(kind)
    for state in ActionState:
        assert int(contract.ActionState.Value(f"ACTION_STATE_{state.name}")) == int(state)


@given(_ACTIONS)
def test_an_action_is_read_as_the_contract_reads_it(message: contract.Action) -> None:
    read = read_action(message.SerializeToString())

    for name in ("action_id", "tenant_id", "host_id", "session_nonce", "sequence", "type"):
        assert getattr(read, name) == getattr(message, name)
    assert (read.not_before_unix_ns, read.expires_unix_ns) == (message.not_before_unix_ns, message.expires_unix_ns)
    for name in ("pid", "process_uid", "start_boot_ns", "exe"):
        assert getattr(read.process, name) == getattr(message.process, name)


@given(st.binary(max_size=50), st.lists(st.binary(max_size=70), max_size=5))
def test_an_envelope_is_read_as_the_contract_reads_it(content: bytes, signatures: list[bytes]) -> None:
    message = contract.SignedAction(
        action=content, signatures=[contract.Signature(key_id="k", signature=one) for one in signatures]
    )

    read = read_envelope(message.SerializeToString())

    assert (read.action, list(read.signatures)) == (content, signatures)


@given(_TEXTS, st.sampled_from(ActionState), _TEXTS, _NUMBERS, _TEXTS)
def test_a_result_is_written_as_the_contract_writes_it(
    action_id: str, state: ActionState, reason: str, finished: int, detail: str
) -> None:
    result = ActionResult(action_id, state, reason, finished, detail)
    theirs = contract.ActionResult(action_id=action_id, reason=reason, finished_unix_ns=finished, detail=detail)
    theirs.state = contract.ActionState.Value(f"ACTION_STATE_{state.name}")

    assert result.encode() == theirs.SerializeToString()
    assert read_result(result.encode()) == result


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(raw: bytes) -> None:
    for read in (read_envelope, read_action, read_result):
        try:
            read(raw)
        except WireError:
            continue


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x0a\x01a\x0a\x01b", id="given twice"),
        pytest.param(b"\x6a\x01a", id="unknown field"),
        pytest.param(b"\x08\x01", id="other type"),
        pytest.param(b"\x0a\x05abc", id="cut short"),
        pytest.param(b"\x0a\x01\xff", id="not UTF-8"),
        pytest.param(b"\x28\x80\x00", id="padded number"),
        pytest.param(b"\x28" + b"\xff" * 9 + b"\x7f", id="number too large"),
        pytest.param(b"\x28\xff", id="number cut short"),
        pytest.param(b"\x31\x01", id="fixed number cut short"),
        pytest.param(b"\x0b\x0c", id="group"),
        pytest.param(b"\x00\x00", id="field 0"),
    ],
)
def test_what_a_general_parser_forgives_is_an_error(raw: bytes) -> None:
    with pytest.raises(WireError):
        read_action(raw)
