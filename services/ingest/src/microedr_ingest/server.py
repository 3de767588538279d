"""The gRPC server: its address, its TLS and the options that keep a bad client from costing much."""

import socket
import time
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from microedr.limits import MAX_MESSAGE_BYTES
from microedr_chassis.address import split_address
from microedr_chassis.errors import SettingsError
from microedr_ingest.settings import IngestSettings

_log = structlog.get_logger()

_RELOAD_INTERVAL_S = 5.0
_MAX_RECEIVED_BYTES = 2 * MAX_MESSAGE_BYTES
"""gRPC ends the stream of whoever sends more. Up to it we refuse the frame, count it and keep the stream: a
request holds no repeated messages that could grow when parsed."""

_CONNECTION_GRACE_S = 60
"""After a connection's age: time for its stream to end by itself."""


def build_server(settings: IngestSettings) -> grpc.aio.Server:
    """A server without services or port yet."""
    return grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", _MAX_RECEIVED_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # With gRPC's defaults a stream whose server does not read buffers 6 MB before the client feels it;
            # with these one frame.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 64 * 1024),
            ("grpc.max_concurrent_streams", settings.streams_per_connection),
            ("grpc.server_handshake_timeout_ms", round(settings.handshake_timeout_s * 1000)),
            ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.max_connection_age_ms", round(settings.connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_S * 1000),
            ("grpc.max_connection_idle_ms", round(settings.idle_timeout_s * 1000)),
            ("grpc.so_reuseport", int(settings.reuse_port)),
        )
    )


def bind(server: grpc.aio.Server, settings: IngestSettings) -> int:
    """Listen with TLS that demands a client certificate; returns the port.

    Raises:
        SettingsError: The address cannot be had, or a file cannot be used; names the variable.
    """
    _require_address(settings)
    files = _TlsFiles(settings)
    credentials = grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.changed,  # type: ignore[arg-type] # may say None: "unchanged", as gRPC's documentation has it
        require_client_authentication=True,
    )
    try:
        return server.add_secure_port(settings.listen, credentials)
    except RuntimeError:
        raise SettingsError(f"MICROEDR_INGEST_LISTEN: cannot listen on {settings.listen}: is it in use?") from None


def _require_address(settings: IngestSettings) -> None:
    """Try the address: gRPC would not say why it cannot be had, and writes a line of its own.

    Raises:
        SettingsError: It cannot be had; says why.
    """
    host, port = split_address(settings.listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if settings.reuse_port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise SettingsError(f"MICROEDR_INGEST_LISTEN: cannot listen on {settings.listen}: {error.strerror}") from None


class _TlsFiles:
    """Reads the PEM files, again when they change: certificates are renewed while we run."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._read_at_s = 0.0
        self._seen: tuple[bytes, bytes, bytes] | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What stands in the files now.

        Raises:
            SettingsError: Something of it cannot be used; names the variable.
        """
        cert = _pem("MICROEDR_INGEST_TLS_CERT_FILE", self._settings.tls_cert_file)
        key = _pem("MICROEDR_INGEST_TLS_KEY_FILE", self._settings.tls_key_file)
        authority = _pem("MICROEDR_INGEST_CLIENT_CA_FILE", self._settings.client_ca_file)
        _check(cert, key, authority)
        self._seen = (cert, key, authority)
        self._read_at_s = time.monotonic()
        return grpc.ssl_server_certificate_configuration([(key, cert)], authority)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, at each handshake: the new configuration, or None to go on with the last."""
        if time.monotonic() - self._read_at_s < _RELOAD_INTERVAL_S:
            return None
        before = self._seen
        try:
            configuration = self.read()
        except SettingsError as error:
            self._read_at_s = time.monotonic()
            _log.error("certificate_not_reloaded", error=str(error))
            return None
        if self._seen == before:
            return None
        _log.info("certificate_reloaded")
        return configuration


def _pem(variable: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: {path}: {error.strerror}") from None


def _check(cert: bytes, key: bytes, authority: bytes) -> None:
    try:
        certificate = x509.load_pem_x509_certificates(cert)[0]
    except ValueError:
        raise SettingsError("MICROEDR_INGEST_TLS_CERT_FILE: not a PEM certificate") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        raise SettingsError("MICROEDR_INGEST_TLS_KEY_FILE: not a PEM key without a password") from None
    if private.public_key() != certificate.public_key():
        raise SettingsError("MICROEDR_INGEST_TLS_KEY_FILE: not the key of MICROEDR_INGEST_TLS_CERT_FILE")
    try:
        x509.load_pem_x509_certificates(authority)
    except ValueError:
        raise SettingsError("MICROEDR_INGEST_CLIENT_CA_FILE: not a PEM certificate") from None
