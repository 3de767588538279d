"""What ingest can be told: MICROEDR_INGEST_*, and what every service can (chassis.settings)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from microedr_chassis.address import ListenAddress
from microedr_chassis.identity import TRUST_DOMAIN
from microedr_chassis.settings import ServiceSettings


class IngestSettings(ServiceSettings):
    """Settings of one ingest instance."""

    model_config = SettingsConfigDict(env_prefix="MICROEDR_INGEST_")

    listen: ListenAddress = "0.0.0.0:7443"
    """Agents connect here from other hosts."""

    tls_cert_file: Path
    """PEM chain of the server. Read again when the file changes, for new connections."""

    tls_key_file: Path
    """PEM."""

    client_ca_file: Path
    """PEM; who signs agents' certificates. No default: it is the trust anchor."""

    trust_domain: str = Field(default=TRUST_DOMAIN, min_length=1, max_length=255)
    """Of the one URI in an agent's certificate."""

    window_frames: int = Field(default=16, ge=1, le=1024)
    """Frames of one stream that may be under way: enough to cover the bus's latency at full speed."""

    bytes_under_way: int = Field(default=256 * 1024 * 1024, ge=4 * 1024 * 1024)
    """Frames of all streams together, before and after decompression. Above it nothing is read: agents spool."""

    hello_timeout_s: float = Field(default=10.0, gt=0)
    """From the stream's begin to its first message."""

    idle_timeout_s: float = Field(default=300.0, gt=0)
    """Without any message. An agent sends a heartbeat every minute."""

    handshake_timeout_s: float = Field(default=10.0, gt=0)
    """For TLS. Silent connections would live for ever otherwise."""

    full_timeout_s: float = Field(default=30.0, gt=0)
    """A frame waits this long for room in the byte budget or the bus's queue, then it is refused."""

    keepalive_s: float = Field(default=30.0, ge=1)
    """Between pings on a quiet connection; a peer that does not answer one is gone."""

    connection_age_s: float = Field(default=3600.0, ge=1)
    """After it, gRPC asks agents to connect anew, each with 10 % jitter, so that they spread over instances."""

    streams_per_connection: int = Field(default=16, ge=1)
    """One is enough for an agent; the rest leaves room for health checks and reconnecting."""

    reuse_port: bool = False
    """Lets several processes share the port. Off: a second start by mistake is an error, not a silent share."""

    drain_timeout_s: float = Field(default=5.0, gt=0, le=7)
    """At stop: time for frames under way to be acked. All services of a process share eight seconds."""
