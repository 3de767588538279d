"""Only authentic, fresh, addressed orders pass; one flaw is enough to refuse."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from microedr.limits import MAX_ACTION_BYTES
from microedr.v1.action_pb2 import ActionType as ProtoType
from microedr.v1.action_pb2 import Signature, SignedAction
from microedr_agent.errors import ActionRefusedError, KeyringError
from microedr_agent.responder.action import Action, ActionType, read_action
from microedr_agent.responder.keyring import Keyring
from microedr_agent.responder.verify import Identity, claimed_action_id, verify_action
from support.orders import HOST, KEY, NONCE, NOW_UNIX_NS, OTHER_KEY, SECOND_NS, TENANT, Order, sign_bytes

IDENTITY_POINT = b"\x01" + bytes(31)
SMALL_ORDER_KEYS = [
    pytest.param(IDENTITY_POINT, id="identity"),
    pytest.param(bytes(32), id="order 4"),
    pytest.param(b"\xec" + b"\xff" * 30 + b"\x7f", id="order 2"),
    pytest.param(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), id="order 8"),
    pytest.param(b"\xee" + b"\xff" * 30 + b"\x7f", id="identity, not canonical"),
]


_ORDER = read_action(Order().action().SerializeToString())


@dataclass
class _Started:
    orders: tuple[Action, ...] = ()

    def was_started(self, action: Action) -> bool:
        return action in self.orders


def _verify(raw: bytes, *, keyring: Keyring | None = None, started: tuple[Action, ...] = ()) -> Action:
    return verify_action(
        raw,
        keyring=Keyring([bytes(KEY.verify_key)]) if keyring is None else keyring,
        allowed_types={ActionType.KILL_PROCESS},
        identity=Identity(TENANT, HOST, NONCE),
        now_unix_ns=NOW_UNIX_NS,
        started=_Started(started),
    )


def test_a_whole_order_passes_unchanged() -> None:
    assert _verify(Order().sign()) == _ORDER


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        pytest.param(replace(Order(), key=OTHER_KEY), "bad_signature", id="other key"),
        pytest.param(replace(Order(), payload_type="application/other"), "bad_signature", id="signed as another type"),
        pytest.param(replace(Order(), exe="x" * MAX_ACTION_BYTES), "too_large", id="too large"),
        pytest.param(replace(Order(), action_id="7"), "malformed", id="no uuid"),
        pytest.param(replace(Order(), session_nonce=b"short"), "malformed", id="short nonce"),
        pytest.param(replace(Order(), sequence=0), "malformed", id="no sequence"),
        pytest.param(replace(Order(), not_before_unix_ns=0), "malformed", id="no beginning"),
        pytest.param(replace(Order(), expires_unix_ns=1), "malformed", id="ends before it begins"),
        pytest.param(replace(Order(), pid=0), "malformed", id="no pid"),
        pytest.param(replace(Order(), process_uid=b""), "malformed", id="no process_uid"),
        pytest.param(
            replace(Order(), type=ProtoType.ACTION_TYPE_ISOLATE_EGRESS), "type_not_allowed", id="type not allowed"
        ),
        pytest.param(replace(Order(), type=ProtoType.ACTION_TYPE_UNSPECIFIED), "type_not_allowed", id="type not told"),
        pytest.param(replace(Order(), tenant_id="other"), "other_tenant", id="other tenant"),
        pytest.param(replace(Order(), host_id="host-b"), "other_host", id="other host"),
        pytest.param(replace(Order(), session_nonce=bytes(16)), "other_session", id="other run"),
        pytest.param(
            replace(Order(), expires_unix_ns=NOW_UNIX_NS + 271 * SECOND_NS), "life_too_long", id="lives too long"
        ),
        pytest.param(replace(Order(), not_before_unix_ns=NOW_UNIX_NS + 1), "not_yet_valid", id="begins next"),
        pytest.param(replace(Order(), expires_unix_ns=NOW_UNIX_NS), "expired", id="expires now"),
    ],
)
def test_one_flaw_is_enough_to_refuse(order: Order, reason: str) -> None:
    with pytest.raises(ActionRefusedError) as caught:
        _verify(order.sign())

    assert caught.value.reason == reason


def test_an_order_that_was_started_is_refused() -> None:
    with pytest.raises(ActionRefusedError) as caught:
        _verify(Order().sign(), started=(_ORDER,))

    assert caught.value.reason == "replayed"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(SignedAction(action=Order().action().SerializeToString()).SerializeToString(), id="no signature"),
        pytest.param(b"", id="nothing"),
        pytest.param(
            SignedAction(
                action=Order().action().SerializeToString(), signatures=[Signature(signature=b"\x00" * 63)]
            ).SerializeToString(),
            id="short signature",
        ),
        pytest.param(sign_bytes(Order().action().SerializeToString(), KEY)[:-1] + b"\x00", id="last byte changed"),
    ],
)
def test_what_no_key_signed_is_refused(raw: bytes) -> None:
    with pytest.raises(ActionRefusedError) as caught:
        _verify(raw)

    assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xff", id="no protobuf"),
        pytest.param(Order().action().SerializeToString() + b"\xa0\x06\x01", id="unknown field"),
        pytest.param(Order().action().SerializeToString() + b"\x4a\x03\xa0\x06\x01", id="unknown field in the target"),
    ],
)
def test_signed_bytes_that_are_not_understood_are_refused(content: bytes) -> None:
    with pytest.raises(ActionRefusedError) as caught:
        _verify(sign_bytes(content, KEY))

    assert caught.value.reason == "malformed"


def test_an_envelope_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ActionRefusedError) as caught:
        _verify(b"\x0a\xff")

    assert caught.value.reason == "malformed"


@given(bit=st.integers(min_value=0, max_value=8 * len(Order().sign()) - 1))
def test_no_flipped_bit_changes_what_is_done(bit: int) -> None:
    raw = bytearray(Order().sign())
    raw[bit // 8] ^= 1 << bit % 8

    try:
        action = _verify(bytes(raw))
    except ActionRefusedError:
        return
    # The key id is a hint and may read as anything; the order may not.
    assert action == _ORDER


@given(garbage=st.binary(max_size=400))
def test_garbage_is_refused_and_never_crashes(garbage: bytes) -> None:
    with pytest.raises(ActionRefusedError):
        _verify(garbage)
    assert claimed_action_id(garbage) == "" or len(claimed_action_id(garbage)) == 36


def test_the_key_id_is_only_a_hint() -> None:
    assert _verify(replace(Order(), hint="0" * 16).sign()) == _ORDER


def test_either_key_of_a_rotation_verifies() -> None:
    both = Keyring([bytes(OTHER_KEY.verify_key), bytes(KEY.verify_key)])

    assert _verify(Order().sign(), keyring=both) == _ORDER
    assert _verify(replace(Order(), key=OTHER_KEY).sign(), keyring=both) == _ORDER


def test_without_keys_every_order_is_refused() -> None:
    with pytest.raises(ActionRefusedError) as caught:
        _verify(Order().sign(), keyring=Keyring([]))

    assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize("key", SMALL_ORDER_KEYS)
def test_a_key_under_which_anyone_can_sign_is_not_loaded(key: bytes) -> None:
    with pytest.raises(KeyringError):
        Keyring([key])


def test_a_forgery_under_the_small_order_key_is_refused() -> None:
    forged = SignedAction(
        action=Order().action().SerializeToString(), signatures=[Signature(signature=IDENTITY_POINT + bytes(32))]
    )

    with pytest.raises(ActionRefusedError) as caught:
        _verify(forged.SerializeToString())

    assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"\x02" * 32])
def test_what_is_no_key_is_not_loaded(key: bytes) -> None:
    with pytest.raises(KeyringError):
        Keyring([key])


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(KeyringError):
        Keyring([bytes(SigningKey(bytes([n]) * 32).verify_key) for n in range(9)])


def test_more_signatures_than_are_looked_at_do_not_help() -> None:
    signed = SignedAction.FromString(Order().sign())
    padded = SignedAction(action=signed.action)
    padded.signatures.extend([Signature(signature=bytes(64))] * 4)
    padded.signatures.extend(signed.signatures)

    with pytest.raises(ActionRefusedError) as caught:
        _verify(padded.SerializeToString())

    assert caught.value.reason == "bad_signature"


def test_a_refused_order_can_be_named_in_the_report() -> None:
    assert claimed_action_id(replace(Order(), key=OTHER_KEY).sign()) == Order().action_id
    assert claimed_action_id(replace(Order(), action_id="../../etc").sign()) == ""
