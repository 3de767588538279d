"""The uploader's ends of the two doors: to the sensor, whose promises it reads, and to the responder.

Each reconnects by itself for as long as it runs. Both can be gone at any time: events then wait in the
spool, orders are dropped and counted, and the server binds new ones to the next session.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from microedr_agent.errors import IpcError, IpcMessageError, IpcPeerError
from microedr_agent.ipc import Channel, connect
from microedr_agent.ipc_messages import (
    ActionOrder,
    ActionReport,
    ActionReportAck,
    Extent,
    Message,
    SensorGreeting,
    SessionNonce,
    SpoolAck,
    SpoolRefusal,
)
from microedr_agent.log import Log
from microedr_agent.spool.reader import SpoolReader
from microedr_agent.uploader.backoff import Backoff

MAX_UNSENT = 1024
MAX_ORDERS = 64
MAX_REPORTS = 256
_LAST_WAIT_S = 2.0
"""A local door is worth knocking at often."""


class Link:
    """A door that is kept open: connects, receives, sends, again and again."""

    name = ""

    def __init__(self, path: Path, allowed_uids: Collection[int], log: Log) -> None:
        self._path = path
        self._allowed_uids = allowed_uids
        self._log = log
        self._channel: Channel | None = None
        self._unsent: deque[Message] = deque()

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end."""
        return self._channel is not None

    async def run(self) -> None:
        """Until cancelled, which is safe at any point."""
        backoff = Backoff(last_s=_LAST_WAIT_S)
        while True:
            try:
                channel = connect(self._path, allowed_uids=self._allowed_uids)
            except IpcError as error:
                if isinstance(error, IpcPeerError):
                    self._log.error("door_not_ours", door=self.name, error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._channel = channel
            try:
                await self._converse(channel)
            except IpcError as error:
                self._log.info("door_closed", door=self.name, why=str(error))
            finally:
                self._channel = None
                channel.close()
                self._unsent.clear()
                self.left()
            await asyncio.sleep(backoff.next_s())

    def received(self, message: Message) -> None:
        """Take a message of the peer.

        Raises:
            IpcMessageError: It does not say such things.
        """
        raise NotImplementedError

    def left(self) -> None:
        """The peer is gone."""

    async def may_receive(self) -> None:
        """Returns when another message can be taken."""

    def send(self, message: Message) -> bool:
        """Pass ``message`` on; False when nobody is there or it has too much to read already."""
        channel = self._channel
        if channel is None or len(self._unsent) >= MAX_UNSENT:
            return False
        self._unsent.append(message)
        self._flush(channel)
        return True

    def _flush(self, channel: Channel) -> None:
        """Send what waits; when the peer's queue is full, go on once it is not."""
        try:
            while self._unsent:
                if not channel.send(self._unsent[0]):
                    asyncio.get_running_loop().add_writer(channel.fileno(), self._flush, channel)
                    return
                self._unsent.popleft()
        except IpcMessageError as error:
            self._unsent.popleft()
            self._log.warning("message_not_sent", door=self.name, error=str(error))
        except IpcError:
            self._unsent.clear()  # the receiving side sees the same end
        if channel.fileno() >= 0:
            asyncio.get_running_loop().remove_writer(channel.fileno())

    async def _converse(self, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(channel.fileno(), readable.set)
        try:
            while True:
                await self.may_receive()
                message = channel.receive()
                if message is None:
                    readable.clear()
                    await readable.wait()
                else:
                    self.received(message)
        finally:
            loop.remove_reader(channel.fileno())
            loop.remove_writer(channel.fileno())


class SensorLink(Link):
    """Promises come in, acknowledgements and refusals go out."""

    name = "sensor"

    def __init__(
        self, path: Path, allowed_uids: Collection[int], log: Log, *, reader: SpoolReader, wake: Callable[[], None]
    ) -> None:
        super().__init__(path, allowed_uids, log)
        self._reader = reader
        self._wake = wake
        self.greeted = asyncio.Event()
        self.greeting: SensorGreeting | None = None
        """Of the sensor that runs, or the last that did."""

    def received(self, message: Message) -> None:
        """As Link."""
        match message:
            case SensorGreeting():
                # It promises anew. Until now the promises of the one before it held: nobody removed anything.
                self._reader.forget_promises()
                self.greeting = message
                self.greeted.set()
            case Extent():
                self._reader.promise(message)
            case _:
                raise IpcMessageError(f"a sensor does not say {type(message).__name__}")
        self._wake()

    def acknowledge(self, ack: SpoolAck) -> None:
        """Lost when no sensor is there; it then promises the events again, and they are sent again."""
        self.send(ack)

    def refuse(self, refusal: SpoolRefusal) -> None:
        """As ``acknowledge``."""
        self.send(refusal)


class ResponderLink(Link):
    """The session nonce and reports come in, orders and acknowledged reports go out."""

    name = "responder"

    def __init__(self, path: Path, allowed_uids: Collection[int], log: Log, *, wake: Callable[[], None]) -> None:
        super().__init__(path, allowed_uids, log)
        self._wake = wake
        self.greeted = asyncio.Event()
        self.nonce = b""
        self.reports: dict[int, bytes] = {}
        """By number, as given by the responder that runs; until ``acknowledge_report``."""
        self._room = asyncio.Event()
        self._room.set()
        self.orders_dropped_total = 0

    def received(self, message: Message) -> None:
        """As Link."""
        match message:
            case SessionNonce(nonce):
                self.nonce = nonce
                self.greeted.set()
            case ActionReport(number, result):
                self.reports[number] = result
                if len(self.reports) >= MAX_REPORTS:
                    self._room.clear()
            case _:
                raise IpcMessageError(f"a responder does not say {type(message).__name__}")
        self._wake()

    def left(self) -> None:
        """As Link. Reports come again from the next one, under other numbers."""
        self.reports.clear()
        self._room.set()

    def may_receive(self) -> Awaitable[None]:  # type: ignore[override] # the event's wait is what is awaited
        """Reports that the server does not take stay with the responder."""
        return self._room.wait()  # type: ignore[return-value]

    def order(self, signed: bytes) -> None:
        """Pass an order on; dropped and counted when no responder is there, for it is bound to the one that was."""
        if len(self._unsent) >= MAX_ORDERS or not self.send(ActionOrder(signed)):
            self.orders_dropped_total += 1
            self._log.warning("order_dropped", reason="no responder", orders_dropped_total=self.orders_dropped_total)

    def acknowledge_report(self, number: int) -> None:
        """The backend has this report."""
        if self.reports.pop(number, None) is not None:
            self._room.set()
            self.send(ActionReportAck(number))
