"""The page for operators: /metrics, /healthz (alive) and /readyz (does its work), over plain HTTP.

A thread of its own serves it, so that it answers, and says so, when the event loop is stuck.
"""

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from microedr_chassis.address import join_address, split_address
from microedr_chassis.errors import SettingsError
from microedr_chassis.lifecycle import Health
from microedr_chassis.metrics import MetricRegistry

_REQUEST_TIMEOUT_S = 5


class Endpoint:
    """Serves one process's metrics and health from ``start`` to ``stop``."""

    def __init__(self, listen: str, registry: MetricRegistry, health: Callable[[], Health]) -> None:
        self._listen = listen
        self._registry = registry
        self._health = health
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Bind and serve; returns the address bound.

        Raises:
            SettingsError: The address cannot be had.
        """
        host, port = split_address(self._listen)
        try:
            server = (_Server6 if ":" in host else ThreadingHTTPServer)((host, port), self._handler())
        except OSError as error:
            raise SettingsError(f"MICROEDR_METRICS_LISTEN: cannot listen on {self._listen}: {error.strerror}") from None
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
        self._server = server
        return join_address(host, server.server_port)

    def stop(self) -> None:
        """Stop serving. Idempotent."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for ``path``."""
        health = self._health()
        match path.partition("?")[0]:
            case "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, self._registry.exposition()
            case "/healthz":
                return _verdict(health, good=health.alive)
            case "/readyz":
                return _verdict(health, good=health.ok)
        return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /healthz, /readyz\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Scrapes are not worth a line."""

        return Handler


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def _verdict(health: Health, *, good: bool) -> tuple[HTTPStatus, str, bytes]:
    body = json.dumps({"ok": good, "detail": health.detail}).encode() + b"\n"
    return (HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE), "application/json", body
