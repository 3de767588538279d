"""A real ingest on a free port, agents that talk to it and may lie, and a bus that confirms by hand."""

import asyncio
import datetime as dt
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

from microedr.frame import VERSION
from microedr.v1.transport_pb2 import Frame, Hello, StreamRequest, StreamResponse
from microedr.v1.transport_pb2_grpc import IngestServiceStub
from microedr_chassis.bus.api import BusStatistics, ConsumedRecord, Record, TopicPartition
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus
from microedr_chassis.bus.topics import catalogue as topic_catalogue
from microedr_chassis.errors import BusFullError, BusUnavailableError
from microedr_chassis.metrics import MetricRegistry, Metrics
from microedr_chassis.settings import load_settings
from microedr_ingest.app import IngestService
from microedr_ingest.settings import IngestSettings
from support.certificates import Authority, CertificateRequest, IssuedCertificate

PATIENCE_S = 10
Place = tuple[TopicPartition, int]


class HeldBus(MemoryBus):
    """A memory bus that publishes events only when the test says so."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        super().__init__(broker)
        self.hold = False
        self.away_for = 0
        """So many submits of events are answered with BusUnavailableError."""
        self.full = 0
        """So many submits of events are answered with BusFullError."""
        self.held: deque[tuple[Record, asyncio.Future[Place]]] = deque()
        self.submitted = asyncio.Event()

    def submit(self, record: Record) -> "asyncio.Future[Place]":
        """See ``Bus``."""
        if not record.topic.startswith("microedr.events"):
            return super().submit(record)
        if self.away_for:
            self.away_for -= 1
            raise BusUnavailableError("away, says the test")
        if not self.hold:
            return super().submit(record)
        if self.full:
            self.full -= 1
            raise BusFullError("full, says the test")
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self.held.append((record, future))
        self.submitted.set()
        return future

    async def confirm(self, index: int = 0) -> None:
        """Publish a held record and say so."""
        record, future = self.held[index]
        del self.held[index]
        future.set_result(await super().submit(record))

    def fail(self, index: int = 0) -> None:
        """Say that a held record was not published."""
        _, future = self.held[index]
        del self.held[index]
        future.set_exception(BusUnavailableError("away, says the test"))

    async def holds(self, count: int) -> None:
        """Wait until so many are held."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.held) < count:
                self.submitted.clear()
                await self.submitted.wait()

    def statistics(self) -> BusStatistics:
        """See ``Bus``."""
        return super().statistics()


@dataclass
class Ingest:
    """A running ingest and its surroundings."""

    service: IngestService
    bus: HeldBus
    metrics: Metrics
    authority: Authority
    server_cert: Path

    @property
    def target(self) -> str:
        """Where agents connect."""
        return f"localhost:{self.service.address.rpartition(':')[2]}"

    def channel(self, certificate: IssuedCertificate | None = None, *, ca_pem: bytes | None = None) -> grpc.aio.Channel:
        """A connection of its own, with a good certificate unless another is given."""
        client = self.authority.issue(CertificateRequest()) if certificate is None else certificate
        credentials = grpc.ssl_channel_credentials(ca_pem or self.authority.cert_pem, client.key_pem, client.cert_pem)
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 64 << 20))
        return grpc.aio.secure_channel(self.target, credentials, options=options)

    async def records(self, topic: str, count: int) -> list[ConsumedRecord]:
        """The first ``count`` records of ``topic``, waiting for them."""
        tail = await self.bus.tail([topic], since_unix_ms=0)
        found: list[ConsumedRecord] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                found += await tail.fetch(max_records=1000, timeout_s=0.1)
        await tail.close()
        return found

    async def published_events(self) -> list[ConsumedRecord]:
        """What stands in topic events now."""
        tail = await self.bus.tail(["microedr.events.v1"], since_unix_ms=0)
        found: Sequence[ConsumedRecord] = await tail.fetch(max_records=1000, timeout_s=0)
        await tail.close()
        return list(found)


@asynccontextmanager
async def running_ingest(directory: Path, **settings: object) -> AsyncIterator[Ingest]:
    """An ingest on a free port of localhost over a memory bus."""
    authority = Authority()
    request = CertificateRequest(uris=(), dns_names=("localhost",), for_clients=False)
    server = authority.issue(request)
    paths = {name: directory / f"{name}.pem" for name in ("cert", "key", "ca")}
    for name, pem in (("cert", server.cert_pem), ("key", server.key_pem), ("ca", authority.cert_pem)):
        paths[name].write_bytes(pem)
    bus = HeldBus()
    await bus.start()
    await bus.ensure_topics(topic_catalogue(4))
    defaults: dict[str, object] = {
        "bus": "memory",
        "listen": "127.0.0.1:0",
        "member": "ingest-1",
        "tls_cert_file": paths["cert"],
        "tls_key_file": paths["key"],
        "client_ca_file": paths["ca"],
        "full_timeout_s": 0.5,
    }
    metrics = MetricRegistry().for_service("ingest")
    service = IngestService(load_settings(IngestSettings, **{**defaults, **settings}), bus=bus, metrics=metrics)
    await service.start()
    serving = asyncio.create_task(service.serve())
    try:
        yield Ingest(service, bus, metrics, authority, paths["cert"])
    finally:
        await service.stop()
        await serving
        await bus.close()


@dataclass
class LyingAgent:
    """An agent on one stream; says what the test tells it to."""

    channel: grpc.aio.Channel
    hello: Hello = field(
        default_factory=lambda: Hello(
            host_id="host-a", hostname="a.example", frame_version=VERSION, session_nonce=b"n" * 16, os="linux"
        )
    )

    def __post_init__(self) -> None:
        self.call = IngestServiceStub(self.channel).Stream()  # type: ignore[call-arg] # grpc.aio needs no iterator

    async def greet(self, **changes: object) -> StreamResponse:
        """Say Hello, with changes; returns the answer."""
        hello = Hello()
        hello.CopyFrom(self.hello)
        for name, value in changes.items():
            setattr(hello, name, value)
        await self.say(StreamRequest(hello=hello))
        return await self.hear()

    async def send(self, *sealed: bytes) -> None:
        """Send frames."""
        for one in sealed:
            await self.say(StreamRequest(frame=Frame(sealed=one)))

    async def say(self, request: StreamRequest) -> None:
        """Send anything."""
        async with asyncio.timeout(PATIENCE_S):
            await self.call.write(request)

    async def hear(self) -> StreamResponse:
        """The next response; fails when the stream ends."""
        async with asyncio.timeout(PATIENCE_S):
            response = await self.call.read()
        assert isinstance(response, StreamResponse), f"the stream ended: {await self.call.code()}"
        return response

    async def ending(self) -> tuple[grpc.StatusCode, str]:
        """Status and text of the stream's end, skipping what comes before."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self.call.code()
            return code, await self.call.details() or ""


@asynccontextmanager
async def agent(
    ingest: Ingest, request: CertificateRequest | None = None, **hello: object
) -> AsyncIterator[LyingAgent]:
    """An agent with its own connection; good unless told otherwise."""
    certificate = ingest.authority.issue(request or CertificateRequest())
    async with ingest.channel(certificate) as channel:
        one = LyingAgent(channel)
        for name, value in hello.items():
            setattr(one.hello, name, value)
        try:
            yield one
        finally:
            one.call.cancel()


def short_lived(life_s: float) -> CertificateRequest:
    """A good certificate that expires in ``life_s`` seconds, rounded up to whole ones."""
    request = CertificateRequest()
    return replace(request, life=dt.timedelta(seconds=life_s))
