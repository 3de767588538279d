"""Admits streams: who they are, what they say first, and that a host has one."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc
import structlog
from grpc import StatusCode

from microedr import frame
from microedr.v1.transport_pb2 import Hello, StreamRequest, StreamResponse, Welcome
from microedr.v1.transport_pb2_grpc import IngestServiceServicer
from microedr_chassis.bus.api import Bus
from microedr_chassis.identity import Peer
from microedr_ingest.budget import ByteBudget
from microedr_ingest.counters import Counters
from microedr_ingest.errors import PeerRefusedError, StreamEndedError
from microedr_ingest.outlet import Outlet
from microedr_ingest.peers import authenticate
from microedr_ingest.registry import StreamRegistry
from microedr_ingest.relay import Relay
from microedr_ingest.sessions import Session
from microedr_ingest.settings import IngestSettings
from microedr_ingest.stream import AgentStream, Context

_log = structlog.get_logger()

_MAX_NONCE_BYTES = 64
_MAX_WORD_CHARS = 64


class IngestServicer(IngestServiceServicer):
    """The gRPC service."""

    def __init__(  # noqa: PLR0913 - what a stream touches
        self,
        *,
        settings: IngestSettings,
        bus: Bus,
        streams: StreamRegistry,
        relay: Relay,
        outlet: Outlet,
        counters: Counters,
        server_version: str,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._streams = streams
        self._relay = relay
        self._outlet = outlet
        self._counters = counters
        self._server_version = server_version
        self._budget = ByteBudget(settings.bytes_under_way)

    @property
    def budget(self) -> ByteBudget:
        """What all streams have under way."""
        return self._budget

    async def Stream(  # type: ignore[override] # noqa: N802 - gRPC's name; its stub knows generators only
        self, _requests: AsyncIterator[StreamRequest], context: Context
    ) -> None:
        """One stream, from the handshake to its status."""
        try:
            peer = authenticate(
                context.auth_context(), now_unix_s=time.time(), trust_domain=self._settings.trust_domain
            )
            hello = await self._greeting(context, peer)
            await self._run(context, peer, hello)
        except StreamEndedError as error:
            if isinstance(error, PeerRefusedError):
                self._counters.peer_refused(error.reason)
                _log.warning("peer_refused", reason=error.reason, detail=str(error), address=context.peer())
            await context.abort(error.status, str(error))

    async def _greeting(self, context: Context, peer: Peer) -> Hello:
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s):
                request = await context.read()
        except TimeoutError:
            _refuse("no_hello", "Hello did not come", StatusCode.DEADLINE_EXCEEDED)
        if not isinstance(request, StreamRequest) or request.WhichOneof("message") != "hello":
            _refuse("no_hello", "the first message must be Hello", StatusCode.FAILED_PRECONDITION)
        hello = request.hello
        if hello.host_id != peer.host_id:
            _refuse("wrong_host", "Hello names another host than the certificate", StatusCode.PERMISSION_DENIED)
        if len(hello.session_nonce) > _MAX_NONCE_BYTES:
            _refuse("other", "the session nonce is too long", StatusCode.INVALID_ARGUMENT)
        if hello.frame_version < frame.VERSION:
            _refuse("other", f"frame version {frame.VERSION} is needed", StatusCode.FAILED_PRECONDITION)
        return hello

    async def _run(self, context: Context, peer: Peer, hello: Hello) -> None:
        session = Session(peer, hello, ingest_id=self._settings.member, outlet=self._outlet)
        welcome = Welcome(
            window_frames=self._settings.window_frames,
            server_unix_ns=time.time_ns(),
            server_version=self._server_version,
        )
        stream = AgentStream(
            context,
            peer,
            session,
            welcome=StreamResponse(welcome=welcome),
            session_nonce=hello.session_nonce,
            bus=self._bus,
            budget=self._budget,
            results=self._relay,
            counters=self._counters,
            settings=self._settings,
        )
        log = _log.bind(tenant_id=peer.tenant_id, host_id=peer.host_id)
        self._streams.add(stream)
        self._counters.streams_open.set(len(self._streams))
        session.connected()
        log.info(
            "agent_connected",
            agent_version=hello.agent_version[:_MAX_WORD_CHARS],
            epoch_id=hello.epoch_id[:_MAX_WORD_CHARS],
        )
        self._relay.attach(stream)
        try:
            await stream.run()
        finally:
            if self._streams.remove(stream):
                session.disconnected()
            self._counters.streams_open.set(len(self._streams))
            log.info("agent_disconnected")


def _refuse(reason: str, detail: str, status: grpc.StatusCode) -> NoReturn:
    raise PeerRefusedError(reason, detail, status=status)
