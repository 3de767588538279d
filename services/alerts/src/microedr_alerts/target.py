"""How to reach the database: as its owner for migrations, as the application for all else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

APP_ROLE = "microedr_app"
"""Owns nothing and bypasses nothing, so that row-level security holds for all the service does."""


@dataclass(frozen=True, slots=True)
class Target:
    """Arguments of ``asyncpg.connect``. Never logged: a DSN holds a password."""

    owner: Mapping[str, Any]
    app: Mapping[str, Any]


def dsn_target(dsn: str) -> Target:
    """Where ``dsn`` points. The application logs in alike and takes ``APP_ROLE``, see ``migrate.prepare``."""
    return Target(owner={"dsn": dsn}, app={"dsn": dsn, "server_settings": {"role": APP_ROLE}})
