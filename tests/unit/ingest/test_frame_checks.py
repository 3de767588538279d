"""A frame is published byte for byte or refused whole, and no bytes whatever make ingest fail."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr.batch import encode_batch
from microedr.frame import seal
from microedr.v1.event_pb2 import EventBatch
from microedr.v1.transport_pb2 import RefusalReason
from microedr_ingest.errors import FrameRefusedError
from microedr_ingest.frames import check_frame
from support.frames import batch, frame

_GOOD = frame()


def test_a_good_frame_keeps_its_bytes() -> None:
    checked = check_frame(frame(7, 4), "host-a")

    assert (checked.header.first_seq, checked.header.last_seq) == (7, 10)
    assert [event.seqno for event in EventBatch.FromString(checked.raw[1:]).events] == [7, 8, 9, 10]
    assert checked.heartbeats == ()


def test_events_may_name_the_host_that_the_certificate_names() -> None:
    def name(content: EventBatch) -> None:
        content.events[0].host.host_id = "host-a"
        content.events[1].host_id = "host-a"

    assert check_frame(frame(change=name), "host-a").header.count == 3


def test_heartbeats_are_handed_out() -> None:
    def beat(content: EventBatch) -> None:
        content.events[2].agent_heartbeat.spool_bytes = 9

    assert [beat.spool_bytes for beat in check_frame(frame(change=beat), "host-a").heartbeats] == [9]


@given(st.binary(max_size=2000))
def test_rubbish_is_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(FrameRefusedError) as caught:
        check_frame(data, "host-a")

    assert caught.value.reason == RefusalReason.REFUSAL_REASON_MALFORMED


@given(st.binary(min_size=1, max_size=500))
def test_rubbish_well_sealed_is_refused_and_nothing_else(data: bytes) -> None:
    sealed = seal(
        data, lane=0, epoch=uuid.UUID(int=1), first_seq=1, count=1, sealed_unix_ns=0, previous_chain=bytes(32)
    ).sealed
    with pytest.raises(FrameRefusedError):
        check_frame(sealed, "host-a")


@given(st.data())
def test_one_changed_byte_anywhere_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(_GOOD)
    index = data.draw(st.integers(0, len(sealed) - 1))
    sealed[index] ^= data.draw(st.integers(1, 255))

    with pytest.raises(FrameRefusedError):
        check_frame(bytes(sealed), "host-a")


def test_an_event_of_a_kind_to_come_is_refused() -> None:
    content = batch(1, 1)
    content.events[0].ClearField("proc_exit")
    raw = content.events[0].SerializeToString() + b"\xc2\x3e\x00"  # field 1000, length 0
    unknown = EventBatch.FromString(b"\x0a" + bytes([len(raw)]) + raw)
    sealed = seal(
        encode_batch(unknown),
        lane=0,
        epoch=uuid.UUID(int=1),
        first_seq=1,
        count=1,
        sealed_unix_ns=0,
        previous_chain=bytes(32),
    ).sealed

    with pytest.raises(FrameRefusedError) as caught:
        check_frame(sealed, "host-a")

    assert caught.value.reason == RefusalReason.REFUSAL_REASON_UNKNOWN_KIND
