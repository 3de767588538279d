"""The embedded PostgreSQL: a real server in a state directory, a child of this process."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from microedr_alerts.cluster import OWNER, Cluster
from microedr_alerts.errors import EmbeddedPostgresError
from microedr_alerts.postmaster import disarm_stale_pid_file, find_server, gone, stop_server
from microedr_alerts.target import APP_ROLE, Target
from microedr_chassis.backoff import Backoff

_log = structlog.get_logger()

DATABASE = "microedr"

START_TIMEOUT_S = 60.0
"""A start takes 0.1 s; recovery after a crash replays at most ``max_wal_size`` of log."""

_POLL_S = 0.02
_CONNECT_TIMEOUT_S = 5.0


class EmbeddedPostgres:
    """One server. ``start``, then ``supervise`` in a task until ``stop``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cluster: Cluster | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Of the postmaster; 0 when none runs."""
        return self._server.pid if self._server is not None and self._server.poll() is None else 0

    @property
    def target(self) -> Target:
        """How to connect, from this process, between ``start`` and ``stop``."""
        return Target(owner=self._login(OWNER, DATABASE), app=self._login(APP_ROLE, DATABASE))

    async def start(self) -> None:
        """Create the cluster when there is none, start the server, wait until it answers.

        A server left behind by a microedr that was killed is stopped first; its data stay.

        Raises:
            EmbeddedPostgresError: It cannot; everything acquired was released.
        """
        self._stopping = False
        try:
            cluster = self._cluster = Cluster(self._directory)
            await asyncio.to_thread(cluster.open)
            leftover = find_server(cluster.data)
            if leftover:
                _log.warning("postgres_leftover_stopped", pid=leftover)
                await stop_server(leftover)
            disarm_stale_pid_file(cluster.data)
            await self._launch(cluster)
            await self._ensure_database()
        except OSError as error:
            await self.stop()
            raise EmbeddedPostgresError(f"embedded PostgreSQL in {self._directory}: {error.strerror}") from error
        except BaseException:
            await self.stop()
            raise

    async def supervise(self) -> None:
        """Start the server again whenever it dies; returns after ``stop``."""
        backoff = Backoff(first_s=0.2, most_s=10.0)
        while not self._stopping and self._cluster is not None and self._server is not None:
            await gone(self._server.pid)
            if self._stopping:
                return
            _log.error("postgres_exited", status=self._server.wait(), directory=str(self._directory))
            await asyncio.sleep(backoff.next_s())
            try:
                await self._launch(self._cluster)
            except EmbeddedPostgresError as error:
                _log.error("postgres_restart_failed", error=str(error))
            else:
                backoff.reset()
                _log.warning("postgres_restarted", pid=self.pid)

    async def stop(self) -> None:
        """Stop the server, without waiting for its clients, and release the directory. Idempotent."""
        self._stopping = True
        server, self._server = self._server, None
        cluster, self._cluster = self._cluster, None
        try:
            if server is not None and server.poll() is None:
                await stop_server(server.pid)
                server.wait()
        finally:
            if cluster is not None:
                cluster.close()

    def _login(self, user: str, database: str) -> dict[str, Any]:
        if self._cluster is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return {"host": self._cluster.socket_directory, "user": user, "database": database}

    async def _launch(self, cluster: Cluster) -> None:
        backoff = Backoff(first_s=0.1, most_s=1.0)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not self._stopping:
                    self._server = cluster.launch()
                    while self._server.poll() is None:
                        if cluster.is_ready(self._server.pid):
                            return
                        await asyncio.sleep(_POLL_S)
                    words = cluster.last_words()
                    # After a kill the old server's children need a moment to let go of its memory.
                    if "still in use" not in words:
                        raise EmbeddedPostgresError(f"embedded PostgreSQL in {self._directory} did not start: {words}")
                    await asyncio.sleep(backoff.next_s())
        except TimeoutError:
            raise EmbeddedPostgresError(
                f"embedded PostgreSQL in {self._directory} did not answer within {START_TIMEOUT_S:.0f} s"
            ) from None

    async def _ensure_database(self) -> None:
        connection = await self._connect()
        try:
            if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", APP_ROLE):
                await connection.execute(f"CREATE ROLE {APP_ROLE} LOGIN")
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(timeout=_CONNECT_TIMEOUT_S, **self._login(OWNER, "postgres"))
