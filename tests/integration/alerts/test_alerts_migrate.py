"""The migrations' promise: any number of them at once bring any database to the same schema, or say what is missing."""

import asyncio
import itertools

import pytest

from microedr_alerts.embedded import EmbeddedPostgres
from microedr_alerts.errors import PostgresUnavailableError
from microedr_alerts.migrate import migrate
from microedr_alerts.postgres import Database
from microedr_alerts.target import APP_ROLE, Target, dsn_target
from microedr_chassis.errors import SettingsError
from support.postgres import as_owner, dsn_of, of_database

_numbers = itertools.count(1)

TABLES = {"alerts", "hosts", "actions", "action_steps", "audit", "outbox"}


@pytest.fixture
async def empty(postgres_server: EmbeddedPostgres) -> Target:
    """A database without any table of ours."""
    maintenance = of_database(postgres_server.target, "postgres")
    name = f"empty_{next(_numbers)}"
    await as_owner(maintenance, f"CREATE DATABASE {name} TEMPLATE template0")
    return of_database(postgres_server.target, name)


async def tables(target: Target) -> dict[str, bool]:
    rows = await as_owner(
        target,
        "SELECT relname, relforcerowsecurity FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    return {row["relname"]: row["relforcerowsecurity"] for row in rows if not row["relname"].startswith("_pogo")}


async def test_many_at_once_and_again_give_one_schema(empty: Target) -> None:
    await asyncio.gather(*(migrate(empty) for _ in range(5)))
    await migrate(empty)

    assert await tables(empty) == dict.fromkeys(TABLES, True), "row-level security is forced on each"
    assert len(await as_owner(empty, "SELECT * FROM _pogo_migration")) == 1


async def test_a_login_that_owns_the_database_and_no_more_is_enough(
    postgres_server: EmbeddedPostgres, empty: Target
) -> None:
    maintenance = of_database(postgres_server.target, "postgres")
    name = empty.owner["database"]
    await as_owner(maintenance, f"CREATE ROLE owner_{name} LOGIN")
    await as_owner(maintenance, f"ALTER DATABASE {name} OWNER TO owner_{name}")
    login = dsn_target(f"postgresql://owner_{name}@/{name}?host={empty.owner['host']}")
    with pytest.raises(SettingsError, match=f"GRANT {APP_ROLE} TO"):
        await migrate(login)
    await as_owner(maintenance, f"GRANT {APP_ROLE} TO owner_{name}")
    await migrate(login)
    database = Database(login)
    await database.open()
    try:
        async with database.transaction("acme") as connection:
            assert await connection.fetchval("SELECT current_user") == APP_ROLE
            assert await connection.fetchval("SELECT count(*) FROM alerts") == 0
    finally:
        await database.close()


async def test_a_server_that_is_away_is_worth_waiting_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("nobody")

    with pytest.raises(PostgresUnavailableError, match="PostgreSQL is away"):
        await migrate(dsn_target(f"postgresql://postgres@/microedr?host={place}"))
    with pytest.raises(PostgresUnavailableError, match="PostgreSQL is away"):
        await migrate(dsn_target("postgresql://postgres:hunter2@127.0.0.1:1/microedr"))


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        pytest.param("postgresql://postgres@/nowhere?host={host}", '"nowhere" does not exist', id="no such database"),
        pytest.param("postgresql://nobody@/microedr?host={host}", '"nobody" does not exist', id="no such login"),
        pytest.param("mysql://x", "not a DSN", id="another scheme"),
        pytest.param("postgresql://x:hunter2@[::1/microedr", "not a DSN", id="broken address"),
    ],
)
async def test_a_dsn_that_can_never_work_is_a_wrong_setting(
    postgres_server: EmbeddedPostgres, dsn: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        await migrate(dsn_target(dsn.format(host=postgres_server.target.owner["host"])))

    assert "MICROEDR_ALERTS_POSTGRES" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_role_above_row_level_security_is_refused(postgres_server: EmbeddedPostgres, empty: Target) -> None:
    maintenance = of_database(postgres_server.target, "postgres")
    await as_owner(maintenance, f"ALTER ROLE {APP_ROLE} BYPASSRLS")
    try:
        with pytest.raises(SettingsError, match="above row-level security"):
            await migrate(empty)
    finally:
        await as_owner(maintenance, f"ALTER ROLE {APP_ROLE} NOBYPASSRLS")


async def test_a_login_by_dsn_works_as_the_application(target: Target) -> None:
    database = Database(dsn_target(dsn_of(target)))
    await database.open()
    try:
        async with database.transaction() as connection:
            assert await connection.fetchval("SELECT current_user") == APP_ROLE
    finally:
        await database.close()
