"""The rules of a stream: how much may be under way, and what an answer of the server may say.

Pure. The server is not trusted: an acknowledgement or refusal of something that was never sent on
this stream ends it, for what it leads to is that events are removed from the disk.
"""

import uuid
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from microedr_agent.errors import ServerLiedError

MAX_WINDOW_FRAMES = 256
"""Whatever the server offers: frames under way are read again after a broken stream."""


class SentFrame(NamedTuple):
    """A frame under way."""

    epoch: uuid.UUID
    lane: int
    first_seq: int
    last_seq: int
    number: int
    """Of all frames of the stream, from 1."""
    sent_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """Everything of this epoch and lane through this sequence is durable over there."""

    epoch: uuid.UUID
    lane: int
    through_seq: int


class SendWindow:
    """Frames of one stream without an answer, oldest first."""

    def __init__(self) -> None:
        self._size = 0
        self._under_way: deque[SentFrame] = deque()
        self._sent_through: dict[tuple[uuid.UUID, int], int] = {}
        self.sent_total = 0
        """Frames sent on this stream, and by that the number of the newest."""
        self.answered_number = 0
        """The newest frame with an answer: the server has read all that was sent before it."""

    @property
    def is_open(self) -> bool:
        """Whether one more frame may be sent."""
        return len(self._under_way) < self._size

    @property
    def oldest_sent_s(self) -> float | None:
        """When the frame that waits longest was sent; None when none waits."""
        return self._under_way[0].sent_s if self._under_way else None

    def resize(self, frames: int) -> None:
        """What the server says it takes; at least one, or nothing could ever be sent."""
        self._size = max(1, min(frames, MAX_WINDOW_FRAMES))

    def sent(self, epoch: uuid.UUID, lane: int, first_seq: int, last_seq: int, *, now_s: float) -> None:
        """A frame is about to go out: its answer may come before the call that sends it returns."""
        self.sent_total += 1
        self._under_way.append(SentFrame(epoch, lane, first_seq, last_seq, self.sent_total, now_s))
        self._sent_through[epoch, lane] = max(self._sent_through.get((epoch, lane), 0), last_seq)

    def acknowledge(self, epoch_id: str, lane: int, through_seq: int) -> Done | None:
        """The server has all up to ``through_seq``; what that makes durable, in whole frames.

        Raises:
            ServerLiedError: It was never sent on this stream.
        """
        epoch = _epoch(epoch_id)
        if not 0 < through_seq <= self._sent_through.get((epoch, lane), 0):
            raise ServerLiedError(f"acknowledged {epoch_id}/{lane} through {through_seq}, which was never sent")
        through = 0
        waiting: deque[SentFrame] = deque()
        for frame in self._under_way:
            if (frame.epoch, frame.lane) == (epoch, lane) and frame.last_seq <= through_seq:
                through = max(through, frame.last_seq)
                self.answered_number = max(self.answered_number, frame.number)
            else:
                waiting.append(frame)
        self._under_way = waiting
        return Done(epoch, lane, through) if through else None

    def refuse(self, epoch_id: str, lane: int, first_seq: int, last_seq: int) -> SentFrame | None:
        """The server did not take a frame: which; None when it has its answer already.

        A refusal without an epoch is of the oldest frame: the server could not read which one it was.

        Raises:
            ServerLiedError: No such frame was sent on this stream.
        """
        if not epoch_id and self._under_way:
            return self._answered(self._under_way[0])
        epoch = _epoch(epoch_id)
        if not 0 < first_seq <= last_seq <= self._sent_through.get((epoch, lane), 0):
            raise ServerLiedError(f"refused {epoch_id}/{lane} {first_seq} to {last_seq}, which was never sent")
        for frame in self._under_way:
            if frame[:4] == (epoch, lane, first_seq, last_seq):
                return self._answered(frame)
        return None

    def forget(self) -> None:
        """Nothing is under way any more: it will be sent again. Late answers are still understood."""
        self._under_way.clear()

    def _answered(self, frame: SentFrame) -> SentFrame:
        self._under_way.remove(frame)
        self.answered_number = max(self.answered_number, frame.number)
        return frame


def _epoch(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ServerLiedError(f"named an epoch that is none: {text[:64]!r}") from None
