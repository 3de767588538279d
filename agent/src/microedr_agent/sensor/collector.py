"""The way of a sample: out of its ring, decoded, encoded, into the next frame; and the account of all of them."""

import os
import time
from collections.abc import Sequence
from typing import Protocol

from microedr_agent.errors import SampleError
from microedr_agent.sensor import own_events
from microedr_agent.sensor.decode import decode
from microedr_agent.sensor.encode import Encoder
from microedr_agent.sensor.frames import FrameBuffer
from microedr_agent.sensor.ledger import Ledger
from microedr_agent.sensor.own_events import Heartbeat, LossReport
from microedr_agent.sensor.sink import EventSink

MAX_SAMPLES_PER_DRAIN = 8192
"""Bounds the memory of one round; a ring of 512 KiB holds about 1,500 samples of mean size."""

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class SampleRing(Protocol):
    """Where samples come from."""

    def drain(self, max_samples: int) -> list[bytes]:
        """The finished samples in order."""


class Source(Protocol):
    """A loaded object: its ring and its counts."""

    @property
    def name(self) -> str:
        """Of the object: "proc" or "net"."""

    @property
    def ring(self) -> SampleRing:
        """Its samples."""

    @property
    def ledger(self) -> Ledger:
        """Its counts."""


class Collector:
    """Moves events from ``sources`` into ``frames``, and tells of those that are missing."""

    def __init__(self, sources: Sequence[Source], encoder: Encoder, frames: FrameBuffer, sink: EventSink) -> None:
        self._sources = sources
        self._encoder = encoder
        self._frames = frames
        self._sink = sink
        self._dropped_told = dict.fromkeys((source.name for source in sources), 0)
        self._unusable = dict.fromkeys((source.name for source in sources), 0)
        self._unusable_told = dict(self._unusable)
        self._own_total = 0
        """Events without a sample: heartbeats and losses."""

    def collect(self) -> None:
        """Empty the rings."""
        # Read last to first and encoded first to last: processes come first, so the process behind each connection
        # that was read has been read too.
        batches = [(source.name, source.ring.drain(MAX_SAMPLES_PER_DRAIN)) for source in reversed(self._sources)]
        for name, samples in reversed(batches):
            for sample in samples:
                self._take(name, sample)

    def tell_losses(self) -> None:
        """Write a LossRecord for what was lost since the last time, in the rings, here and in the sink."""
        for source in self._sources:
            dropped = source.ledger.dropped_total()
            self._tell_growth(source.name, own_events.RING_FULL, dropped, self._dropped_told)
            self._tell_growth(source.name, own_events.DECODE_FAILED, self._unusable[source.name], self._unusable_told)
        losses = self._sink.take_losses()
        for report in losses:
            self._add_own(own_events.loss(report))
        if losses:
            self._sink.losses_reported(self._frames.next_seq - 1)

    def beat(self, phase: str, collector: str, blind_spots: Sequence[str], attach_failures: Sequence[str]) -> None:
        """Write a heartbeat with the ledger of this moment.

        ``kernel_seen = emitted + ring_dropped`` but for samples that are in the rings right now, and those
        that DECODE_FAILED LossRecords tell of. The sensor's own events count as seen.
        """
        seen = sum(source.ledger.seen_total() for source in self._sources)
        statistics = self._sink.statistics()
        given_up = statistics.evicted_total + statistics.refused_total + statistics.lost_total
        emitted = self._frames.next_seq - 1
        self._add_own(
            own_events.heartbeat(
                Heartbeat(
                    phase=phase,
                    collector=collector,
                    blind_spots=blind_spots,
                    attach_failures=attach_failures,
                    spool_pending_events=emitted - statistics.acked_total - given_up,
                    spool_bytes=statistics.spool_bytes,
                    kernel_seen_total=seen + self._own_total,
                    ring_dropped_total=sum(source.ledger.dropped_total() for source in self._sources),
                    emitted_total=emitted,
                    acked_total=statistics.acked_total,
                    evicted_total=given_up,
                    cpu_time_ns=time.process_time_ns(),
                    rss_bytes=_resident_bytes(),
                )
            )
        )

    def _take(self, name: str, sample: bytes) -> None:
        try:
            self._frames.add(self._encoder.encode(decode(sample), self._frames.next_seq))
        except (SampleError, ValueError):
            # ValueError: the event is longer than the contract allows.
            self._unusable[name] += 1

    def _tell_growth(self, name: str, reason: int, total: int, told: dict[str, int]) -> None:
        grown = total - told[name]
        if grown > 0:
            told[name] = total
            self._add_own(own_events.loss(LossReport(reason=reason, count=grown, detail=name)))

    def _add_own(self, payload: bytes) -> None:
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._own_total += 1
        self._frames.add(self._encoder.stamp(self._frames.next_seq, boot_ns) + payload)


def _resident_bytes() -> int:
    """Of this process; 0 when /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - once a minute, and Path.open costs no less
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
