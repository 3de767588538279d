"""The ingest service: the door for agents, the relay for actions, and what must run beside them."""

import asyncio
from importlib.metadata import version

import structlog
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health  # type: ignore[attr-defined] # not in the stubs

from microedr.v1 import transport_pb2
from microedr.v1.transport_pb2_grpc import add_IngestServiceServicer_to_server
from microedr_chassis import catalogue
from microedr_chassis.address import join_address, split_address
from microedr_chassis.bus.api import Bus
from microedr_chassis.lifecycle import Health, Progress
from microedr_chassis.metrics import Metrics
from microedr_ingest.counters import Counters
from microedr_ingest.errors import StreamEndedError
from microedr_ingest.outlet import Outlet
from microedr_ingest.registry import StreamRegistry
from microedr_ingest.relay import Relay
from microedr_ingest.server import bind, build_server
from microedr_ingest.servicer import IngestServicer
from microedr_ingest.settings import IngestSettings

_log = structlog.get_logger()

_INSPECT_INTERVAL_S = 5.0
_OUTLET_TIMEOUT_S = 1.5
_GRACE_S = 0.5
_SERVICE_NAME = transport_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name


class IngestService:
    """Implements ``microedr_chassis.lifecycle.Service``."""

    name = "ingest"

    def __init__(self, settings: IngestSettings, *, bus: Bus, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._progress = Progress()
        self._streams = StreamRegistry()
        self._outlet = Outlet(bus, metrics)
        self._relay = Relay(bus, outlet=self._outlet, streams=self._streams, metrics=metrics, progress=self._progress)
        self._servicer = IngestServicer(
            settings=settings,
            bus=bus,
            streams=self._streams,
            relay=self._relay,
            outlet=self._outlet,
            counters=Counters(metrics),
            server_version=version("microedr-ingest"),
        )
        self._server: aio.Server | None = None
        self._health = grpc_health.HealthServicer()
        self._address = ""
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def address(self) -> str:
        """``host:port`` that is listened on; known once started."""
        return self._address

    async def start(self) -> None:
        """Listen. Orders that wait on the bus follow in ``serve``.

        Raises:
            SettingsError: The address or a file cannot be used.
        """
        server = build_server(self._settings)
        add_IngestServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = bind(server, self._settings)
        self._address = join_address(split_address(self._settings.listen)[0], port)
        await server.start()
        self._server = server
        await self._health.set(_SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
        _log.info("ingest_listening", listen=self._address)

    async def serve(self) -> None:
        """Run what streams need beside them until ``stop``."""
        self._idle.clear()
        beside = [
            asyncio.create_task(self._relay.run(), name="ingest-relay"),
            asyncio.create_task(self._outlet.run(), name="ingest-outlet"),
            asyncio.create_task(self._inspect(), name="ingest-inspect"),
        ]
        stopped = asyncio.create_task(self._stopped.wait(), name="ingest-stopped")
        try:
            done, _ = await asyncio.wait((*beside, stopped), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*beside, stopped):
                task.cancel()
            await asyncio.gather(*beside, stopped, return_exceptions=True)
            self._idle.set()

    async def stop(self) -> None:
        """Take nothing new, ack what is under way, close. Idempotent."""
        if self._stopping.is_set():
            await self._stopped.wait()
            return
        self._stopping.set()
        try:
            await self._health.enter_graceful_shutdown()
            await self._drain()
            if self._server is not None:
                await self._server.stop(_GRACE_S)
            await self._drain_outlet()
        finally:
            self._stopped.set()
        await self._idle.wait()  # nothing of ours uses the bus when this returns

    def health(self) -> Health:
        """Ok while the loops advance and the bus answers."""
        return self._progress.health()

    async def _drain(self) -> None:
        for stream in self._streams:
            stream.drain()
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._streams.emptied()
        except TimeoutError:
            _log.warning("streams_not_drained", streams=len(self._streams))
        for stream in self._streams:
            stream.close(StreamEndedError("the server stops; connect again", status=StatusCode.UNAVAILABLE))

    async def _drain_outlet(self) -> None:
        try:
            async with asyncio.timeout(_OUTLET_TIMEOUT_S):
                await self._outlet.drain()
        except TimeoutError:
            _log.warning("outlet_not_drained")

    async def _inspect(self) -> None:
        while True:
            for stream in self._streams:
                stream.inspect()
            self._metrics.gauge(catalogue.BYTES_UNDER_WAY).set(self._servicer.budget.used_bytes)
            await asyncio.sleep(_INSPECT_INTERVAL_S)
