"""Ids, signing bytes and batches come out the same on both ends, now and later."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr import batch, ids, signing
from microedr.v1.event_pb2 import AgentEvent, EventBatch

KEY = ids.process_key("host-a", "boot-1")


def test_the_pre_authentication_encoding_is_that_of_the_dsse_specification() -> None:
    encoded = signing.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")

    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_ids_never_change_between_versions() -> None:
    """They are stored and compared for years; these values were computed when they were chosen."""
    event = ids.event_id("host-a", "7b0c0f0e-1111-4222-8333-444455556666", 0, 1)

    assert ids.process_uid(KEY, 4242, 123_456_789_012).hex() == "9473c77f72239fa9278e07f5efa0d6b9"
    assert uuid.UUID(bytes=event) == uuid.UUID("4145c9c8-6bda-555b-a9b2-747491297a8b")
    assert uuid.UUID(bytes=ids.match_id("R1001", event)) == uuid.UUID("16c9df0b-6ad7-5145-82d0-617e50d34134")
    assert ids.alert_id("t", "host-a", "R1001", "g") == "73898969-53bb-5062-ba63-2c3a4b7fdc2f"
    assert ids.action_id("alert:1", "kill_process", "p") == "e836ad27-c4d7-5be0-acd9-8456e60e4cf6"


def test_a_process_has_one_name_from_the_kernel_and_from_procfs() -> None:
    from_kernel = ids.process_uid(KEY, 10, 123_456_789_012)
    from_procfs = ids.process_uid(KEY, 10, 12_345 * 10_000_000)

    assert from_kernel == from_procfs


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(ids.process_uid(KEY, 11, 50_000_000), id="another pid"),
        pytest.param(ids.process_uid(KEY, 10, 60_000_000), id="another start"),
        pytest.param(ids.process_uid(ids.process_key("host-b", "boot-1"), 10, 50_000_000), id="another host"),
        pytest.param(ids.process_uid(ids.process_key("host-a", "boot-2"), 10, 50_000_000), id="another boot"),
    ],
)
def test_different_processes_have_different_names(other: bytes) -> None:
    assert ids.process_uid(KEY, 10, 50_000_000) != other


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("web-1.example_x", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("..", False),
        ("a/b", False),
        ("a\n", False),
        ("ä", False),
    ],
)
def test_names_fit_into_uris_files_and_keys(name: str, valid: bool) -> None:  # noqa: FBT001 - a table's column
    assert ids.is_valid_name(name) is valid


@given(st.lists(st.text(max_size=300), max_size=20))
def test_a_batch_is_read_back(names: list[str]) -> None:
    sent = EventBatch(events=[AgentEvent(seqno=i + 1, hostname=name) for i, name in enumerate(names)])

    assert batch.decode_batch(batch.encode_batch(sent)) == sent


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_batch_or_a_batch_error(data: bytes) -> None:
    try:
        decoded = batch.decode_batch(data)
    except batch.BatchError:
        return
    assert batch.decode_batch(batch.encode_batch(decoded)) == decoded


@pytest.mark.parametrize("raw", [b"", b"\xff" * 20, b"\x05abc", batch.encode_batch(EventBatch()) + b"x"])
def test_a_length_that_does_not_fit_is_refused(raw: bytes) -> None:
    with pytest.raises(batch.BatchError):
        batch.decode_batch(raw)


@given(st.integers(0, 2**63))
def test_varints_are_those_of_protobuf(number: int) -> None:
    encoded = AgentEvent(seqno=number).SerializeToString()

    assert encoded == (b"\x10" + batch.varint(number) if number else b"")
