"""Settings of services: environment variables, checked once at the start.

A service derives one frozen class from ``ServiceSettings`` with a prefix of its own, each field with
its bounds, its unit in the name and its reason below. Overrides are for who composes services
in one process.
"""

import socket
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UndecodableError

from microedr_chassis.address import ListenAddress
from microedr_chassis.errors import SettingsError


class ServiceSettings(BaseSettings):
    """What every service can be told; fields here carry the prefix ``MICROEDR_`` alone."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # inputs can be secrets
    )

    bus: str = Field(validation_alias="MICROEDR_BUS", min_length=1)
    """``sqlite:///path``, ``memory`` or ``kafka://host:port,…``. No default: services that do not share a
    bus lose events without a sign."""

    bus_partitions: int = Field(default=12, ge=1, le=1024, validation_alias="MICROEDR_BUS_PARTITIONS")
    """Of every topic; an upper bound for the members of one group. Cannot change once topics exist."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias="MICROEDR_LOG_LEVEL"
    )

    metrics_listen: ListenAddress = Field(default="127.0.0.1:0", validation_alias="MICROEDR_METRICS_LISTEN")
    """Serves /metrics, /healthz and /readyz. The default is a free port, told in the log, so that
    services on one machine never collide."""

    member: str = Field(
        default_factory=socket.gethostname, min_length=1, max_length=128, validation_alias="MICROEDR_MEMBER"
    )
    """Stable over restarts and unique among the instances of one service: the pod's name, the host's name."""


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(cls: type[SettingsT], **overrides: Any) -> SettingsT:
    """Read ``cls`` from the environment; ``overrides``, by field name, win.

    Raises:
        SettingsError: One line that names every wrong variable and what is allowed, never a value.
    """
    try:
        return cls(**overrides)
    except ValidationError as error:
        complaints = [
            # A complaint without a place is about several settings, and names them itself.
            (f"{_variable(cls, str(e['loc'][0]))}: " if e["loc"] else "") + _complaint(e["type"], e["msg"])
            for e in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise SettingsError("; ".join(complaints)) from None
    except UndecodableError as error:
        raise SettingsError(f"{_undecodable(cls, str(error))}: must be JSON") from None


def variables(cls: type[BaseSettings]) -> dict[str, str]:
    """The environment variable of each field of ``cls``."""
    return {name: _variable(cls, name) for name in cls.model_fields}


def _variable(cls: type[BaseSettings], location: str) -> str:
    field = cls.model_fields.get(location)
    if field is None:
        return location or cls.__name__
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return f"{cls.model_config.get('env_prefix', '')}{location}".upper()


def _complaint(kind: str, text: str) -> str:
    if kind == "missing":
        return "must be set"
    return " ".join(text.removeprefix("Value error, ").split())


def _undecodable(cls: type[BaseSettings], text: str) -> str:
    for name in cls.model_fields:
        if f'"{name}"' in text:
            return _variable(cls, name)
    return cls.__name__
