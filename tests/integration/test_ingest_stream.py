"""Ingest over real gRPC and TLS: nothing is acked before it is durable, and of a bad frame nothing is published."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpc import StatusCode

from microedr import headers
from microedr.batch import decode_batch, varint
from microedr.frame import HEADER_BYTES, MAX_SEALED_BYTES, seal
from microedr.limits import MAX_BATCH_EVENTS, MAX_MESSAGE_BYTES, SCHEMA_VERSION
from microedr.v1.event_pb2 import EventBatch
from microedr.v1.transport_pb2 import (
    Ack,
    Frame,
    HostSession,
    RefusalReason,
    SessionState,
    StreamRequest,
    StreamResponse,
)
from microedr_chassis import catalogue
from microedr_chassis.bus.topics import HOSTS
from support.frames import EPOCH, frame
from support.ingest import Ingest, LyingAgent, agent, running_ingest
from support.waiting import eventually


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    async with running_ingest(tmp_path) as one:
        yield one


def acked(response: StreamResponse) -> int:
    assert response.HasField("ack"), response
    return response.ack.through_seq


async def test_a_frame_is_published_under_the_certificates_names_and_acked(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        welcome = (await one.greet()).welcome
        await one.send(frame(1, 3))
        answer = await one.hear()
    (record,) = await ingest.records("microedr.events.v1", 1)

    assert welcome.window_frames == 16
    assert answer.ack == Ack(epoch_id=str(EPOCH), lane=0, through_seq=3)
    assert record.key == b"host-a"
    assert record.headers[headers.TENANT] == b"acme"
    assert record.headers[headers.HOST] == b"host-a"
    assert record.headers[headers.EPOCH] == str(EPOCH).encode()
    assert (record.headers[headers.FIRST_SEQ], record.headers[headers.LAST_SEQ]) == (b"1", b"3")
    assert (record.headers[headers.COUNT], record.headers[headers.LANE]) == (b"3", b"0")
    assert len(record.headers[headers.TRACE]) == 32
    assert [event.seqno for event in decode_batch(record.value).events] == [1, 2, 3]


async def test_no_ack_comes_before_the_bus_has_confirmed(ingest: Ingest) -> None:
    ingest.bus.hold = True
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3))
        await ingest.bus.holds(1)
        listening = asyncio.create_task(one.hear())
        await asyncio.wait((listening,), timeout=0.2)
        assert not listening.done()

        await ingest.bus.confirm()
        assert acked(await listening) == 3


async def test_acks_wait_for_the_frames_before_them(ingest: Ingest) -> None:
    ingest.bus.hold = True
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3), frame(4, 3), frame(7, 3))
        await ingest.bus.holds(3)
        await ingest.bus.confirm(2)
        await ingest.bus.confirm(1)
        listening = asyncio.create_task(one.hear())
        await asyncio.wait((listening,), timeout=0.2)
        assert not listening.done()

        await ingest.bus.confirm(0)
        assert acked(await listening) == 9


async def test_lanes_and_epochs_are_acked_apart(ingest: Ingest) -> None:
    other = uuid.uuid4()
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3), frame(1, 5, lane=1), frame(1, 7, epoch=other))
        acks: dict[tuple[str, int], int] = {}
        while len(acks) < 3:
            ack = (await one.hear()).ack
            acks[ack.epoch_id, ack.lane] = ack.through_seq

    assert acks == {(str(EPOCH), 0): 3, (str(EPOCH), 1): 5, (str(other), 0): 7}


def _name_host(host_id: str) -> Callable[[EventBatch], None]:
    def change(content: EventBatch) -> None:
        content.events[1].host_id = host_id

    return change


def _name_host_in_block(content: EventBatch) -> None:
    content.events[2].host.host_id = "host-b"


def _skip_a_sequence(content: EventBatch) -> None:
    content.events[1].seqno = 99


def _clear_kind(content: EventBatch) -> None:
    content.events[1].ClearField("proc_exit")


def _flip(sealed: bytes, index: int) -> bytes:
    return sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]


def _sealed(raw: bytes, count: int = 1) -> bytes:
    return seal(raw, lane=0, epoch=EPOCH, first_seq=1, count=count, sealed_unix_ns=0, previous_chain=bytes(32)).sealed


_BAD_FRAMES = [
    pytest.param(frame(change=_name_host("host-b")), "WRONG_HOST", id="an event names another host"),
    pytest.param(frame(change=_name_host_in_block), "WRONG_HOST", id="an event's host block names another host"),
    pytest.param(_flip(frame(), HEADER_BYTES + 5), "CHECKSUM", id="one bit of the body"),
    pytest.param(_flip(frame(), 30), "CHECKSUM", id="one bit of the header"),
    pytest.param(frame()[:-1], "MALFORMED", id="cut short"),
    pytest.param(b"", "MALFORMED", id="empty"),
    pytest.param(b"GET / HTTP/1.1\r\n" * 9, "MALFORMED", id="something else"),
    pytest.param(_sealed(b"\0" * 900_000), "TOO_LARGE", id="a bomb"),
    pytest.param(frame(1, 1, says_count=MAX_BATCH_EVENTS + 1), "TOO_MANY_EVENTS", id="too many events"),
    pytest.param(b"M" * MAX_SEALED_BYTES, "MALFORMED", id="as large as allowed and rubbish"),
    pytest.param(b"M" * MAX_MESSAGE_BYTES, "TOO_LARGE", id="larger than allowed"),
    pytest.param(frame(schema_version=SCHEMA_VERSION + 1), "SCHEMA_VERSION", id="of a schema to come"),
    pytest.param(_sealed(varint(5) + b"\xff\xff\xff\xff\xff"), "MALFORMED", id="no batch inside"),
    pytest.param(_sealed(b"\x05"), "MALFORMED", id="a batch cut short inside"),
    pytest.param(frame(1, 3, says_count=2), "INCONSISTENT", id="more events than it says"),
    pytest.param(frame(1, 3, says_count=4), "INCONSISTENT", id="fewer events than it says"),
    pytest.param(frame(change=_skip_a_sequence), "INCONSISTENT", id="sequences with a hole"),
    pytest.param(frame(change=_clear_kind), "UNKNOWN_KIND", id="an event without a kind"),
]


@pytest.mark.parametrize(("sealed", "reason"), _BAD_FRAMES)
async def test_a_bad_frame_is_refused_and_counted_and_the_stream_stays_up(
    ingest: Ingest, sealed: bytes, reason: str
) -> None:
    async with agent(ingest) as one:
        await one.greet()
        await one.send(sealed)
        refusal = (await one.hear()).refusal
        await one.send(frame(10, 2))
        after = await one.hear()

    assert RefusalReason.Name(refusal.reason) == f"REFUSAL_REASON_{reason}"
    assert not refusal.retryable
    assert refusal.detail
    assert acked(after) == 11
    assert [record.headers[headers.FIRST_SEQ] for record in await ingest.published_events()] == [b"10"]
    assert ingest.metrics.value(catalogue.FRAMES_REFUSED, reason=reason.lower()) == 1
    assert ingest.metrics.value(catalogue.FRAMES_RECEIVED) == 2


async def test_a_refusal_names_the_frame(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(21, 4, lane=2, change=_skip_a_sequence))
        refusal = (await one.hear()).refusal

    assert (refusal.epoch_id, refusal.lane, refusal.first_seq, refusal.last_seq) == (str(EPOCH), 2, 21, 24)


async def test_a_message_far_above_the_limit_ends_the_stream_with_a_status_that_says_so(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        await one.greet()
        await one.send(b"M" * (2 * MAX_MESSAGE_BYTES))
        code, text = await one.ending()

    assert code == StatusCode.RESOURCE_EXHAUSTED
    assert str(2 * MAX_MESSAGE_BYTES) in text
    assert await ingest.published_events() == []


async def test_received_events_are_published_or_refused(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 5), frame(6, 7, change=_clear_kind), frame(13, 9))
        while acked_or_none(await one.hear()) != 21:
            pass
        await eventually(lambda: ingest.metrics.value(catalogue.EVENTS_ACKED) == 14)

    value = ingest.metrics.value
    assert value(catalogue.EVENTS_RECEIVED) == 21
    assert value(catalogue.EVENTS_PUBLISHED) == value(catalogue.EVENTS_ACKED) == 14
    assert value(catalogue.EVENTS_REFUSED, reason="unknown_kind") == 7


def acked_or_none(response: StreamResponse) -> int | None:
    return response.ack.through_seq if response.HasField("ack") else None


async def test_while_the_bus_is_away_frames_are_refused_for_now_and_the_stream_stays_up(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        await one.greet()
        ingest.bus.broker.away = True
        await one.send(frame(1, 3))
        refusal, flow = await one.hear(), await one.hear()
        ingest.bus.broker.away = False
        await asyncio.sleep(0.15)  # the bus refuses everything for a moment after a failure
        await one.send(frame(1, 3))
        answer = await one.hear()

    assert refusal.refusal.reason == RefusalReason.REFUSAL_REASON_UNAVAILABLE
    assert refusal.refusal.retryable
    assert flow.flow.pause_ms > 0
    assert acked(answer) == 3


async def test_what_follows_a_frame_that_was_refused_for_now_is_not_published_before_it(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        await one.greet()
        ingest.bus.away_for = 1  # back before the agent can know that it was away
        await one.send(frame(1, 3), frame(4, 3), frame(7, 3))
        refused: list[int] = []
        while len(refused) < 3:
            answer = await one.hear()
            refused += [answer.refusal.first_seq] if answer.HasField("refusal") else []
        await one.send(frame(1, 3), frame(4, 3), frame(7, 3))
        while (answer := await one.hear()).ack.through_seq < 9:
            assert not answer.HasField("refusal")
    published = [int(record.headers[headers.FIRST_SEQ]) for record in await ingest.published_events()]

    assert refused == [1, 4, 7]
    assert published == [1, 4, 7]


async def test_a_frame_that_failed_holds_back_the_acks_of_all_after_it_until_it_is_sent_again(
    ingest: Ingest,
) -> None:
    ingest.bus.hold = True
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3), frame(4, 3))
        await ingest.bus.holds(2)
        ingest.bus.fail(0)
        first = (await one.hear()).refusal
        await one.hear()  # Flow
        await ingest.bus.confirm(0)  # the second became durable, but an ack would cover the first
        second = (await one.hear()).refusal
        await one.hear()  # Flow
        await one.send(frame(7, 3))  # sent before the agent knew
        third = (await one.hear()).refusal
        await one.hear()  # Flow
        await one.send(frame(1, 3), frame(4, 3), frame(7, 3))
        await ingest.bus.holds(3)
        for _ in range(3):
            await ingest.bus.confirm()
        last = 0
        while last < 9:
            last = acked(await one.hear())

    assert [(r.first_seq, r.retryable) for r in (first, second, third)] == [(1, True), (4, True), (7, True)]


async def test_a_full_bus_queue_makes_the_stream_wait_not_lose(ingest: Ingest) -> None:
    ingest.bus.hold = True
    ingest.bus.full = 3
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3))
        await ingest.bus.holds(1)
        await ingest.bus.confirm()

        assert acked(await one.hear()) == 3


async def test_a_bus_queue_that_stays_full_refuses_for_now(ingest: Ingest) -> None:
    ingest.bus.hold = True
    ingest.bus.full = 1_000_000
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3))
        refusal = (await one.hear()).refusal

    assert (refusal.reason, refusal.retryable) == (RefusalReason.REFUSAL_REASON_UNAVAILABLE, True)


async def test_no_more_than_the_window_is_taken_from_one_stream(tmp_path: Path) -> None:
    async with running_ingest(tmp_path, window_frames=4) as ingest:
        ingest.bus.hold = True
        async with agent(ingest) as one:
            await one.greet()
            await one.send(*(frame(seq, 1) for seq in range(1, 11)))
            taken = await settled(lambda: len(ingest.bus.held))
            for _ in range(10):
                await ingest.bus.holds(1)
                await ingest.bus.confirm()
            last = 0
            while last < 10:
                last = acked(await one.hear())

    assert taken == 4


async def test_all_streams_share_a_byte_budget(tmp_path: Path) -> None:
    def fatten(content: EventBatch) -> None:
        for index, event in enumerate(content.events):
            event.process.cmdline = f"{index} {uuid.uuid4()} " * 300

    async with running_ingest(
        tmp_path, bytes_under_way=4 * 1024 * 1024, window_frames=64, full_timeout_s=0.3
    ) as ingest:
        ingest.bus.hold = True
        async with agent(ingest) as one:
            await one.greet()
            await one.send(*(frame(1 + 60 * n, 60, change=fatten) for n in range(20)))
            held_bytes = await settled(lambda: sum(len(record.value) for record, _ in ingest.bus.held))

    assert 4 * 1024 * 1024 <= held_bytes < 5 * 1024 * 1024


async def settled(measure: Callable[[], int]) -> int:
    """What ``measure`` says once it says the same twice."""
    async with asyncio.timeout(10):
        before = -1
        for _ in range(100):
            now = measure()
            if now == before:
                return now
            before = now
            await asyncio.sleep(0.3)
    raise AssertionError("it never settled")


async def test_the_newest_stream_of_a_host_wins(ingest: Ingest) -> None:
    async with agent(ingest) as old, agent(ingest) as new:
        await old.greet()
        await new.greet()
        code, text = await old.ending()
        await new.send(frame(1, 2))
        answer = await new.hear()

    assert (code, text) == (StatusCode.ABORTED, "a newer stream of this host took its place")
    assert acked(answer) == 2


async def test_a_session_is_told_at_connect_heartbeat_and_disconnect(ingest: Ingest) -> None:
    def beat(content: EventBatch) -> None:
        heartbeat = content.events[1].agent_heartbeat
        heartbeat.spool_pending_events = 7
        heartbeat.blind_spots.append("dns over https")

    async with agent(ingest) as one:
        await one.greet(boot_id="boot-1")
        await one.send(frame(1, 3, change=beat))
        await one.hear()
        await ingest.records(HOSTS, 2)
    sessions = [HostSession.FromString(record.value) for record in await ingest.records(HOSTS, 3)]

    assert [s.state for s in sessions] == [
        SessionState.SESSION_STATE_CONNECTED,
        SessionState.SESSION_STATE_CONNECTED,
        SessionState.SESSION_STATE_DISCONNECTED,
    ]
    assert {(s.tenant_id, s.host_id, s.boot_id, s.ingest_id) for s in sessions} == {
        ("acme", "host-a", "boot-1", "ingest-1")
    }
    assert (sessions[1].spool_pending_events, list(sessions[1].blind_spots)) == (7, ["dns over https"])


async def test_a_stream_that_was_replaced_does_not_tell_that_its_host_is_gone(ingest: Ingest) -> None:
    async with agent(ingest) as old, agent(ingest) as new:
        await old.greet()
        await new.greet()
        await old.ending()
        await new.send(frame(1, 1))
        await new.hear()
        sessions = [HostSession.FromString(record.value).state for record in await ingest.records(HOSTS, 2)]

    assert sessions == [SessionState.SESSION_STATE_CONNECTED] * 2


async def test_stopping_acks_what_is_under_way_then_sends_agents_elsewhere(ingest: Ingest) -> None:
    ingest.bus.hold = True
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3))
        await ingest.bus.holds(1)
        stopping = asyncio.create_task(ingest.service.stop())
        await asyncio.sleep(0.1)
        await ingest.bus.confirm()
        answer = await one.hear()
        code, text = await one.ending()
        await stopping

    assert acked(answer) == 3
    assert (code, text) == (StatusCode.UNAVAILABLE, "the server stops; connect again")


async def test_an_agent_that_ends_its_stream_gets_its_acks_first(ingest: Ingest) -> None:
    ingest.bus.hold = True
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3))
        await one.call.done_writing()
        await ingest.bus.holds(1)
        await ingest.bus.confirm()
        answer = await one.hear()
        code, _ = await one.ending()

    assert acked(answer) == 3
    assert code == StatusCode.OK


async def test_the_budget_is_given_back_when_an_agent_vanishes(ingest: Ingest) -> None:
    ingest.bus.hold = True
    async with agent(ingest) as one:
        await one.greet()
        await one.send(frame(1, 3))
        await ingest.bus.holds(1)
    used = ingest.service._servicer.budget.used_bytes
    await ingest.bus.confirm()
    await asyncio.sleep(0)

    assert used > 0
    assert ingest.service._servicer.budget.used_bytes == 0


async def _first_a_frame(one: LyingAgent) -> None:
    await one.send(frame())


async def _hello_for_another_host(one: LyingAgent) -> None:
    one.hello.host_id = "host-b"
    await one.say(StreamRequest(hello=one.hello))


async def _hello_twice(one: LyingAgent) -> None:
    await one.greet()
    await one.say(StreamRequest(hello=one.hello))


async def _nothing(_one: LyingAgent) -> None:
    return


@pytest.mark.parametrize(
    ("act", "status"),
    [
        pytest.param(_first_a_frame, StatusCode.FAILED_PRECONDITION, id="a frame before Hello"),
        pytest.param(_hello_for_another_host, StatusCode.PERMISSION_DENIED, id="Hello for another host"),
        pytest.param(_hello_twice, StatusCode.FAILED_PRECONDITION, id="Hello twice"),
        pytest.param(_nothing, StatusCode.DEADLINE_EXCEEDED, id="no Hello at all"),
    ],
)
async def test_a_stream_that_begins_wrong_is_ended(
    tmp_path: Path, act: Callable[[LyingAgent], AsyncIterator[None]], status: StatusCode
) -> None:
    async with running_ingest(tmp_path, hello_timeout_s=0.5) as ingest, agent(ingest) as one:
        await act(one)  # type: ignore[misc]
        code, text = await one.ending()

        assert (code, bool(text)) == (status, True)
        assert await ingest.published_events() == []


async def test_messages_of_kinds_to_come_are_passed_over(ingest: Ingest) -> None:
    async with agent(ingest) as one:
        await one.greet()
        await one.say(StreamRequest())
        await one.say(StreamRequest(frame=Frame(sealed=frame(1, 1))))

        assert acked(await one.hear()) == 1
