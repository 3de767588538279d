"""Settings of the correlator, from ``MICROEDR_*`` and ``MICROEDR_CORRELATOR_*``."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from microedr_chassis.settings import ServiceSettings


class CorrelatorSettings(ServiceSettings):
    """What the correlator can be told."""

    model_config = SettingsConfigDict(env_prefix="MICROEDR_CORRELATOR_")

    alerts_per_rule_and_host: int = Field(default=20, ge=1, le=10_000)
    """New alerts of one rule on one host per quarter of an hour; the rest is folded into one that says how
    much. More than an analyst reads of one thing."""

    match_wait_s: float = Field(default=2.0, gt=0, le=60)
    """How long a match waits for its event before it is raised without. Ingest publishes both paths' input
    at once, so this is lag of the correlator, not of the network."""

    revision_interval_s: float = Field(default=1.0, gt=0, le=60)
    """Shortest time between two revisions of one alert."""

    evidence_settle_s: float = Field(default=5.0, gt=0, le=300)
    """When an alert is shown once more if its process has connected somewhere by then."""

    max_waiting_matches: int = Field(default=10_000, ge=1)
    """Per partition; above it matches are not fetched."""

    max_alerts: int = Field(default=20_000, ge=1)
    """Held per partition; above it matches of new groups are folded."""

    max_hosts: int = Field(default=5_000, ge=1)
    """Windows per partition; above it the host that was silent longest is forgotten."""

    max_processes: int = Field(default=250_000, ge=1)
    """In all windows of a partition, about one KiB each; above it as with hosts."""
