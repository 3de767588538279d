"""Only agents of ours get in: TLS 1.3, our authority, exactly one URI, not expired, now and later."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from microedr_chassis import catalogue
from microedr_chassis.errors import SettingsError
from support.certificates import Authority, CertificateRequest, IssuedCertificate
from support.frames import frame
from support.ingest import PATIENCE_S, Ingest, LyingAgent, agent, running_ingest, short_lived

_URI = "spiffe://microedr.local/tenant/acme/host/"


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    async with running_ingest(tmp_path) as one:
        yield one


async def ending_of_greeting(channel: grpc.aio.Channel) -> tuple[StatusCode, str]:
    """How the stream of an agent that behaves ends."""
    one = LyingAgent(channel)
    try:
        await one.greet()
    except (grpc.aio.AioRpcError, AssertionError):
        return await one.ending()
    return StatusCode.OK, ""


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(CertificateRequest(uris=()), "0 URIs", id="no URI"),
        pytest.param(CertificateRequest(uris=(_URI + "host-a", _URI + "host-b")), "2 URIs", id="two URIs"),
        pytest.param(CertificateRequest(uris=("https://example.com/",)), "not spiffe", id="a URI of another kind"),
        pytest.param(
            CertificateRequest(uris=("spiffe://elsewhere/tenant/acme/host/host-a",)), "trust domain", id="not of ours"
        ),
    ],
)
async def test_a_certificate_without_exactly_one_uri_of_ours_is_refused(
    ingest: Ingest, request_: CertificateRequest, reason: str
) -> None:
    async with ingest.channel(ingest.authority.issue(request_)) as channel:
        code, text = await ending_of_greeting(channel)

    assert code == StatusCode.UNAUTHENTICATED
    assert reason in text
    assert ingest.metrics.value(catalogue.PEERS_REFUSED, reason="certificate") == 1


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(Authority("another CA").issue(CertificateRequest()), id="of another authority"),
        pytest.param(None, id="expired"),
    ],
)
async def test_a_certificate_that_tls_does_not_verify_gets_no_stream(
    ingest: Ingest, certificate: IssuedCertificate | None
) -> None:
    expired = ingest.authority.issue(CertificateRequest(starts_in=dt.timedelta(days=-2), life=dt.timedelta(hours=-1)))
    async with ingest.channel(certificate or expired) as channel:
        code, _ = await ending_of_greeting(channel)

    assert code == StatusCode.UNAVAILABLE


async def test_a_client_without_tls_gets_no_stream(ingest: Ingest) -> None:
    async with grpc.aio.insecure_channel(ingest.target) as channel:
        code, _ = await ending_of_greeting(channel)

    assert code == StatusCode.UNAVAILABLE


async def test_a_client_without_a_certificate_gets_no_stream(ingest: Ingest) -> None:
    credentials = grpc.ssl_channel_credentials(ingest.authority.cert_pem)
    async with grpc.aio.secure_channel(ingest.target, credentials) as channel:
        code, _ = await ending_of_greeting(channel)

    assert code == StatusCode.UNAVAILABLE


@asynccontextmanager
async def tunnel(ingest: Ingest, directory: Path, version: ssl.TLSVersion) -> AsyncIterator[str]:
    """A local port that speaks TLS of just this version to ingest, with a good certificate."""
    good = ingest.authority.issue(CertificateRequest())
    (directory / "agent.pem").write_bytes(good.cert_pem + good.key_pem)
    context = ssl.create_default_context(cadata=ingest.authority.cert_pem.decode())
    context.load_cert_chain(directory / "agent.pem")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = ingest.target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port), ssl=context)
        pumps = [asyncio.create_task(pump(reader, far_writer)), asyncio.create_task(pump(far_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in pumps:
            one.cancel()
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("version", "status"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_2, StatusCode.UNAUTHENTICATED, id="1.2"),
        pytest.param(ssl.TLSVersion.TLSv1_3, StatusCode.OK, id="1.3"),
    ],
)
async def test_only_tls_1_3_will_do(
    ingest: Ingest, tmp_path: Path, version: ssl.TLSVersion, status: StatusCode
) -> None:
    async with tunnel(ingest, tmp_path, version) as target, grpc.aio.insecure_channel(target) as channel:
        code, text = await ending_of_greeting(channel)

    assert code == status
    assert ("TLS 1.3" in text) == (status is StatusCode.UNAUTHENTICATED)


async def test_a_certificate_that_expires_while_the_stream_lives_ends_it_at_the_next_frame(ingest: Ingest) -> None:
    async with agent(ingest, short_lived(2)) as one:
        await one.greet()
        await one.send(frame(1, 1))
        await one.hear()
        await asyncio.sleep(2.1)
        await one.send(frame(2, 1))
        code, text = await one.ending()

    assert (code, text) == (StatusCode.UNAUTHENTICATED, "the certificate has expired")
    assert len(await ingest.published_events()) == 1


async def test_a_new_server_certificate_is_used_without_a_restart(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microedr_ingest.server._RELOAD_INTERVAL_S", 0.0)
    request = CertificateRequest(uris=(), dns_names=("localhost",), for_clients=False)
    renewed = ingest.authority.issue(request)
    ingest.server_cert.write_bytes(renewed.cert_pem)
    ingest.server_cert.with_name("key.pem").write_bytes(renewed.key_pem)
    async with ingest.channel() as channel:
        code, _ = await ending_of_greeting(channel)
    host, _, port = ingest.target.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=PATIENCE_S)

    assert code == StatusCode.OK
    assert pem.strip() == renewed.cert_pem.decode().strip()


async def test_damaged_certificate_files_leave_the_old_certificate_in_use(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microedr_ingest.server._RELOAD_INTERVAL_S", 0.0)
    ingest.server_cert.write_text("half a file")
    async with ingest.channel() as channel:
        code, _ = await ending_of_greeting(channel)

    assert code == StatusCode.OK


async def test_health_is_served_to_clients_of_ours(ingest: Ingest) -> None:
    async with ingest.channel() as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="microedr.v1.IngestService"), timeout=PATIENCE_S
        )

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        pytest.param("cert.pem", b"rubbish", "MICROEDR_INGEST_TLS_CERT_FILE: not a PEM certificate", id="certificate"),
        pytest.param("key.pem", b"rubbish", "MICROEDR_INGEST_TLS_KEY_FILE: not a PEM key", id="key"),
        pytest.param(
            "key.pem",
            Authority().issue(CertificateRequest()).key_pem,
            "MICROEDR_INGEST_TLS_KEY_FILE: not the key of",
            id="another key",
        ),
        pytest.param("ca.pem", b"", "MICROEDR_INGEST_CLIENT_CA_FILE: not a PEM certificate", id="authority"),
        pytest.param("ca.pem", None, "MICROEDR_INGEST_CLIENT_CA_FILE: .*: No such file", id="missing"),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_by_its_variable(
    ingest: Ingest, tmp_path: Path, name: str, content: bytes | None, line: str
) -> None:
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(SettingsError, match=line):
        await type(ingest.service)(ingest.service._settings, bus=ingest.bus, metrics=ingest.metrics).start()


async def test_a_used_port_is_told_by_its_variable(ingest: Ingest) -> None:
    taken = ingest.service._settings.model_copy(update={"listen": ingest.service.address})

    with pytest.raises(SettingsError, match=f"MICROEDR_INGEST_LISTEN: cannot listen on {ingest.service.address}"):
        await type(ingest.service)(taken, bus=ingest.bus, metrics=ingest.metrics).start()
