"""One agent's stream, from Welcome to its end: frames up, acks down, orders down, results up.

Not here: who may open it (``servicer``) and which answer a frame gets when (``window``).
"""

import asyncio
import time
from collections import deque
from typing import Protocol

import grpc
import structlog
from grpc import StatusCode

from microedr.frame import FrameHeader
from microedr.v1.action_pb2 import ActionResult, SignedAction
from microedr.v1.transport_pb2 import Flow, RefusalReason, StreamRequest, StreamResponse
from microedr_chassis.bus.api import Bus
from microedr_chassis.errors import BusFullError, BusRecordError, BusUnavailableError
from microedr_chassis.identity import Peer
from microedr_ingest.budget import ByteBudget
from microedr_ingest.counters import Counters
from microedr_ingest.errors import FrameRefusedError, PeerRefusedError, StreamEndedError
from microedr_ingest.frames import CheckedFrame, check_frame, readable_header
from microedr_ingest.peers import check_unexpired
from microedr_ingest.publisher import FramePublisher
from microedr_ingest.sessions import Session
from microedr_ingest.settings import IngestSettings
from microedr_ingest.window import FrameWindow, UnderWay, Verdict

_log = structlog.get_logger()

_UNAVAILABLE = RefusalReason.REFUSAL_REASON_UNAVAILABLE
_PAUSE_MS = 1000
"""How long an agent is asked to wait when the bus is away."""

_ACK_DELAY_S = 0.01
"""An ack may wait this long for others to join it, unless half of the window is settled: sending one costs as much
as checking a frame."""

_MAX_OUTBOX = 128
_END_TIMEOUT_S = 1.0

Context = grpc.aio.ServicerContext[StreamRequest, StreamResponse]


class ResultTaker(Protocol):
    """Who takes what agents did with orders."""

    def report(self, peer: Peer, result: ActionResult) -> None:
        """Take it; what is not acceptable is counted and dropped."""


