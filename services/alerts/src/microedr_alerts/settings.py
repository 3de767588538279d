"""Settings of the alerts service."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from microedr_chassis.address import ListenAddress
from microedr_chassis.settings import ServiceSettings


class AlertsSettings(ServiceSettings):
    """Variables ``MICROEDR_ALERTS_*``."""

    model_config = SettingsConfigDict(env_prefix="MICROEDR_ALERTS_")

    parts: Literal["all", "writer", "api"] = "all"
    """The writer and the API can be processes of their own, and several of each, on one PostgreSQL."""

    postgres: SecretStr | None = None
    """A DSN, ``postgresql://user:password@host/database``. Empty: the embedded server in ``postgres_dir``."""

    postgres_dir: Path | None = None
    """Where the embedded server keeps its data."""

    api_listen: ListenAddress = "127.0.0.1:8443"

    api_cert_file: Path | None = None
    """Certificate chain of the API, PEM. Empty, together with the key: plain HTTP, on a loopback address only."""

    api_key_file: Path | None = None

    api_token_file: Path | None = None
    """The bearer token; drawn at the first start when the file is missing."""

    tenant: str = Field(default="default", pattern=r"^[A-Za-z0-9._-]{1,64}$", validation_alias="MICROEDR_TENANT")
    """Whose data the bearer token shows."""

    max_streams: int = Field(default=64, ge=1, le=1024)
    """Streams open at once; one more is refused with 503."""

    @model_validator(mode="after")
    def _fits_together(self) -> "AlertsSettings":
        if self.postgres is None and self.postgres_dir is None:
            raise ValueError(
                "set MICROEDR_ALERTS_POSTGRES to a DSN, or MICROEDR_ALERTS_POSTGRES_DIR for an embedded server"
            )
        if self.parts != "all" and self.postgres is None:
            raise ValueError("MICROEDR_ALERTS_PARTS: a part alone needs MICROEDR_ALERTS_POSTGRES")
        if (self.api_cert_file is None) != (self.api_key_file is None):
            raise ValueError("MICROEDR_ALERTS_API_CERT_FILE and MICROEDR_ALERTS_API_KEY_FILE go together")
        if self.parts != "writer" and self.api_token_file is None:
            raise ValueError("MICROEDR_ALERTS_API_TOKEN_FILE must be set")
        if self.parts != "writer" and self.api_cert_file is None and not _is_loopback(self.api_listen):
            raise ValueError("MICROEDR_ALERTS_API_CERT_FILE must be set to listen on an address others can reach")
        return self


def _is_loopback(listen: str) -> bool:
    return listen.startswith(("127.", "[::1]:", "localhost:"))
