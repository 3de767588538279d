"""The catalogue of topics. Keys are host ids everywhere, so that a host stays in order."""

from microedr_chassis.bus.api import TopicSpec

EVENTS = "microedr.events.v1"
"""Length-prefixed EventBatch; written by ingest, read by detector, correlator and archiver."""

MATCHES = "microedr.matches.v1"
"""Match; written by detector, read by correlator."""

ALERTS = "microedr.alerts.v1"
"""Alert, newest revision wins; written by correlator, read by alerts and actioner."""

ACTIONS = "microedr.actions.v1"
"""ActionUpdate up to SIGNED; written by alerts (requests) and actioner, read by actioner, ingest and alerts."""

ACTION_RESULTS = "microedr.action-results.v1"
"""ActionUpdate from RELAYED on; written by ingest and correlator, read by correlator, actioner and alerts."""

HOSTS = "microedr.hosts.v1"
"""HostSession, compacted; written by ingest, read by actioner and alerts."""

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S


def dead_letters(topic: str) -> str:
    """The topic that takes what can never be consumed from ``topic``."""
    return f"{topic}.dlq"


def catalogue(partitions: int) -> tuple[TopicSpec, ...]:
    """Every topic with ``partitions`` partitions each, dead letters included.

    The counts are equal because correlator joins events, matches and results by partition.
    """
    main = (
        TopicSpec(EVENTS, partitions, retention_s=2 * _DAY_S),
        TopicSpec(MATCHES, partitions, retention_s=7 * _DAY_S),
        TopicSpec(ALERTS, partitions, retention_s=30 * _DAY_S),
        TopicSpec(ACTIONS, partitions, retention_s=7 * _DAY_S),
        TopicSpec(ACTION_RESULTS, partitions, retention_s=7 * _DAY_S),
        TopicSpec(HOSTS, partitions, retention_s=30 * _DAY_S, compacted=True),
    )
    return main + tuple(TopicSpec(dead_letters(t.name), 1, retention_s=14 * _DAY_S) for t in main)