class AgentStream:
    """Runs one admitted stream."""

    def __init__(  # noqa: PLR0913 - what a stream touches
        self,
        context: Context,
        peer: Peer,
        session: Session,
        *,
        welcome: StreamResponse,
        session_nonce: bytes,
        bus: Bus,
        budget: ByteBudget,
        results: ResultTaker,
        counters: Counters,
        settings: IngestSettings,
    ) -> None:
        self.peer = peer
        self.session = session
        self.session_nonce = session_nonce
        self._context = context
        self._budget = budget
        self._results = results
        self._counters = counters
        self._settings = settings
        self._log = _log.bind(tenant_id=peer.tenant_id, host_id=peer.host_id)
        self._window = FrameWindow(settings.window_frames)
        self._outbox: deque[StreamResponse] = deque((welcome,))
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._reading_over = False
        self._draining = False
        self._settled = 0
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last_heard_s = time.monotonic()
        self._refused_total = 0
        self._publisher = FramePublisher(bus, peer, full_timeout_s=settings.full_timeout_s)

    async def run(self) -> None:
        """Until the agent ends it or something does not let it go on.

        Raises:
            PeerRefusedError: It cannot go on; the agent is to be told the status.
        """
        self._wake.set()
        reader = asyncio.create_task(self._read(), name="stream-reader")
        writer = asyncio.create_task(self._write(), name="stream-writer")
        try:
            await asyncio.wait((reader, writer, self._closing), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
                await self._finish(writer)
            for ended in (self._closing, writer):
                if ended.done():
                    ended.result()
            if self._draining:
                raise StreamEndedError("the server stops; connect again", status=StatusCode.UNAVAILABLE)
        finally:
            reader.cancel()
            writer.cancel()
            if not self._closing.cancel() and not self._closing.cancelled():
                self._closing.exception()  # seen, whatever ended the stream
            await asyncio.wait((reader, writer), timeout=_END_TIMEOUT_S)

    def close(self, reason: StreamEndedError) -> None:
        """End the stream now; frames under way get no ack. Idempotent."""
        if not self._closing.done():
            self._closing.set_exception(reason)

    def drain(self) -> None:
        """Read nothing more, answer what is under way, then end."""
        self._draining = self._reading_over = True
        self._wake.set()

    def relay(self, signed: SignedAction) -> bool:
        """Send an order down. False: too many wait already."""
        if len(self._outbox) >= _MAX_OUTBOX or self._closing.done():
            return False
        self._outbox.append(StreamResponse(action=signed))
        self._wake.set()
        return True

    def inspect(self) -> None:
        """Close it when it was silent for too long or its certificate has expired. To be called now and then."""
        try:
            check_unexpired(self.peer, time.time())
        except PeerRefusedError as error:
            self.close(error)
        if time.monotonic() - self._last_heard_s > self._settings.idle_timeout_s:
            self.close(PeerRefusedError("idle", "nothing was heard", status=StatusCode.DEADLINE_EXCEEDED))

    async def _read(self) -> None:
        while not self._reading_over:
            request = await self._context.read()
            if not isinstance(request, StreamRequest) or self._reading_over:
                return
            self._last_heard_s = time.monotonic()
            match request.WhichOneof("message"):
                case "frame":
                    await self._take(request.frame.sealed)
                case "action_result":
                    self._results.report(self.peer, request.action_result)
                case "hello":
                    raise PeerRefusedError("no_hello", "Hello comes once", status=StatusCode.FAILED_PRECONDITION)

    async def _take(self, sealed: bytes) -> None:
        arrived_s = time.monotonic()
        while self._window.is_full:
            self._room.clear()
            await self._room.wait()
        check_unexpired(self.peer, time.time())
        self._counters.frames_received.inc()
        if self._budget.is_full:
            try:
                async with asyncio.timeout(self._settings.full_timeout_s):
                    await self._budget.room()
            except TimeoutError:
                self._refuse(readable_header(sealed), _UNAVAILABLE, "the server is full", arrived_s, count=True)
                return
        try:
            frame = check_frame(sealed, self.peer.host_id)
        except FrameRefusedError as error:
            self._refuse(error.header, error.reason, str(error), arrived_s, count=True)
            return
        self._counters.events_received.inc(frame.header.count)
        if self._window.must_wait(frame.header):
            self._refuse(frame.header, _UNAVAILABLE, "an earlier frame has to come first", arrived_s)
            return
        await self._publish(frame, arrived_s)
        for heartbeat in frame.heartbeats:
            self.session.beat(heartbeat)

    async def _publish(self, frame: CheckedFrame, arrived_s: float) -> None:
        size_bytes = len(frame.raw)
        try:
            future = await self._publisher.submit(frame, self._window.oldest)
        except BusUnavailableError:
            self._refuse(frame.header, _UNAVAILABLE, "the bus is away", arrived_s)
            return
        except BusFullError:
            self._refuse(frame.header, _UNAVAILABLE, "the bus is full", arrived_s)
            return
        except BusRecordError as error:
            reason = RefusalReason.REFUSAL_REASON_TOO_LARGE
            self._refuse(frame.header, reason, f"the bus takes no such record: {error}", arrived_s)
            return
        self._budget.take(size_bytes)
        self._window.add(UnderWay(frame.header, arrived_s, future))

        def settled(outcome: "asyncio.Future[object]") -> None:
            # Also when the stream is long gone: the bus held the bytes until now.
            self._budget.give_back(size_bytes)
            error = None if outcome.cancelled() else outcome.exception()
            if outcome.cancelled() or isinstance(error, BusUnavailableError):
                self._window.hold_back(frame.header)
            elif error is None:
                self._counters.events_published.inc(frame.header.count)
            self._settled += 1
            self._wake.set()

        future.add_done_callback(settled)

    def _refuse(
        self,
        header: FrameHeader | None,
        reason: RefusalReason.ValueType,
        detail: str,
        arrived_s: float,
        *,
        count: bool = False,
    ) -> None:
        if count and header is not None:
            self._counters.events_received.inc(header.count)
        if reason == _UNAVAILABLE and header is not None:
            self._window.hold_back(header)
        self._window.add(UnderWay(header, arrived_s, verdict=Verdict(reason, detail)))
        self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not (self._outbox or self._reading_over or self._settled >= self._settings.window_frames // 2):
                await asyncio.sleep(_ACK_DELAY_S)
            self._settled = 0
            while self._outbox:
                await self._context.write(self._outbox.popleft())
            try:
                await self._answer()
            except OverflowError as error:
                raise PeerRefusedError("other", str(error), status=StatusCode.RESOURCE_EXHAUSTED) from error
            self._room.set()
            if self._reading_over and not self._window and not self._outbox:
                return

    async def _answer(self) -> None:
        pause = False
        for answer in self._window.answers():
            await self._context.write(answer.response)
            if answer.verdict is None:
                self._counters.acked(answer.frames)
            else:
                pause = pause or answer.verdict.reason == _UNAVAILABLE
                self._counters.refused(answer.verdict.reason, answer.frames)
                self._tell_refusal(answer.verdict)
        if pause:
            flow = Flow(window_frames=self._settings.window_frames, pause_ms=_PAUSE_MS)
            await self._context.write(StreamResponse(flow=flow))

    def _tell_refusal(self, verdict: Verdict) -> None:
        self._refused_total += 1
        if self._refused_total & (self._refused_total - 1) == 0:  # the 1st, 2nd, 4th, …: a liar must not fill the log
            self._log.warning(
                "frame_refused",
                reason=RefusalReason.Name(verdict.reason),
                detail=verdict.detail,
                refused_total=self._refused_total,
            )

    async def _finish(self, writer: "asyncio.Task[None]") -> None:
        """The agent sends no more: answer what is under way."""
        self._reading_over = True
        self._wake.set()
        await asyncio.wait((writer, self._closing), return_when=asyncio.FIRST_COMPLETED)
