"""Serving the application over TLS inside a process that has an event loop and signals of its own."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from microedr_chassis.address import join_address, split_address
from microedr_chassis.errors import SettingsError

KEEP_ALIVE_S = 30
MAX_CONCURRENT = 512
BACKLOG = 256
_TICK_S = 1.0
DRAIN_S = 2.0
"""For requests under way at a stop; streams are told to end first."""


class ApiServer:
    """``bind``, then ``serve`` until ``stop``. Who connects before ``serve`` waits."""

    def __init__(self, app: FastAPI, listen: str, *, cert_file: Path | None, key_file: Path | None) -> None:
        self._listen = listen
        self._socket: socket.socket | None = None
        self._ended = asyncio.Event()
        self._ended.set()
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(DRAIN_S),
            limit_concurrency=MAX_CONCURRENT,
            ssl_certfile=cert_file,
            ssl_keyfile=key_file,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"MICROEDR_ALERTS_API_CERT_FILE, MICROEDR_ALERTS_API_KEY_FILE: {cert_file}, {key_file}: "
                f"{error.strerror or 'no certificate and its key'}"
            ) from error
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._scheme = "https" if config.ssl is not None else "http"
        self._server = _Server(config)

    @property
    def url(self) -> str:
        """Where it is served, with the port that was bound."""
        if self._socket is None:
            return ""
        host, port = self._socket.getsockname()[:2]
        return f"{self._scheme}://{join_address(host, port)}"

    def bind(self) -> None:
        """Take the address.

        Raises:
            SettingsError: It cannot be had.
        """
        host, port = split_address(self._listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"MICROEDR_ALERTS_API_LISTEN: cannot listen on {self._listen}: {error.strerror}"
            ) from None

    async def serve(self) -> None:
        """Answer until ``stop``."""
        if self._socket is None:
            return  # stopped already
        self._ended.clear()
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Finish what is under way, at most ``DRAIN_S``, and give the address back. Idempotent."""
        self._server.exit_soon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S + 1.0):
                await self._ended.wait()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Server(uvicorn.Server):
    """Leaves signals to the process, which may hold other services, and wakes once a second instead of ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._exit = asyncio.Event()

    def exit_soon(self) -> None:
        """Let ``serve`` end."""
        self.should_exit = True
        self._exit.set()

    async def main_loop(self) -> None:
        """Until ``exit_soon``; each turn renews the Date of answers."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._exit.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
