"""Frames of one stream that wait for the bus, and the answers to them, in the order the frames came.

Pure: futures are only looked at. The promise kept here: an ack covers nothing that is not durable, but for
frames that were refused for good before it, of which the agent was told.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from microedr.frame import FrameHeader
from microedr.v1.transport_pb2 import Ack, Refusal, RefusalReason, StreamResponse
from microedr_chassis.errors import BusRecordError

_UNAVAILABLE = RefusalReason.REFUSAL_REASON_UNAVAILABLE
_MAX_STALLED = 64
"""Epochs and lanes of one stream that wait for a frame to be sent again; agents have a few."""

_EpochLane = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a frame is refused."""

    reason: RefusalReason.ValueType
    detail: str


@dataclass(slots=True)
class UnderWay:
    """A frame without an answer: on its way to the bus, or refused."""

    header: FrameHeader | None
    arrived_s: float
    future: "asyncio.Future[object] | None" = None
    verdict: Verdict | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it can be answered."""
        return self.future is None or self.future.done()

    def outcome(self) -> Verdict | None:
        """None: it is durable."""
        if self.verdict is not None or self.future is None:
            return self.verdict
        if self.future.cancelled():
            return Verdict(_UNAVAILABLE, "the server stops")
        error = self.future.exception()
        if error is None:
            return None
        if isinstance(error, BusRecordError):
            return Verdict(RefusalReason.REFUSAL_REASON_TOO_LARGE, f"the bus takes no such record: {error}")
        return Verdict(_UNAVAILABLE, "the bus is away")


@dataclass(frozen=True, slots=True)
class Answer:
    """What to tell the agent, and the frames that it answers."""

    response: StreamResponse
    frames: tuple[UnderWay, ...]
    verdict: Verdict | None = None
    """None: the frames are acked."""


class FrameWindow:
    """At most ``size_frames`` frames under way."""

    def __init__(self, size_frames: int) -> None:
        self._size_frames = size_frames
        self._frames: deque[UnderWay] = deque()
        self._stalled: dict[_EpochLane, int] = {}

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        """Whether another frame has to wait."""
        return len(self._frames) >= self._size_frames

    @property
    def oldest(self) -> UnderWay | None:
        """The frame whose answer comes next."""
        return self._frames[0] if self._frames else None

    def add(self, frame: UnderWay) -> None:
        """The newest frame."""
        self._frames.append(frame)

    def must_wait(self, header: FrameHeader) -> bool:
        """Whether a frame before this one has to be sent again first.

        If this one were published and acked, the ack would cover the one that is missing.
        """
        key = (header.epoch_id, header.lane)
        stalled_seq = self._stalled.get(key)
        if stalled_seq is None:
            return False
        if header.first_seq > stalled_seq:
            return True
        del self._stalled[key]
        return False

    def hold_back(self, header: FrameHeader) -> None:
        """From now on ``must_wait`` holds for what follows ``header`` in its sequence, until that is sent again.

        To be called at once when a frame cannot be published for now: the bus may take the very next one, and
        consumers would then count this one, sent again, among the duplicates.
        """
        key = (header.epoch_id, header.lane)
        self._stalled[key] = min(header.first_seq, self._stalled.get(key, header.first_seq))

    def answers(self) -> Iterator[Answer]:
        """Answers to the frames at the front that are settled: acks summed up, refusals one by one, in order."""
        durable: dict[_EpochLane, list[UnderWay]] = {}
        while self._frames and self._frames[0].is_settled:
            frame = self._frames.popleft()
            verdict = frame.outcome()
            if verdict is None and frame.header is not None:
                durable.setdefault((frame.header.epoch_id, frame.header.lane), []).append(frame)
                continue
            yield from _acks(durable)
            durable.clear()
            verdict = verdict or Verdict(RefusalReason.REFUSAL_REASON_MALFORMED, "")
            if verdict.reason == _UNAVAILABLE and frame.header is not None:
                self._stall(frame.header)
            yield Answer(_refusal(frame.header, verdict), (frame,), verdict)
        yield from _acks(durable)

    def _stall(self, header: FrameHeader) -> None:
        """Refuse what follows ``header`` in its sequence until that is sent again."""
        self.hold_back(header)
        key = (header.epoch_id, header.lane)
        if len(self._stalled) > _MAX_STALLED:
            raise OverflowError(f"more than {_MAX_STALLED} epochs wait for a frame")
        behind = Verdict(_UNAVAILABLE, f"sequence {header.first_seq} has to come first")
        for frame in self._frames:
            if frame.header is not None and (frame.header.epoch_id, frame.header.lane) == key and not frame.verdict:
                frame.verdict = behind


def _acks(durable: dict[_EpochLane, list[UnderWay]]) -> Iterator[Answer]:
    for (epoch_id, lane), frames in durable.items():
        last = frames[-1].header
        if last is not None:
            ack = Ack(epoch_id=epoch_id, lane=lane, through_seq=last.last_seq)
            yield Answer(StreamResponse(ack=ack), tuple(frames))


def _refusal(header: FrameHeader | None, verdict: Verdict) -> StreamResponse:
    refusal = Refusal(reason=verdict.reason, detail=verdict.detail, retryable=verdict.reason == _UNAVAILABLE)
    if header is not None:
        refusal.epoch_id = header.epoch_id
        refusal.lane = header.lane
        refusal.first_seq = header.first_seq
        refusal.last_seq = header.last_seq
    return StreamResponse(refusal=refusal)
