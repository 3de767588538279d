"""Events gathered into the next frame: numbered without a gap, handed to the sink when full or asked for."""

from microedr.limits import MAX_EVENT_BYTES
from microedr_agent.sensor import fields as f
from microedr_agent.sensor.sink import EventSink
from microedr_agent.sensor.wire import varint


class FrameBuffer:
    """At most ``max_events`` or ``max_raw_bytes``, whichever comes first.

    Args:
        sink: Where full frames go.
        head: Fields that the first event of each frame carries for all of them: host and agent.
        max_events: A frame of this many is full.
        max_raw_bytes: Before compression.
    """

    def __init__(
        self,
        sink: EventSink,
        head: bytes,
        *,
        max_events: int,
        max_raw_bytes: int,
    ) -> None:
        self._sink = sink
        self._head = head
        self._max_events = max_events
        self._max_raw_bytes = max_raw_bytes
        self._parts: list[bytes] = []
        self._raw_bytes = 0
        self.count = 0
        """Events in it."""

    @property
    def next_seq(self) -> int:
        """Of the next event to be added."""
        return self._sink.next_seq + self.count

    def add(self, event: bytes) -> None:
        """Take an event that was encoded with ``next_seq``; one that would not fit the contract is refused.

        Raises:
            ValueError: It is longer than ``MAX_EVENT_BYTES``; its sequence is free for another.
        """
        if self.count == 0:
            event += self._head
        if len(event) > MAX_EVENT_BYTES:
            raise ValueError(f"an event has {len(event)} bytes, allowed are {MAX_EVENT_BYTES}")
        prefix = f.BATCH_EVENT + varint(len(event))
        self._parts += (prefix, event)
        self._raw_bytes += len(prefix) + len(event)
        self.count += 1
        if self.count >= self._max_events or self._raw_bytes >= self._max_raw_bytes:
            self.flush()

    def flush(self) -> None:
        """Hand what is there to the sink."""
        if self.count == 0:
            return
        raw = b"".join((varint(self._raw_bytes), *self._parts))
        count, self.count = self.count, 0
        self._parts.clear()
        self._raw_bytes = 0
        self._sink.append(raw, count)
