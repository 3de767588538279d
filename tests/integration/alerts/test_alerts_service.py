"""The whole service's promise: alerts get through while the database dies and returns, and streams miss nothing."""

import asyncio
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from microedr.v1.action_pb2 import ActionState
from microedr_alerts.app import AlertsService
from microedr_alerts.settings import AlertsSettings
from microedr_alerts.target import Target
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.errors import SettingsError
from microedr_chassis.metrics import MetricRegistry
from microedr_chassis.settings import load_settings
from support.alert_records import TENANT, a_step, alert_uuid, an_alert, published
from support.certificates import Authority, CertificateRequest
from support.postgres import dsn_of


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    authority = Authority()
    issued = authority.issue(CertificateRequest(uris=(), dns_names=("localhost",), for_clients=False))
    files = {"ca": authority.cert_pem, "cert": issued.cert_pem, "key": issued.key_pem}
    for name, content in files.items():
        (tmp_path / f"{name}.pem").write_bytes(content)
    return {name: tmp_path / f"{name}.pem" for name in files}


class Running:
    """A service that serves, and a client of it."""

    def __init__(self, service: AlertsService, settings: AlertsSettings, ca_file: Path) -> None:
        self.service = service
        token = settings.api_token_file.read_text().strip() if settings.api_token_file else ""
        self.api = httpx.AsyncClient(
            base_url=service.api_url.replace("127.0.0.1", "localhost"),
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=ca_file),
            timeout=20,
        )

    async def alerts(self) -> list[str]:
        """Ids of all alerts; none while the database is away."""
        answer = await self.api.get("/v1/alerts", params={"limit": 500})
        return sorted(item["alert_id"] for item in answer.json()["items"]) if answer.status_code == 200 else []

    async def until(self, count: int) -> list[str]:
        """As ``alerts``, once there are so many."""
        async with asyncio.timeout(30):
            while len(found := await self.alerts()) < count:  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.05)
        return found

    @asynccontextmanager
    async def stream(self, last_id: str | None = None) -> AsyncIterator["Events"]:
        """The stream, from now on or after an id."""
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        async with self.api.stream("GET", "/v1/stream", headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Events(response)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)


