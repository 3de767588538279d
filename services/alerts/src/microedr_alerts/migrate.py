"""Bring a database to the schema this version needs: forward only, one migrator at a time.

pogo reads the files of ``migrations`` and keeps the list of those applied; each runs in a transaction.
"""

import importlib.resources
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from pogo_core.error import BadMigrationError
from pogo_core.util import migrate as pogo

from microedr_alerts.errors import PostgresUnavailableError
from microedr_alerts.target import APP_ROLE, Target
from microedr_alerts.transient import TRANSIENT
from microedr_chassis.errors import SettingsError

_log = structlog.get_logger()

LOCK_KEY = 0x6D656472_00000001
"""Advisory lock of the migration; the number is ours alone in this database ("medr")."""

CONNECT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 60
"""Another instance that migrates is waited for this long."""

MIN_SERVER_VERSION = (14, 0)

_QUIET = logging.getLogger("microedr_alerts.pogo")
_QUIET.setLevel(logging.ERROR)  # pogo warns of each migration it applies


async def migrate(target: Target) -> None:
    """Create the application's role when it is missing and apply what is new; any number of times, from anywhere.

    Raises:
        PostgresUnavailableError: The server is away; nothing is half done.
        SettingsError: The server will not let us in, or not let us do it.
    """
    connection = await _connect(target.owner)
    try:
        if connection.get_server_version()[:2] < MIN_SERVER_VERSION:
            raise SettingsError(f"MICROEDR_ALERTS_POSTGRES: PostgreSQL {MIN_SERVER_VERSION[0]} or newer is needed")
        # A session lock: it ends with the connection, whatever happens to us.
        await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        await _ensure_role(connection)
        before = await _applied(connection)
        with importlib.resources.as_file(importlib.resources.files("microedr_alerts") / "migrations") as directory:
            await pogo.apply(connection, Path(directory), schema_name="public", logger=_QUIET)
        new = sorted(await _applied(connection) - before)
        if new:
            _log.info("migrations_applied", migrations=new)
    except BadMigrationError as error:
        cause = error.__cause__
        if isinstance(cause, TRANSIENT):
            raise PostgresUnavailableError(f"{error}: {cause}") from error
        raise SettingsError(f"MICROEDR_ALERTS_POSTGRES: {error}: {cause}") from error
    except TRANSIENT as error:
        raise PostgresUnavailableError(f"PostgreSQL went away while migrating: {error}") from error
    except asyncpg.PostgresError as error:
        raise SettingsError(f"MICROEDR_ALERTS_POSTGRES: the database cannot be prepared: {error}") from error
    finally:
        connection.terminate()


async def _connect(arguments: Mapping[str, Any]) -> "asyncpg.Connection[asyncpg.Record]":
    try:
        return await asyncpg.connect(timeout=CONNECT_TIMEOUT_S, **arguments)
    except ValueError as error:  # asyncpg's own errors about a DSN are that too
        raise SettingsError("MICROEDR_ALERTS_POSTGRES: not a DSN; write postgresql://user@host/database") from error
    except TRANSIENT as error:
        raise PostgresUnavailableError(f"PostgreSQL is away: {error or type(error).__name__}") from error
    except asyncpg.PostgresError as error:  # wrong password, no such database: waiting does not help
        raise SettingsError(f"MICROEDR_ALERTS_POSTGRES: {error}") from error


async def _ensure_role(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Have ``APP_ROLE``, and be allowed to take it.

    The role is the cluster's: where ours may not create roles, an administrator creates it once and grants it.
    """
    try:
        if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", APP_ROLE):
            await connection.execute(f"CREATE ROLE {APP_ROLE} NOLOGIN")
        if not await _may_take_role(connection):
            await connection.execute(f"GRANT {APP_ROLE} TO CURRENT_USER")
    except asyncpg.DuplicateObjectError:  # another database of this cluster had the same idea
        await _ensure_role(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise SettingsError(
            f"MICROEDR_ALERTS_POSTGRES: this login may not create the role {APP_ROLE}; as an administrator: "
            f"CREATE ROLE {APP_ROLE} NOLOGIN; GRANT {APP_ROLE} TO <this login>"
        ) from error
    row = await connection.fetchrow(
        "SELECT rolsuper OR rolbypassrls AS above FROM pg_roles WHERE rolname = $1", APP_ROLE
    )
    if row is None or row["above"]:
        raise SettingsError(f"MICROEDR_ALERTS_POSTGRES: role {APP_ROLE} stands above row-level security; alter it")


async def _may_take_role(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    try:
        await connection.execute(f"SET ROLE {APP_ROLE}")
    except asyncpg.InsufficientPrivilegeError:
        return False
    await connection.execute("RESET ROLE")
    return True


async def _applied(connection: "asyncpg.Connection[asyncpg.Record]") -> set[str]:
    if not await connection.fetchval("SELECT to_regclass('public._pogo_migration') IS NOT NULL"):
        return set()
    return {row["migration_id"] for row in await connection.fetch("SELECT migration_id FROM public._pogo_migration")}
