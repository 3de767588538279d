"""Every metric of every service. ``python -m microedr_chassis.catalogue docs/metrics.md`` writes the page.

The event counters balance: at ingest ``received = published + refused``, but for frames under way;
at each consumer ``consumed`` on one side of a topic follows ``published`` on the other, but for lag, duplicates
and dead letters.
"""

import sys
from pathlib import Path

from microedr_chassis.bus import topics
from microedr_chassis.metrics import OTHER, Label, Metric, MetricKind

_TOPIC = Label(
    "topic",
    (topics.EVENTS, topics.MATCHES, topics.ALERTS, topics.ACTIONS, topics.ACTION_RESULTS, topics.HOSTS, OTHER),
)
_REFUSAL = Label(
    "reason",
    (
        "malformed",
        "checksum",
        "version",
        "schema_version",
        "too_large",
        "too_many_events",
        "wrong_host",
        "unknown_kind",
        "inconsistent",
        "unavailable",
    ),
)
_PEER_REFUSAL = Label("reason", ("tls_version", "certificate", "wrong_host", "no_hello", "idle", OTHER))
_DEAD_LETTER = Label(
    "reason",
    ("undecodable", "bad_headers", "too_large", "unpublishable", "unexpected", "rejected_by_store", OTHER),
)
_ACTION_STATE = Label(
    "state",
    (
        "requested",
        "approved",
        "signed",
        "relayed",
        "refused",
        "expired",
        "executed",
        "failed",
        "observed",
        "reverted",
        "unknown",
    ),
)
_DROP = Label("reason", ("expired", "full", "malformed", "duplicate", "wrong_host", OTHER))
_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def _counter(name: str, unit: str, meaning: str, *labels: Label) -> Metric:
    return Metric(name, MetricKind.COUNTER, unit, meaning, labels)


def _gauge(name: str, unit: str, meaning: str, *labels: Label) -> Metric:
    return Metric(name, MetricKind.GAUGE, unit, meaning, labels)


def _seconds(name: str, meaning: str, *labels: Label) -> Metric:
    return Metric(name, MetricKind.HISTOGRAM, "seconds", meaning, labels, _LATENCIES_S)


# What agents send.
FRAMES_RECEIVED = _counter("microedr_frames_received_total", "frames", "Frames that arrived from agents, good or bad.")
FRAMES_REFUSED = _counter(
    "microedr_frames_refused_total", "frames", "Frames of which nothing was published; the agent was told.", _REFUSAL
)
EVENTS_RECEIVED = _counter(
    "microedr_events_received_total", "events", "Events in frames whose header could be read, good or bad."
)
EVENTS_REFUSED = _counter("microedr_events_refused_total", "events", "Events of refused frames.", _REFUSAL)
EVENTS_PUBLISHED = _counter("microedr_events_published_total", "events", "Events that are durable on the bus.")
EVENTS_ACKED = _counter("microedr_events_acked_total", "events", "Events that an agent was told to be durable.")
ACK_SECONDS = _seconds("microedr_ack_seconds", "From a frame's arrival to its ack.")
STREAMS_OPEN = _gauge("microedr_streams_open", "streams", "Agents connected now.")
BYTES_UNDER_WAY = _gauge("microedr_bytes_under_way", "bytes", "Frames taken and neither acked nor refused.")
PEERS_REFUSED = _counter(
    "microedr_peers_refused_total", "streams", "Streams closed because of who or how they are.", _PEER_REFUSAL
)
ACTIONS_RELAYED = _counter("microedr_actions_relayed_total", "actions", "Signed actions passed to an agent's stream.")
ACTIONS_DROPPED = _counter(
    "microedr_actions_dropped_total", "actions", "Signed actions never relayed, and results not taken.", _DROP
)
ACTION_UPDATES = _counter(
    "microedr_action_updates_total", "updates", "Steps in the life of actions that were published.", _ACTION_STATE
)

RULES_DISARMED = _gauge(
    "microedr_rules_disarmed", "rules", "Rules that acted too widely and wait for a person to re-arm them."
)

# What consumers make of topics.
RECORDS_CONSUMED = _counter("microedr_records_consumed_total", "records", "Records done with and committed.", _TOPIC)
RECORDS_RETRIED = _counter(
    "microedr_records_retried_total", "attempts", "Times a record had to wait for what it needs.", _TOPIC
)
RECORDS_DEAD_LETTERED = _counter(
    "microedr_records_dead_lettered_total", "records", "Records that can never be consumed.", _TOPIC, _DEAD_LETTER
)
RECORDS_PUBLISHED = _counter("microedr_records_published_total", "records", "Records durable on the bus.", _TOPIC)
RECORDS_DROPPED = _counter(
    "microedr_records_dropped_total",
    "records",
    "Records given up before they were published.",
    _TOPIC,
    Label("reason", ("full", "unpublishable")),
)
FLUSH_SECONDS = _seconds("microedr_flush_seconds", "Making the effects of a batch durable.")
LAG_RECORDS = _gauge("microedr_lag_records", "records", "Records not yet committed, over partitions of ours.", _TOPIC)
EVENTS_CONSUMED = _counter(
    "microedr_events_consumed_total", "events", "Events taken from the bus, duplicates left out."
)
EVENTS_DUPLICATE = _counter(
    "microedr_events_duplicate_total", "events", "Events left out because their sequence was seen before."
)
EVENTS_MISSING = _counter(
    "microedr_events_missing_total", "events", "Sequences skipped within one host, epoch and lane."
)

# What comes of it.
EVENTS_MATCHED = _counter("microedr_events_matched_total", "matches", "Times a rule fired on an event.")
RULES_LOADED = _gauge("microedr_rules_loaded", "rules", "Rules that are evaluated.")
RULES_FAILED = _counter("microedr_rules_failed_total", "evaluations", "Evaluations that ended in an error.")
ALERTS_RAISED = _counter("microedr_alerts_raised_total", "alerts", "New alerts, revisions not counted.")
ALERTS_REVISED = _counter("microedr_alerts_revised_total", "alerts", "Later revisions of alerts.")
ALERTS_STORED = _counter("microedr_alerts_stored_total", "alerts", "Alerts and revisions written to the database.")
MATCHES_FOLDED = _counter(
    "microedr_matches_folded_total", "matches", "Matches folded into an alert instead of raising one."
)
WINDOW_HOSTS = _gauge("microedr_window_hosts", "hosts", "Hosts whose window is held in memory.")
WINDOW_PROCESSES = _gauge("microedr_window_processes", "processes", "Processes held in all windows.")
WINDOW_EVICTED = _counter(
    "microedr_window_evicted_total", "entries", "Window entries given up because of a cap, not of age."
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def page() -> str:
    """The reference page, Markdown."""
    rows = [
        f"| `{m.name}` | {m.kind.value} | {m.unit} | {_labels(m)} | {m.meaning} |"
        for m in sorted(METRICS, key=lambda m: m.name)
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "Every service serves these on `/metrics` of `MICROEDR_METRICS_LISTEN`, beside `/healthz` and `/readyz`.",
            "All have the label `service`. This page is written by `python -m microedr_chassis.catalogue`.",
            "",
            "| name | kind | unit | labels | meaning |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _labels(metric: Metric) -> str:
    return "; ".join(f"`{label.name}`: {', '.join(label.values)}" for label in metric.labels)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
