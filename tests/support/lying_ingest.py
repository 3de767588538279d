"""An ingest of our own, over real TLS, that can lie: acknowledge too much or never, refuse, hang up, ask for pauses."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from microedr.frame import FrameHeader, verify
from microedr.v1.action_pb2 import ActionResult, SignedAction
from microedr.v1.transport_pb2 import Ack, Flow, Hello, Refusal, RefusalReason, StreamRequest, StreamResponse, Welcome
from microedr.v1.transport_pb2_grpc import IngestServiceServicer, add_IngestServiceServicer_to_server
from support.certificates import Authority, CertificateRequest, IssuedCertificate

PATIENCE_S = 15
Context = grpc.aio.ServicerContext[StreamRequest, StreamResponse]
OnFrame = Callable[["LyingIngest", Context, FrameHeader], Awaitable[None]]


async def acknowledge(ingest: "LyingIngest", context: Context, header: FrameHeader) -> None:
    """An honest server."""
    await ingest.answer(context, ack_of(header.epoch_id, header.last_seq))


async def say_nothing(_ingest: "LyingIngest", _context: Context, _header: FrameHeader) -> None:
    """A server that never acknowledges."""


async def acknowledge_too_much(ingest: "LyingIngest", context: Context, header: FrameHeader) -> None:
    """A server that acknowledges what was never sent."""
    await ingest.answer(context, ack_of(header.epoch_id, header.last_seq + 1000))


async def acknowledge_another_epoch(ingest: "LyingIngest", context: Context, _header: FrameHeader) -> None:
    """A server that acknowledges somebody else's events."""
    await ingest.answer(context, ack_of(str(uuid.uuid4()), 1))


async def hang_up(ingest: "LyingIngest", context: Context, _header: FrameHeader) -> None:
    """A server that ends the stream."""
    ingest.hung_up += 1
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone, says the test")


def refuse(reason: RefusalReason.ValueType, *, retryable: bool, times: int = 1, seq: int = 1) -> OnFrame:
    """A server that refuses the frame that begins at ``seq`` some times, then takes it."""
    left = times

    async def answer(ingest: "LyingIngest", context: Context, header: FrameHeader) -> None:
        nonlocal left
        if header.first_seq != seq or left == 0:
            await acknowledge(ingest, context, header)
            return
        left -= 1
        refusal = Refusal(
            epoch_id=header.epoch_id,
            lane=header.lane,
            first_seq=header.first_seq,
            last_seq=header.last_seq,
            reason=reason,
            detail="says the test",
            retryable=retryable,
        )
        await ingest.answer(context, StreamResponse(refusal=refusal))

    return answer


def ack_of(epoch_id: str, through_seq: int) -> StreamResponse:
    """An acknowledgement on lane 0."""
    return StreamResponse(ack=Ack(epoch_id=epoch_id, lane=0, through_seq=through_seq))


@dataclass
class LyingIngest(IngestServiceServicer):
    """What came, and what to do about it."""

    on_frame: OnFrame = acknowledge
    window_frames: int = 8
    welcome: bool = True
    hellos: list[Hello] = field(default_factory=list)
    frames: list[FrameHeader] = field(default_factory=list)
    results: list[ActionResult] = field(default_factory=list)
    hung_up: int = 0
    unanswered: int = 0
    most_unanswered: int = 0
    contexts: list[Context] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    target: str = ""

    async def Stream(self, request_iterator: object, context: Context) -> None:  # type: ignore[override] # noqa: ARG002, N802 - as generated
        """One agent."""
        self.unanswered = 0
        while isinstance(request := await context.read(), StreamRequest):
            match request.WhichOneof("message"):
                case "hello":
                    self.hellos.append(request.hello)
                    self.contexts.append(context)
                    if self.welcome:
                        await context.write(StreamResponse(welcome=Welcome(window_frames=self.window_frames)))
                case "frame":
                    header = verify(request.frame.sealed)
                    self.frames.append(header)
                    self.unanswered += 1
                    self.most_unanswered = max(self.most_unanswered, self.unanswered)
                    await self.on_frame(self, context, header)
                case "action_result":
                    self.results.append(request.action_result)
            async with self.changed:
                self.changed.notify_all()

    async def answer(self, context: Context, response: StreamResponse) -> None:
        """Answer one frame."""
        self.unanswered -= 1
        await context.write(response)

    async def order(self, signed: SignedAction) -> None:
        """Send an order down the newest stream."""
        await self.contexts[-1].write(StreamResponse(action=signed))

    async def flow(self, window_frames: int, pause_ms: int) -> None:
        """Ask the newest stream for patience."""
        await self.contexts[-1].write(StreamResponse(flow=Flow(window_frames=window_frames, pause_ms=pause_ms)))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what came to fulfil ``condition``."""
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(condition)

    def sequences(self) -> set[tuple[str, int]]:
        """``(epoch, sequence)`` of all that came."""
        return {(frame.epoch_id, seq) for frame in self.frames for seq in range(frame.first_seq, frame.last_seq + 1)}


@asynccontextmanager
async def running_liar(authority: Authority, ingest: LyingIngest, port: int = 0) -> AsyncIterator[LyingIngest]:
    """Serve on a free port of localhost, or on ``port``."""
    own: IssuedCertificate = authority.issue(CertificateRequest(uris=(), dns_names=("localhost",), for_clients=False))
    credentials = grpc.ssl_server_credentials(
        [(own.key_pem, own.cert_pem)], root_certificates=authority.cert_pem, require_client_auth=True
    )
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_IngestServiceServicer_to_server(ingest, server)
    bound = server.add_secure_port(f"localhost:{port}", credentials)
    ingest.target = f"localhost:{bound}"
    await server.start()
    try:
        yield ingest
    finally:
        await server.stop(0)
