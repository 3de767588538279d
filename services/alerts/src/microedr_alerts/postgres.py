"""Transactions: a pool of connections, each transaction bound to one tenant, errors made ours at this door."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import asyncpg

from microedr_alerts.errors import PostgresRejectedError, PostgresUnavailableError
from microedr_alerts.target import Target
from microedr_alerts.transient import TRANSIENT

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

MAX_CONNECTIONS = 8
"""For the writer and the API of one process together."""

ACQUIRE_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 10.0
IDLE_CONNECTION_S = 60.0
"""An idle connection is a server process of some megabytes."""

CLOSE_TIMEOUT_S = 2.0


class Database:
    """The store, as the application's role."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Get ready; connects at the first transaction, so the server may be away."""
        self._pool = await asyncpg.create_pool(
            **self._target.app,
            min_size=0,
            max_size=MAX_CONNECTIONS,
            timeout=ACQUIRE_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            max_inactive_connection_lifetime=IDLE_CONNECTION_S,
        )

    async def close(self) -> None:
        """End all connections. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @contextlib.asynccontextmanager
    async def transaction(self, tenant_id: str = "") -> AsyncIterator[Connection]:
        """One transaction that sees ``tenant_id`` alone; with "" it sees nothing until ``use_tenant``.

        Raises:
            PostgresUnavailableError: The server is away; nothing happened, or what happened may be done again.
            PostgresRejectedError: The server will never take these values.
        """
        with converted():
            if self._pool is None:
                raise PostgresUnavailableError("the store is closed")
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection, connection.transaction():
                if tenant_id:
                    await use_tenant(connection, tenant_id)
                yield connection


async def use_tenant(connection: Connection, tenant_id: str) -> None:
    """From here to its end the transaction sees this tenant alone."""
    await connection.execute("SELECT set_config('microedr.tenant', $1, true)", tenant_id)


@contextlib.contextmanager
def converted() -> Iterator[None]:
    """Raise asyncpg's errors as ours; those that mean a fault of the program stay as they are."""
    try:
        yield
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError) as error:
        raise PostgresRejectedError(str(error)) from error
    except TRANSIENT as error:
        if isinstance(error, ValueError):  # asyncpg's own word for a value that does not fit its column
            raise PostgresRejectedError(str(error)) from error
        raise PostgresUnavailableError(f"PostgreSQL is away: {error or type(error).__name__}") from error
