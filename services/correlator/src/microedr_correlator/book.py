"""Which alert a match belongs to, and how many alerts a rule may raise on a host.

Alerts are told apart by rule, group and aligned bucket of event time. Within a bucket the first
``limit`` groups of a rule on a host get an alert each; whatever else comes is folded into one overflow alert
that says how much. All of it follows from the order of topic matches alone, so a replay from the
bucket's start comes to the same.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from microedr.ids import alert_id
from microedr.v1.detection_pb2 import Match
from microedr_correlator.eventtime import bucket_of, clamp_ns, oldest_open_bucket
from microedr_correlator.grouping import group_of

MAX_EVENTS = 10
"""Matching events kept as evidence of one alert."""

MAX_EVENT_BYTES = 128 * 1024
"""Of them together."""

_OVERFLOW = "overflow"


class HostKey(NamedTuple):
    """A host; ids of hosts are unique within their tenant."""

    tenant_id: str
    host_id: str


@dataclass(slots=True)
class AlertState:
    """One alert so far."""

    alert_id: str
    host: HostKey
    bucket: int
    is_overflow: bool
    first_match: bytes
    """Serialised Match."""
    raised_unix_ns: int
    first_event_unix_ns: int
    last_event_unix_ns: int = 0
    match_count: int = 0
    further_events: list[bytes] = field(default_factory=list)
    """Serialised AgentEvents after the first, up to the caps."""
    event_bytes: int = 0
    gaps: str = ""
    """Why the window did not hold all it should when a match was folded in."""
    published_count: int = 0
    """Matches in the newest revision that was published."""
    published_s: float = 0.0
    shown: tuple[int, int] = (0, 0)
    """Destinations and ancestors in it."""
    unpublished_offset: int = 0
    """Of the oldest match that no published revision holds."""


@dataclass(slots=True)
class _RuleOnHost:
    alerts: dict[str, AlertState] = field(default_factory=dict)
    overflow: AlertState | None = None


@dataclass(slots=True)
class _Bucket:
    rules: dict[tuple[HostKey, str], _RuleOnHost] = field(default_factory=dict)
    match_ids: dict[bytes, None] = field(default_factory=dict)


class AlertBook:
    """The alerts of all hosts of a partition whose buckets are open."""

    def __init__(self, *, limit: int, max_alerts: int, max_match_ids: int) -> None:
        """Make an empty one.

        Args:
            limit: New alerts per rule, host and bucket.
            max_alerts: Held at once; above it every new group is folded.
            max_match_ids: Remembered per bucket; older ones would count twice when they come again.
        """
        self._limit = limit
        self._max_alerts = max_alerts
        self._max_match_ids = max_match_ids
        self._buckets: dict[int, _Bucket] = {}
        self._size = 0
        self._received_unix_ns = 0
        self.duplicates_total = 0

    def __len__(self) -> int:
        return self._size

    def fold(self, host: HostKey, match: Match, received_unix_ns: int, now_unix_ns: int) -> AlertState | None:
        """Put ``match`` into its alert, a new one if need be. None: it was there before.

        Args:
            host: From the record's headers.
            match: As decoded.
            received_unix_ns: Time of its record on the bus.
            now_unix_ns: Becomes ``raised_unix_ns`` of a new alert.
        """
        received = self._received_unix_ns = max(self._received_unix_ns, received_unix_ns)
        if any(match.match_id in bucket.match_ids for bucket in self._buckets.values()):
            self.duplicates_total += 1
            return None
        self._expire(received)
        number = bucket_of(clamp_ns(match.event.timestamp_unix_ns, received))
        bucket = self._buckets.setdefault(number, _Bucket())
        if len(bucket.match_ids) >= self._max_match_ids:
            bucket.match_ids.clear()
        bucket.match_ids[match.match_id] = None
        state = self._place(bucket, number, host, match, now_unix_ns)
        _add(state, match)
        return state

    def _place(self, bucket: _Bucket, number: int, host: HostKey, match: Match, now_unix_ns: int) -> AlertState:
        rule_id = match.rule.rule_id
        rule = bucket.rules.setdefault((host, rule_id), _RuleOnHost())
        group = group_of(match)
        state = rule.alerts.get(group)
        if state is not None:
            return state
        if len(rule.alerts) < self._limit and self._size < self._max_alerts:
            state = rule.alerts[group] = _new(host, match, f"{group}/{number}", number, now_unix_ns)
            self._size += 1
            return state
        if rule.overflow is None:
            rule.overflow = _new(host, match, f"{_OVERFLOW}/{number}", number, now_unix_ns, is_overflow=True)
        return rule.overflow

    def _expire(self, received_unix_ns: int) -> None:
        oldest = oldest_open_bucket(received_unix_ns)
        for number in [number for number in self._buckets if number < oldest]:
            closed = self._buckets.pop(number)
            self._size -= sum(len(rule.alerts) for rule in closed.rules.values())


def _new(  # noqa: PLR0913 - what names an alert
    host: HostKey, match: Match, group: str, bucket: int, now_unix_ns: int, *, is_overflow: bool = False
) -> AlertState:
    return AlertState(
        alert_id=alert_id(host.tenant_id, host.host_id, match.rule.rule_id, group),
        host=host,
        bucket=bucket,
        is_overflow=is_overflow,
        first_match=match.SerializeToString(),
        raised_unix_ns=now_unix_ns,
        first_event_unix_ns=match.event.timestamp_unix_ns,
    )


def _add(state: AlertState, match: Match) -> None:
    state.match_count += 1
    event_unix_ns = match.event.timestamp_unix_ns
    state.first_event_unix_ns = min(state.first_event_unix_ns, event_unix_ns)
    state.last_event_unix_ns = max(state.last_event_unix_ns, event_unix_ns)
    if state.match_count == 1 or len(state.further_events) >= MAX_EVENTS - 1:
        return
    event = match.event.SerializeToString()
    if state.event_bytes + len(event) <= MAX_EVENT_BYTES:
        state.further_events.append(event)
        state.event_bytes += len(event)
