"""Settings of the detector, from ``MICROEDR_*`` and ``MICROEDR_DETECTOR_*``."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from microedr_chassis.settings import ServiceSettings


class DetectorSettings(ServiceSettings):
    """What the detector can be told."""

    model_config = SettingsConfigDict(env_prefix="MICROEDR_DETECTOR_")

    rules: Annotated[tuple[Path, ...], NoDecode] = ()
    """Files and directories of rules beside those shipped with microedr, separated as in PATH."""

    builtin: bool = True
    """Whether the rules shipped with microedr are evaluated."""

    max_rule_errors: int = Field(default=10, ge=1, le=1_000_000)
    """Exceptions after which a rule is no longer evaluated."""

    @field_validator("rules", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("rules")
    @classmethod
    def _must_exist(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in paths:
            if not path.exists():
                raise ValueError(f"{path}: no such file or directory")
        return paths
