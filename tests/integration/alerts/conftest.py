"""The real database, the writer on it, and the API as its clients see it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from microedr_alerts.api.app import create_app
from microedr_alerts.api.context import ApiContext
from microedr_alerts.outbox import Bell
from microedr_alerts.postgres import Database
from microedr_alerts.target import Target
from microedr_alerts.writer import GROUP, AlertsWriter
from microedr_chassis.bus import topics
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.dead_letters import DeadLetterLimits, DeadLetters
from microedr_chassis.lifecycle import Health
from microedr_chassis.metrics import MetricRegistry
from support.alert_records import NOW_UNIX_NS, TENANT
from support.postgres import database, postgres_server, target

__all__ = ["database", "postgres_server", "target"]

TOKEN = "t" * 43


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    memory = MemoryBus()
    await memory.start()
    await memory.ensure_topics(topics.catalogue(2))
    yield memory
    await memory.close()


@pytest.fixture
def writer(database: Database, bus: MemoryBus) -> AlertsWriter:
    metrics = MetricRegistry().for_service("alerts")
    dead_letters = DeadLetters(bus, group=GROUP, metrics=metrics, limits=DeadLetterLimits())
    return AlertsWriter(database, dead_letters=dead_letters, metrics=metrics, clock_unix_ns=lambda: NOW_UNIX_NS)


@pytest.fixture
def context(database: Database, target: Target, bus: MemoryBus) -> ApiContext:
    return ApiContext(
        database=database,
        bell=Bell(target),
        publisher=bus,
        health=lambda: Health(ok=True),
        token=TOKEN,
        tenant_id=TENANT,
        clock_unix_ns=lambda: NOW_UNIX_NS,
    )


@pytest.fixture
async def anonymous(context: ApiContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="https://api") as client:
        yield client


@pytest.fixture
async def api(anonymous: httpx.AsyncClient) -> httpx.AsyncClient:
    anonymous.headers["Authorization"] = f"Bearer {TOKEN}"
    return anonymous
