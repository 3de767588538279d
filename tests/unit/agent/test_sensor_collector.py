"""Every sample ends in a frame or in a LossRecord, and the account of both balances."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from microedr import ids
from microedr.batch import decode_batch
from microedr.limits import MAX_EVENT_BYTES
from microedr.v1.event_pb2 import AgentEvent, LossReason
from microedr_agent.sensor.clock import WallClock
from microedr_agent.sensor.collector import Collector
from microedr_agent.sensor.encode import Encoder
from microedr_agent.sensor.frames import FrameBuffer
from microedr_agent.sensor.own_events import LossReport
from microedr_agent.sensor.processes import ProcessTable
from microedr_agent.sensor.users import Users
from support.samples import exec_sample, exit_sample, net_sample


@dataclass
class _Statistics:
    acked_total: int = 0
    evicted_total: int = 0
    refused_total: int = 0
    lost_total: int = 0
    spool_bytes: int = 0


@dataclass
class _ListSink:
    """Keeps what it is given; gives up what a test tells it to."""

    events: list[AgentEvent] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    losses: list[LossReport] = field(default_factory=list)
    reported_through: int = 0
    state: _Statistics = field(default_factory=_Statistics)

    @property
    def next_seq(self) -> int:
        return len(self.events) + 1

    def append(self, raw: bytes, count: int) -> None:
        batch = decode_batch(raw)
        assert len(batch.events) == count
        self.events += batch.events
        self.frames.append(count)

    def commit(self) -> None: ...

    def take_losses(self) -> Sequence[LossReport]:
        taken, self.losses = self.losses, []
        return taken

    def losses_reported(self, through_seq: int) -> None:
        self.reported_through = through_seq

    def statistics(self) -> _Statistics:
        return self.state

    def close(self) -> None: ...


@dataclass
class _FakeSource:
    """A ring and its counts: some samples come through, some were dropped."""

    name: str
    samples: list[bytes] = field(default_factory=list)
    seen: int = 0
    dropped: int = 0

    @property
    def ring(self) -> "_FakeSource":
        return self

    @property
    def ledger(self) -> "_FakeSource":
        return self

    def put(self, *samples: bytes) -> None:
        self.samples += samples
        self.seen += len(samples)

    def drop(self, count: int) -> None:
        self.seen += count
        self.dropped += count

    def drain(self, max_samples: int) -> list[bytes]:
        taken, self.samples = self.samples[:max_samples], self.samples[max_samples:]
        return taken

    def seen_total(self) -> int:
        return self.seen

    def dropped_total(self) -> int:
        return self.dropped


@dataclass
class _Bench:
    proc: _FakeSource = field(default_factory=lambda: _FakeSource("proc"))
    net: _FakeSource = field(default_factory=lambda: _FakeSource("net"))
    sink: _ListSink = field(default_factory=_ListSink)
    max_events: int = 500

    def __post_init__(self) -> None:
        self.frames = FrameBuffer(self.sink, b"", max_events=self.max_events, max_raw_bytes=256 * 1024)
        encoder = Encoder(ProcessTable(ids.process_key("h", "b")), Users(), WallClock())
        self.collector = Collector((self.proc, self.net), encoder, self.frames, self.sink)

    def finish(self) -> list[AgentEvent]:
        self.collector.collect()
        self.collector.tell_losses()
        self.collector.beat("stop", "ebpf", [], [])
        self.frames.flush()
        return self.sink.events


def test_sequences_are_dense_over_frames() -> None:
    bench = _Bench(max_events=3)
    bench.proc.put(*[exit_sample()] * 7)
    events = bench.finish()

    assert [event.seqno for event in events] == list(range(1, 9))
    assert bench.sink.frames == [3, 3, 2]


def test_a_connection_read_in_the_same_round_knows_the_exec_before_it() -> None:
    bench = _Bench()
    bench.net.put(net_sample())
    bench.proc.put(exec_sample())
    connection = next(event for event in bench.finish() if event.HasField("net_conn"))

    assert connection.process.exe == "/usr/bin/dash"


def test_a_full_ring_is_told_once_with_its_count() -> None:
    bench = _Bench()
    bench.proc.put(exec_sample())
    bench.proc.drop(41)
    bench.collector.tell_losses()
    losses = [event.loss for event in bench.finish() if event.HasField("loss")]

    assert [(loss.reason, loss.count, loss.detail) for loss in losses] == [
        (LossReason.LOSS_REASON_RING_FULL, 41, "proc")
    ]


def test_an_odd_sample_is_counted_and_the_rest_goes_on() -> None:
    bench = _Bench()
    bench.net.put(b"nonsense", net_sample())
    events = bench.finish()

    assert [event.WhichOneof("kind") for event in events] == ["net_conn", "loss", "agent_heartbeat"]
    assert (events[1].loss.reason, events[1].loss.count) == (LossReason.LOSS_REASON_DECODE_FAILED, 1)


def test_what_the_sink_gave_up_is_told_with_its_range() -> None:
    bench = _Bench()
    bench.sink.losses.append(LossReport(reason=2, count=3, epoch_id="epoch", from_seq=5, to_seq=7, detail="full"))
    loss = next(event.loss for event in bench.finish() if event.HasField("loss"))

    assert (loss.epoch_id, loss.from_seq, loss.to_seq, loss.count) == ("epoch", 5, 7, 3)
    assert bench.sink.reported_through == 1


def test_the_ledger_of_the_last_heartbeat_balances() -> None:
    bench = _Bench(max_events=4)
    bench.sink.state = _Statistics(acked_total=3, evicted_total=1, lost_total=1)
    bench.proc.put(*[exec_sample()] * 6)
    bench.proc.drop(5)
    bench.net.put(net_sample())
    beat = bench.finish()[-1].agent_heartbeat

    assert beat.kernel_seen_total == beat.emitted_total + beat.ring_dropped_total
    assert beat.emitted_total == beat.acked_total + beat.spool_pending_events + beat.evicted_total
    assert (beat.ring_dropped_total, beat.evicted_total, beat.emitted_total) == (5, 2, 8)


def test_an_event_too_long_for_the_contract_leaves_its_sequence_to_the_next() -> None:
    bench = _Bench()
    with pytest.raises(ValueError, match="allowed are"):
        bench.frames.add(bytes(MAX_EVENT_BYTES + 1))

    assert bench.frames.next_seq == 1


def test_only_the_first_event_of_a_frame_carries_the_head() -> None:
    sink = _ListSink()
    head = AgentEvent(hostname="h").SerializeToString()
    frames = FrameBuffer(sink, head, max_events=2, max_raw_bytes=10_000)
    for _ in range(4):
        frames.add(AgentEvent(seqno=frames.next_seq).SerializeToString())

    assert [event.hostname for event in sink.events] == ["h", "", "h", ""]


def test_a_frame_that_is_large_enough_goes_before_it_has_all_its_events() -> None:
    sink = _ListSink()
    frames = FrameBuffer(sink, b"", max_events=500, max_raw_bytes=1000)
    for _ in range(5):
        frames.add(AgentEvent(hostname="x" * 300).SerializeToString())

    assert sink.frames == [4]
