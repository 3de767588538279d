"""The sensor's end of the door to the uploader: promises go out, acknowledgements and refusals come in.

For a plain loop: ``poll`` does what can be done now and never blocks. An uploader that is slow, gone or
mad costs the sensor nothing: promises that continue one another wait as one, and what it says is
checked by the writer.
"""

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from microedr_agent.errors import IpcError
from microedr_agent.ipc import Channel, Listener
from microedr_agent.ipc_messages import Extent, SensorGreeting, SpoolAck, SpoolRefusal
from microedr_agent.spool.extents import add_extent
from microedr_agent.spool.writer import SpoolWriter

MAX_MESSAGES_PER_POLL = 256
"""So that an uploader that never stops talking cannot keep the sensor from its rings."""


class SpoolDoor:
    """Listens for the one uploader; the newest connection counts."""

    def __init__(
        self, path: Path, writer: SpoolWriter, *, uploader_uid: int, gid: int | None = None, collector: str = ""
    ) -> None:
        """Listen at once.

        Args:
            path: The socket, in the run directory.
            writer: Whose promises are passed on.
            uploader_uid: Who may connect, beside root and this process's own user: without root there is but one.
            gid: The group that may open the socket.
            collector: What the backend is told collects here; "" when nothing does.

        Raises:
            IpcError: The socket cannot be made.
        """
        self._listener = Listener(path, allowed_uids={uploader_uid, os.geteuid()}, gid=gid)
        self._writer = writer
        self._greeting = SensorGreeting(writer.epoch, collector)
        self._greeted = False
        self._channel: Channel | None = None
        self._waiting: deque[Extent] = deque()

    @property
    def connected(self) -> bool:
        """Whether an uploader is there."""
        return self._channel is not None

    def offer(self, extents: Iterable[Extent]) -> None:
        """Promises just made; sent by the next ``poll``."""
        if self._channel is not None:
            for extent in extents:
                add_extent(self._waiting, extent)

    def poll(self) -> None:
        """Accept, receive, send: as much as goes without waiting."""
        arrived = self._listener.accept()
        if arrived is not None:
            self._leave()
            self._channel = arrived
            self._greeted = False
            for extent in self._writer.extents():
                add_extent(self._waiting, extent)
        if self._channel is None:
            return
        try:
            self._receive(self._channel)
            self._send(self._channel)
        except IpcError:
            self._leave()

    def close(self) -> None:
        """Idempotent."""
        self._leave()
        self._listener.close()

    def _receive(self, channel: Channel) -> None:
        for _ in range(MAX_MESSAGES_PER_POLL):
            match channel.receive():
                case None:
                    return
                case SpoolAck(epoch, lane, through_seq):
                    self._writer.acknowledge(epoch, lane, through_seq)
                case SpoolRefusal() as refusal:
                    self._writer.refuse(refusal)
                case other:
                    raise IpcError(f"an uploader does not say {type(other).__name__}")

    def _send(self, channel: Channel) -> None:
        if not self._greeted and not channel.send(self._greeting):
            return
        self._greeted = True
        while self._waiting and channel.send(self._waiting[0]):
            self._waiting.popleft()

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        self._waiting.clear()
