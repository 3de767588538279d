"""One stream to ingest, from Hello to its end: frames and reports up, answers and orders down.

Not here: what answers are believed (``window``), when to connect again (``app``).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc.aio

from microedr.v1.action_pb2 import ActionResult
from microedr.v1.transport_pb2 import Flow, Frame, Hello, Refusal, StreamRequest, StreamResponse
from microedr.v1.transport_pb2_grpc import IngestServiceStub
from microedr_agent.errors import ServerLiedError, SpoolError, StreamBrokenError, StreamError
from microedr_agent.ipc_messages import SpoolAck, SpoolRefusal
from microedr_agent.log import Log
from microedr_agent.spool.accounts import LossReason
from microedr_agent.spool.reader import OutgoingFrame, SpoolReader, UnreadableFrames
from microedr_agent.uploader.backoff import Backoff
from microedr_agent.uploader.links import ResponderLink, SensorLink
from microedr_agent.uploader.window import SendWindow

WELCOME_TIMEOUT_S = 10.0
ACK_TIMEOUT_S = 60.0
"""A frame without an answer for this long means a connection that only seems to be there."""
CLOSE_TIMEOUT_S = 2.0
MAX_PAUSE_S = 60.0
"""However long the server asks for; the spool fills meanwhile."""
RETRY_READ_S = 5.0


class Call(Protocol):
    """What is used of ``grpc.aio.StreamStreamCall``."""

    async def write(self, request: StreamRequest) -> None:
        """Send; waits while the connection is full."""

    async def done_writing(self) -> None:
        """Nothing more will be sent."""

    def cancel(self) -> bool:
        """End it at once."""

    def __aiter__(self) -> AsyncIterator[StreamResponse]:
        """What comes back."""


class IngestStream:
    """Runs one stream; made anew for each."""

    def __init__(  # noqa: PLR0913 - its surroundings
        self,
        hello: Hello,
        reader: SpoolReader,
        sensor: SensorLink,
        responder: ResponderLink,
        log: Log,
        *,
        on_welcome: Callable[[], None],
    ) -> None:
        self._hello = hello
        self._reader = reader
        self._sensor = sensor
        self._responder = responder
        self._log = log
        self._on_welcome = on_welcome
        self._window = SendWindow()
        self._wake = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopping = False
        self._stop_due_s = 0.0
        self._paused_until_s = 0.0
        self._backoff = Backoff()
        self._reports_sent: dict[int, int] = {}
        self.welcomed = False
        """Whether the server took us."""

    def wake(self) -> None:
        """Something changed: promises, reports, the window."""
        self._wake.set()

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Send what is promised already, for at most ``drain_s``; take the answers to what is under way; end."""
        self._stopping = True
        self._stop_due_s = time.monotonic() + drain_s
        self._wake.set()

    async def run(self, channel: grpc.aio.Channel) -> None:
        """Until ``stop``, or the server or the network ends it. Cancelling is safe.

        Raises:
            StreamBrokenError: It ended without ``stop``.
            ServerLiedError: The server answered what was never sent.
        """
        call: Call = IngestServiceStub(channel).Stream()  # type: ignore[call-arg] # requests are written, not iterated
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(call))
                tasks.create_task(self._send(call))
        except ExceptionGroup as group:
            raise _cause(group) from group
        finally:
            call.cancel()

    async def _send(self, call: Call) -> None:
        try:
            await call.write(StreamRequest(hello=self._hello))
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await self._welcomed.wait()
            while True:
                self._wake.clear()
                await self._send_reports(call)
                all_sent = await self._send_frames(call)
                if self._stopping and (all_sent or self._is_stop_due()):
                    break
                await self._sleep()
            await call.done_writing()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:
            if self._stopping:
                call.cancel()
                return
            raise StreamBrokenError("no welcome from the server") from None
        except asyncio.InvalidStateError:
            # The call is over; the receiving side knows why and says so.
            await self._ended.wait()

    async def _send_frames(self, call: Call) -> bool:
        """Send what may be sent now; whether that was everything."""
        while self._window.is_open and not self._is_stop_due() and time.monotonic() >= self._paused_until_s:
            try:
                # Reads one frame, which the sensor wrote a moment ago, from the page cache: no thread is worth that.
                found = self._reader.next()
            except SpoolError as error:
                self._log.error("spool_unreadable", error=str(error))
                self._paused_until_s = time.monotonic() + RETRY_READ_S
                return False
            match found:
                case None:
                    return True
                case UnreadableFrames():
                    self._give_up(found, LossReason.SPOOL_CORRUPT, found.detail)
                case OutgoingFrame():
                    self._window.sent(found.epoch, found.lane, found.first_seq, found.last_seq, now_s=time.monotonic())
                    await call.write(StreamRequest(frame=Frame(sealed=found.sealed)))
        return False

    def _is_stop_due(self) -> bool:
        return self._stopping and time.monotonic() >= self._stop_due_s

    async def _send_reports(self, call: Call) -> None:
        for number, result in list(self._responder.reports.items()):
            if number not in self._reports_sent:
                self._reports_sent[number] = self._window.sent_total
                await call.write(StreamRequest(action_result=ActionResult.FromString(result)))

    async def _sleep(self) -> None:
        """Until woken, a pause is over, or an answer is overdue."""
        now_s = time.monotonic()
        waits_s = [due_s - now_s for due_s in (self._paused_until_s, self._stop_due_s) if due_s > now_s]
        oldest_s = self._window.oldest_sent_s
        if oldest_s is not None:
            waits_s.append(oldest_s + ACK_TIMEOUT_S - now_s)
            if waits_s[-1] <= 0:
                raise StreamBrokenError(f"no answer for {ACK_TIMEOUT_S:.0f} s")
        try:
            async with asyncio.timeout(min(waits_s) if waits_s else None):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _receive(self, call: Call) -> None:
        try:
            async for response in call:
                was_waiting = not self._window.is_open or not self.welcomed
                self._take(response)
                if was_waiting or response.WhichOneof("message") != "ack":
                    self._wake.set()
        finally:
            self._ended.set()
        if not self._stopping:
            raise StreamBrokenError("the server ended the stream")

    def _take(self, response: StreamResponse) -> None:
        match response.WhichOneof("message"):
            case "welcome":
                self._window.resize(response.welcome.window_frames)
                self.welcomed = True
                self._welcomed.set()
                self._on_welcome()
                self._log.info("ingest_connected", server_version=response.welcome.server_version)
            case "ack":
                self._take_ack(response.ack.epoch_id, response.ack.lane, response.ack.through_seq)
            case "refusal":
                self._take_refusal(response.refusal)
            case "flow":
                self._take_flow(response.flow)
            case "action":
                self._responder.order(response.action.SerializeToString())
            case None:
                self._log.warning("answer_not_understood")

    def _take_ack(self, epoch_id: str, lane: int, through_seq: int) -> None:
        done = self._window.acknowledge(epoch_id, lane, through_seq)
        if done is not None:
            self._backoff.reset()
            self._reader.acknowledge(done.epoch, done.lane, done.through_seq)
            self._sensor.acknowledge(SpoolAck(done.epoch, done.lane, done.through_seq))
            self._settle_reports()

    def _take_refusal(self, refusal: Refusal) -> None:
        frame = self._window.refuse(refusal.epoch_id, refusal.lane, refusal.first_seq, refusal.last_seq)
        if frame is None:
            return
        if refusal.retryable:
            # Order matters to the server: what was sent behind this frame is sent again after it.
            self._window.forget()
            self._reader.rewind()
            self._pause(self._backoff.next_s())
            self._log.info("frame_put_off", first_seq=frame.first_seq, reason=refusal.reason, detail=refusal.detail)
            return
        self._log.warning(
            "frame_refused",
            first_seq=frame.first_seq,
            last_seq=frame.last_seq,
            reason=refusal.reason,
            detail=refusal.detail,
        )
        lost = UnreadableFrames(frame.epoch, frame.lane, frame.first_seq, frame.last_seq, "")
        self._give_up(lost, LossReason.REFUSED, refusal.detail)
        self._settle_reports()

    def _take_flow(self, flow: Flow) -> None:
        if flow.window_frames:
            self._window.resize(flow.window_frames)
        self._pause(flow.pause_ms / 1000)

    def _pause(self, wait_s: float) -> None:
        self._paused_until_s = max(self._paused_until_s, time.monotonic() + min(wait_s, MAX_PAUSE_S))

    def _give_up(self, lost: UnreadableFrames, reason: LossReason, detail: str) -> None:
        self._sensor.refuse(SpoolRefusal(lost.epoch, lost.lane, lost.first_seq, lost.last_seq, reason, detail))
        self._reader.settle(lost.epoch, lost.lane, lost.last_seq)

    def _settle_reports(self) -> None:
        """A report has arrived when a frame that was sent behind it has its answer: the server reads in order."""
        for number, sent_before in list(self._reports_sent.items()):
            if self._window.answered_number > sent_before and number in self._responder.reports:
                self._responder.acknowledge_report(number)


def _cause(group: ExceptionGroup[Exception]) -> Exception:
    """What ended the stream; the group itself when it is a fault of this program."""
    causes: list[StreamError] = []
    for error in group.exceptions:
        match error:
            case grpc.aio.AioRpcError():
                causes.append(StreamBrokenError(f"{error.code().name}: {error.details()}"))
            case StreamError():
                causes.append(error)
            case _:
                return group
    return next((cause for cause in causes if isinstance(cause, ServerLiedError)), causes[0])
