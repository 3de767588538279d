"""A real PostgreSQL for tests: one embedded server per test process, a database of its own for each test."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from microedr_alerts import cluster
from microedr_alerts.embedded import EmbeddedPostgres
from microedr_alerts.migrate import migrate
from microedr_alerts.postgres import Database
from microedr_alerts.target import Target

_numbers = itertools.count(1)


def of_database(target: Target, name: str) -> Target:
    """The same server, another database."""
    return Target(owner={**target.owner, "database": name}, app={**target.app, "database": name})


def dsn_of(target: Target) -> str:
    """As a person would write it: the owner's login. Of use in this process only."""
    return f"postgresql://{target.owner['user']}@/{target.owner['database']}?host={target.owner['host']}"


async def as_owner(target: Target, statement: str, *values: object) -> list[asyncpg.Record]:
    """Run one statement above row-level security."""
    connection = await asyncpg.connect(**target.owner)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server; its database ``microedr`` is migrated and stays empty."""
    server = EmbeddedPostgres(Path(tmp_path_factory.mktemp("postgres")))

    async def start() -> None:
        await server.start()
        await migrate(server.target)

    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of databases are created and forgotten; what survives a crash is tested on servers of their own.
        patch.setitem(cluster._SETTINGS, "fsync", "off")
        patch.setitem(cluster._SETTINGS, "full_page_writes", "off")
        asyncio.run(start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def target(postgres_server: EmbeddedPostgres) -> Target:
    """A migrated database of this test."""
    name = f"test_{next(_numbers)}"
    maintenance = of_database(postgres_server.target, "postgres")
    await as_owner(maintenance, f"CREATE DATABASE {name} TEMPLATE microedr")
    return of_database(postgres_server.target, name)


@pytest.fixture
async def database(target: Target) -> AsyncIterator[Database]:
    """The same, opened as the service opens it."""
    opened = Database(target)
    await opened.open()
    yield opened
    await opened.close()
