"""The series that streams count into, looked up once."""

import time
from collections.abc import Iterable

from microedr.v1.transport_pb2 import RefusalReason
from microedr_chassis import catalogue
from microedr_chassis.metrics import Metrics
from microedr_ingest.window import UnderWay


class Counters:
    """Shared by all streams of one service."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.frames_received = metrics.counter(catalogue.FRAMES_RECEIVED)
        self.events_received = metrics.counter(catalogue.EVENTS_RECEIVED)
        self.events_published = metrics.counter(catalogue.EVENTS_PUBLISHED)
        self._events_acked = metrics.counter(catalogue.EVENTS_ACKED)
        self._ack_seconds = metrics.histogram(catalogue.ACK_SECONDS)
        self.streams_open = metrics.gauge(catalogue.STREAMS_OPEN)

    def acked(self, frames: Iterable[UnderWay]) -> None:
        """An agent was told that these are durable."""
        now_s = time.monotonic()
        for frame in frames:
            if frame.header is not None:
                self._events_acked.inc(frame.header.count)
            self._ack_seconds.observe(now_s - frame.arrived_s)

    def refused(self, reason: RefusalReason.ValueType, frames: Iterable[UnderWay]) -> None:
        """An agent was told that these were not taken."""
        word = RefusalReason.Name(reason).removeprefix("REFUSAL_REASON_").lower()
        for frame in frames:
            self._metrics.counter(catalogue.FRAMES_REFUSED, reason=word).inc()
            if frame.header is not None:
                self._metrics.counter(catalogue.EVENTS_REFUSED, reason=word).inc(frame.header.count)

    def peer_refused(self, reason: str) -> None:
        """A stream was ended."""
        self._metrics.counter(catalogue.PEERS_REFUSED, reason=reason).inc()