class Events:
    """Server-sent events, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """The next one; pings left out."""
        event: dict[str, Any] = {}
        async with asyncio.timeout(20):
            async for line in self._lines:
                if line == "" and "event" in event:
                    return event
                name, _, value = line.partition(": ")
                if name in {"event", "id"}:
                    event[name] = value
                elif name == "data":
                    event[name] = json.loads(value)
        raise EOFError

    async def take(self, count: int) -> list[dict[str, Any]]:
        """The next ``count``."""
        return [await self.next() for _ in range(count)]


@asynccontextmanager
async def running(bus: MemoryBus, certificates: dict[str, Path], **settings: Any) -> AsyncIterator[Running]:
    given = {
        "bus": "memory:",
        "member": "test",
        "api_listen": "127.0.0.1:0",
        "api_cert_file": certificates["cert"],
        "api_key_file": certificates["key"],
        "api_token_file": certificates["key"].parent / "api-token",
        "tenant": TENANT,
        **settings,
    }
    loaded = load_settings(AlertsSettings, **given)
    service = AlertsService(loaded, bus=bus, metrics=MetricRegistry().for_service("alerts"))
    await service.start()
    serving = asyncio.create_task(service.serve())
    try:
        yield_to = Running(service, loaded, certificates["ca"])
        async with yield_to.api:
            yield yield_to
    finally:
        await service.stop()
        await asyncio.wait_for(serving, 10)


async def test_embedded_a_kill_of_postgres_loses_nothing(
    bus: MemoryBus, certificates: dict[str, Path], tmp_path: Path
) -> None:
    expected = [alert_uuid(number) for number in range(1, 201)]
    async with running(bus, certificates, postgres_dir=tmp_path / "pg") as system:
        embedded = system.service._embedded
        assert embedded is not None
        for number in range(1, 201):
            await bus.publish(published(an_alert(number)))
            if number in {60, 120}:
                await system.until(number // 2)
                os.kill(embedded.pid, signal.SIGKILL)
        assert await system.until(200) == expected
        await eventually(lambda: system.service.health().ok)
    async with running(bus, certificates, postgres_dir=tmp_path / "pg") as system:
        assert await system.alerts() == expected, "a restart on the same directory keeps them"


async def test_while_postgres_is_away_health_is_degraded_and_answers_are_503(
    bus: MemoryBus, certificates: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(bus, certificates, postgres_dir=tmp_path / "pg") as system:
        embedded = system.service._embedded
        assert embedded is not None
        back = asyncio.Event()

        async def launch_later(cluster: Any) -> None:
            await back.wait()
            monkeypatch.undo()
            await embedded._launch(cluster)

        monkeypatch.setattr(embedded, "_launch", launch_later)
        os.kill(embedded.pid, signal.SIGKILL)
        await bus.publish(published(an_alert()))
        await eventually(lambda: not system.service.health().ok)
        answer = await system.api.get("/v1/alerts")
        health = await system.api.get("/v1/health")
        back.set()

        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"]
        assert (health.status_code, health.json()) == (503, {"status": "degraded"})
        assert await system.until(1) == [alert_uuid(1)]


async def test_a_stream_that_resumes_misses_nothing_and_repeats_nothing(
    bus: MemoryBus, certificates: dict[str, Path], target: Target
) -> None:
    async with running(bus, certificates, postgres=dsn_of(target)) as system:
        async with system.stream() as events:
            opened = await events.next()
            await bus.publish(published(an_alert(1)))
            first = await events.next()
        for number in (2, 3):
            await bus.publish(published(an_alert(number)))
        await bus.publish(published(a_step(ActionState.ACTION_STATE_SIGNED)))
        await system.until(3)
        async with system.stream(first["id"]) as events:
            await events.next()
            rest = await events.take(3)
            await system.api.post(f"/v1/alerts/{alert_uuid(2)}:close")
            closed = await events.next()

    assert opened["event"] == "stream.open"
    assert (first["event"], first["data"]["alert_id"]) == ("alert.raised", alert_uuid(1))
    assert {(event["event"], event["data"].get("alert_id")) for event in rest} == {
        ("alert.raised", alert_uuid(2)),
        ("alert.raised", alert_uuid(3)),
        ("action.updated", alert_uuid(1)),
    }
    assert (closed["event"], closed["data"]["state"]) == ("alert.closed", "closed")
    ids = [int(event["id"]) for event in (first, *rest, closed)]
    assert ids == sorted(set(ids))


async def test_a_stream_hears_of_what_another_process_stored(
    bus: MemoryBus, certificates: dict[str, Path], target: Target
) -> None:
    dsn = dsn_of(target)
    async with (
        running(bus, certificates, postgres=dsn, parts="api") as api,
        running(bus, certificates, postgres=dsn, parts="writer", api_token_file=certificates["ca"]) as writer,
        api.stream() as events,
    ):
        assert writer.service.api_url == ""
        await events.next()
        await bus.publish(published(an_alert(1)))
        await bus.publish(published(an_alert(1, revision=2)))
        heard = [await events.next()]
        while heard[-1]["data"]["revision"] < 2:
            heard.append(await events.next())

    assert {event["data"]["alert_id"] for event in heard} == {alert_uuid(1)}


async def test_an_id_that_is_too_old_is_told_to_read_the_lists(
    bus: MemoryBus, certificates: dict[str, Path], target: Target
) -> None:
    async with running(bus, certificates, postgres=dsn_of(target)) as system, system.stream("999999") as events:
        assert (await events.next())["event"] == "stream.reset"


async def test_streams_are_limited(bus: MemoryBus, certificates: dict[str, Path], target: Target) -> None:
    async with running(bus, certificates, postgres=dsn_of(target), max_streams=1) as system:
        async with system.stream() as events:
            await events.next()
            assert (await system.api.get("/v1/stream")).status_code == 503
        context = system.service._context
        assert context is not None
        await eventually(lambda: context.streams_open == 0)
        async with system.stream() as events:
            assert (await events.next())["event"] == "stream.open"


async def test_a_stop_ends_open_streams_at_once(bus: MemoryBus, certificates: dict[str, Path], target: Target) -> None:
    loop = asyncio.get_running_loop()
    async with running(bus, certificates, postgres=dsn_of(target)) as system, system.stream() as events:
        await events.next()
        before_s = loop.time()
        await system.service.stop()
        with pytest.raises((EOFError, httpx.HTTPError)):
            await events.next()
        assert loop.time() - before_s < 2.5


async def test_plain_text_and_old_tls_get_no_answer(
    bus: MemoryBus, certificates: dict[str, Path], target: Target
) -> None:
    async with running(bus, certificates, postgres=dsn_of(target)) as system:
        old = ssl.create_default_context(cafile=certificates["ca"])
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        url = str(system.api.base_url)
        for address, verify in ((url, old), (url.replace("https", "http"), True)):
            async with httpx.AsyncClient(verify=verify) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(f"{address}/v1/health")


async def test_a_port_in_use_is_one_clear_line(bus: MemoryBus, certificates: dict[str, Path], target: Target) -> None:
    async with running(bus, certificates, postgres=dsn_of(target)) as system:
        taken = system.service.api_url.removeprefix("https://")
        with pytest.raises(SettingsError, match=f"cannot listen on {taken}: Address already in use"):
            async with running(bus, certificates, postgres=dsn_of(target), api_listen=taken):
                pass


async def test_a_key_that_is_none_is_one_clear_line(
    bus: MemoryBus, certificates: dict[str, Path], target: Target
) -> None:
    with pytest.raises(SettingsError, match="MICROEDR_ALERTS_API_KEY_FILE"):
        async with running(bus, certificates, postgres=dsn_of(target), api_key_file=certificates["ca"]):
            pass
