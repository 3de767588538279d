"""What the actioner can be told. Not here: what a rule asks for; that stands in the rule."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from microedr.limits import MAX_ACTION_LIFE_S
from microedr_chassis.settings import ServiceSettings


class ActionerSettings(ServiceSettings):
    """Read from ``MICROEDR_ACTIONER_*``."""

    model_config = SettingsConfigDict(env_prefix="MICROEDR_ACTIONER_")

    signing_key_file: Path
    """Made at the first start, 0600. Its public half is what agents trust; no default for a trust anchor."""

    auto: bool = False
    """Arms every built-in rule whose own threshold is at least 0.90; else only ``auto_rules`` are armed."""

    auto_rules: Annotated[tuple[str, ...], NoDecode] = ()
    """Rule ids armed one by one, separated by commas."""

    auto_max_event_age_s: float = Field(default=60.0, gt=0, le=MAX_ACTION_LIFE_S)
    """An alert about something older leads to no automatic action: a replay must not act on the past."""

    wait_s: float = Field(default=120.0, gt=0, le=MAX_ACTION_LIFE_S)
    """How long an approved action waits for its host to connect before it expires."""

    order_life_s: float = Field(default=120.0, gt=0, le=240.0)
    """From signing to expiry. With ``clock_skew_s`` it stays below the limit of the contract."""

    clock_skew_s: float = Field(default=30.0, ge=0, le=60.0)
    """How far a host's clock may be behind ours: an order is valid from this long before its signing."""

    brake_window_s: float = Field(default=300.0, gt=0, le=3600.0)
    """Over this time, automatic actions of one rule are counted over the whole fleet."""

    brake_max_hosts: int = Field(default=5, ge=1)
    """More distinct hosts than this in one window: the rule is wrong, or somebody plays it."""

    brake_max_executables: int = Field(default=5, ge=1)
    """As hosts, for executables."""

    brake_max_actions: int = Field(default=20, ge=1)
    """As hosts, for actions."""

    rearmed_at_unix_s: float = Field(default=0.0, ge=0)
    """Brakes pulled before this moment are forgotten. Set by a person who looked at why they were."""

    @field_validator("auto_rules", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
