"""Answers come in the order of frames, and no ack covers a frame that has to be sent again."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr.frame import FrameHeader
from microedr.v1.transport_pb2 import RefusalReason, StreamResponse
from microedr_chassis.errors import BusRecordError, BusUnavailableError
from microedr_ingest.window import FrameWindow, UnderWay, Verdict

_UNAVAILABLE = RefusalReason.REFUSAL_REASON_UNAVAILABLE
_CHECKSUM = Verdict(RefusalReason.REFUSAL_REASON_CHECKSUM, "the CRC32C differs")


def header(first_seq: int, count: int = 1, *, epoch: str = "e", lane: int = 0) -> FrameHeader:
    return FrameHeader(lane, 1, count, first_seq, epoch, 0, 0, 0)


def under_way(first_seq: int, count: int = 1, *, epoch: str = "e", lane: int = 0) -> UnderWay:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    return UnderWay(header(first_seq, count, epoch=epoch, lane=lane), 0.0, future)


def future_of(frame: UnderWay) -> "asyncio.Future[object]":
    assert frame.future is not None
    return frame.future


def window(*frames: UnderWay, size: int = 16) -> FrameWindow:
    made = FrameWindow(size)
    for frame in frames:
        made.add(frame)
    return made


def said(made: FrameWindow) -> list[str]:
    return [spell(answer.response) for answer in made.answers()]


def spell(response: StreamResponse) -> str:
    if response.HasField("ack"):
        return f"ack {response.ack.epoch_id}/{response.ack.lane} {response.ack.through_seq}"
    refusal = response.refusal
    return f"{'later' if refusal.retryable else 'never'} {refusal.first_seq}"


async def test_nothing_is_said_before_the_first_frame_is_settled() -> None:
    first, second = under_way(1), under_way(2)
    future_of(second).set_result(None)

    assert said(window(first, second)) == []


async def test_acks_in_a_row_are_summed_up() -> None:
    frames = [under_way(1, 5), under_way(6, 5), under_way(11, 5)]
    for frame in frames:
        future_of(frame).set_result(None)

    assert said(window(*frames)) == ["ack e/0 15"]


async def test_epochs_and_lanes_have_their_own_acks() -> None:
    frames = [under_way(1), under_way(1, lane=1), under_way(1, epoch="f"), under_way(2)]
    for frame in frames:
        future_of(frame).set_result(None)

    assert said(window(*frames)) == ["ack e/0 2", "ack e/1 1", "ack f/0 1"]


async def test_a_refusal_comes_after_the_acks_before_it_and_before_those_behind_it() -> None:
    first, last = under_way(1), under_way(3)
    for frame in (first, last):
        future_of(frame).set_result(None)
    refused = UnderWay(header(2), 0.0, verdict=_CHECKSUM)

    assert said(window(first, refused, last)) == ["ack e/0 1", "never 2", "ack e/0 3"]


async def test_what_was_durable_behind_a_frame_that_failed_is_not_acked() -> None:
    first, second, elsewhere = under_way(1), under_way(2), under_way(1, lane=1)
    future_of(first).set_exception(BusUnavailableError("away"))
    future_of(second).set_result(None)
    future_of(elsewhere).set_result(None)

    assert said(window(first, second, elsewhere)) == ["later 1", "later 2", "ack e/1 1"]


async def test_after_a_failure_later_frames_wait_until_the_first_is_sent_again() -> None:
    failed = under_way(5, 5)
    future_of(failed).set_exception(BusUnavailableError("away"))
    made = window(failed)
    said(made)

    assert made.must_wait(header(10))
    assert not made.must_wait(header(10, lane=1))
    assert not made.must_wait(header(5))
    assert not made.must_wait(header(10))


async def test_a_frame_that_the_bus_can_never_take_is_refused_for_good() -> None:
    frame = under_way(1)
    future_of(frame).set_exception(BusRecordError("too large"))

    assert said(window(frame)) == ["never 1"]


async def test_a_frame_whose_future_was_cancelled_may_come_again() -> None:
    frame = under_way(1)
    future_of(frame).cancel()

    assert said(window(frame)) == ["later 1"]


async def test_the_window_is_full_at_its_size() -> None:
    made = window(under_way(1), size=2)
    assert not made.is_full

    made.add(under_way(2))
    assert made.is_full


async def test_too_many_stalled_epochs_are_an_error() -> None:
    frames = [under_way(1, epoch=f"e{n}") for n in range(70)]
    for frame in frames:
        future_of(frame).set_exception(BusUnavailableError("away"))

    with pytest.raises(OverflowError):
        said(window(*frames))


@dataclass
class _Agent:
    """Sends frames of one event in order; after a refusal starts again at the first that was refused."""

    acked: int = 0
    next_seq: int = 1
    durable: set[int] = field(default_factory=set)

    def hear(self, response: StreamResponse) -> None:
        if response.HasField("ack"):
            self.acked = max(self.acked, response.ack.through_seq)
        else:
            self.next_seq = min(self.next_seq, response.refusal.first_seq)


@given(st.lists(st.sampled_from(("send", "confirm", "confirm last", "fail", "answer")), max_size=80))
async def test_whatever_happens_an_ack_covers_only_what_is_durable(steps: list[str]) -> None:
    made, agent, pending = FrameWindow(8), _Agent(), []
    for step in steps:
        if step == "send" and not made.is_full:
            seq = agent.next_seq
            agent.next_seq += 1
            if made.must_wait(header(seq)):
                made.add(UnderWay(header(seq), 0.0, verdict=Verdict(_UNAVAILABLE, "")))
            else:
                frame = under_way(seq)
                made.add(frame)
                pending.append((seq, future_of(frame)))
        elif step.startswith("confirm") and pending:
            seq, future = pending.pop(-1 if step.endswith("last") else 0)
            future.set_result(None)
            agent.durable.add(seq)
        elif step == "fail" and pending:
            pending.pop(0)[1].set_exception(BusUnavailableError("away"))
        elif step == "answer":
            for answer in list(made.answers()):
                agent.hear(answer.response)

        assert set(range(1, agent.acked + 1)) <= agent.durable
    for frame_future in (future for _, future in pending):
        frame_future.cancel()
    list(made.answers())
