"""One partition's state and what it makes of records: windows, waiting matches, alerts, kills. No I/O.

Records are told to it in the order of each topic; between topics any order gives the same alerts. What is to
be published lies in ``outputs`` afterwards. Records before the committed offset only rebuild state.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError

from microedr import headers
from microedr.batch import BatchError, decode_batch
from microedr.v1.action_pb2 import ActionUpdate
from microedr.v1.detection_pb2 import Alert, Match
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record
from microedr_chassis.errors import DeadLetterError
from microedr_correlator.book import AlertBook, AlertState, HostKey
from microedr_correlator.clock import Clock
from microedr_correlator.evidence import write_alert
from microedr_correlator.hosts import HostWindows
from microedr_correlator.observed import KillWatch
from microedr_correlator.processes import Origin
from microedr_correlator.settings import CorrelatorSettings
from microedr_correlator.waiting import WaitingMatch, WaitingMatches

REBUILD_TIMEOUT_S = 120.0
"""How long matches wait for the window to be rebuilt after a restart, at most."""

_NS_PER_MS = 1_000_000
_MAX_MATCH_IDS = 500_000

MessageT = TypeVar("MessageT", Match, ActionUpdate)


@dataclass(slots=True)
class Counts:
    """Since the partition was assigned."""

    events_total: int = 0
    duplicates_total: int = 0
    missing_total: int = 0
    raised_total: int = 0
    revised_total: int = 0
    folded_total: int = 0


@dataclass(slots=True)
class Partition:
    """State of one partition number over all topics.

    ``silent_until`` holds the committed offset per topic: what stands before it was published before.
    """

    settings: CorrelatorSettings
    clock: Clock
    silent_until: Mapping[str, int] = field(default_factory=dict)
    outputs: list[Record] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    windows: HostWindows = field(init=False)
    book: AlertBook = field(init=False)
    kills: KillWatch = field(init=False)
    waiting: WaitingMatches = field(init=False)
    _unpublished: dict[str, AlertState] = field(init=False, default_factory=dict)
    _settling: deque[tuple[float, int, AlertState]] = field(init=False, default_factory=deque)
    _rebuilding: set[str] = field(init=False)
    _rebuild_until_s: float = field(init=False)

    def __post_init__(self) -> None:
        limits = self.settings
        self.kills = KillWatch()
        self.windows = HostWindows(self.kills, max_hosts=limits.max_hosts, max_processes=limits.max_processes)
        self.book = AlertBook(
            limit=limits.alerts_per_rule_and_host, max_alerts=limits.max_alerts, max_match_ids=_MAX_MATCH_IDS
        )
        self.waiting = WaitingMatches()
        self._rebuilding = {topic for topic, offset in self.silent_until.items() if offset > 0}
        self._rebuild_until_s = self.clock.monotonic_s() + REBUILD_TIMEOUT_S

    def consume(self, record: ConsumedRecord) -> None:
        """Take one record of any of the topics.

        Raises:
            DeadLetterError: ``undecodable`` or ``bad_headers``; the state is as before.
        """
        try:
            host = _host_of(record)
            if record.topic == topics.EVENTS:
                self._events(record, host)
            elif record.topic == topics.MATCHES:
                self._match(record, host)
            else:
                self._action(record, host)
        finally:
            self.reached(record.topic, record.offset + 1)

    def reached(self, topic: str, position: int) -> None:
        """Everything of ``topic`` before ``position`` was consumed."""
        if topic in self._rebuilding and position >= self.silent_until.get(topic, 0):
            self._rebuilding.discard(topic)

    def tick(self) -> None:
        """Do what time alone brings about; publish what is due."""
        now_s = self.clock.monotonic_s()
        for host in self.waiting.hosts():
            for waiting in self.waiting.take(host, lambda w: self._has_event(w) or self._is_late(w, now_s)):
                self._fold(waiting)
        for state in list(self._unpublished.values()):
            if now_s - state.published_s >= self.settings.revision_interval_s:
                self._publish(state, now_s)
        self._settle(now_s)
        self.kills.expire(self.clock.unix_ns())
        if not self._is_rebuilding(topics.ACTION_RESULTS, now_s):
            self.outputs.extend(map(_update_record, self.kills.drain()))

    def held_offset(self) -> int | None:
        """The oldest match whose effect is not yet in ``outputs``: commits of topic matches stay before it."""
        offsets = [state.unpublished_offset for state in self._unpublished.values()]
        waiting = self.waiting.oldest_offset()
        return min(offsets if waiting is None else [*offsets, waiting], default=None)

    def _events(self, record: ConsumedRecord, host: HostKey) -> None:
        origin, first_seq, received_unix_ns = _place_of(record)
        try:
            events = decode_batch(record.value).events
        except BatchError as error:
            raise DeadLetterError("undecodable", str(error)) from error
        window = self.windows.open(host)
        duplicates, missing = window.duplicates_total, window.missing_total
        self.counts.events_total += window.fold(events, origin, first_seq, received_unix_ns)
        self.counts.duplicates_total += window.duplicates_total - duplicates
        self.counts.missing_total += window.missing_total - missing
        self.windows.folded(window)
        for entry in self.windows.ended:
            self.kills.ended(host, entry)
        self.windows.ended.clear()
        if self.waiting.has(host):
            for waiting in self.waiting.take(host, self._has_event):
                self._fold(waiting)

    def _match(self, record: ConsumedRecord, host: HostKey) -> None:
        match = _decode(Match(), record.value)
        if not match.rule.rule_id or not match.match_id:
            raise DeadLetterError("undecodable", "a match without rule_id or match_id")
        waiting = WaitingMatch(
            host=host,
            match=match,
            origin=Origin(match.epoch_id, match.lane),
            received_unix_ns=record.timestamp_unix_ms * _NS_PER_MS,
            offset=record.offset,
            since_s=self.clock.monotonic_s(),
        )
        if record.offset < self.silent_until.get(topics.MATCHES, 0):
            state = self.book.fold(host, match, waiting.received_unix_ns, waiting.received_unix_ns)
            if state is not None:
                state.published_count = state.match_count
        elif not self.waiting.has(host) and self._has_event(waiting):
            self._fold(waiting)
        else:
            self.waiting.put(waiting)

    def _action(self, record: ConsumedRecord, host: HostKey) -> None:
        update = _decode(ActionUpdate(), record.value)
        update.tenant_id, update.host_id = host
        target = self.kills.told(host, update, self.clock.unix_ns())
        window = self.windows.get(host)
        entry = window.processes.get(target) if target and window is not None else None
        if entry is not None:
            self.kills.ended(host, entry)

    def _has_event(self, waiting: WaitingMatch) -> bool:
        window = self.windows.get(waiting.host)
        return window is not None and window.marks.has_seen(waiting.origin, waiting.match.event.seqno)

    def _is_late(self, waiting: WaitingMatch, now_s: float) -> bool:
        return now_s - waiting.since_s >= self.settings.match_wait_s and not self._is_rebuilding(topics.EVENTS, now_s)

    def _is_rebuilding(self, topic: str, now_s: float) -> bool:
        return topic in self._rebuilding and now_s < self._rebuild_until_s

    def _fold(self, waiting: WaitingMatch) -> None:
        state = self.book.fold(waiting.host, waiting.match, waiting.received_unix_ns, self.clock.unix_ns())
        if state is None:
            return
        if not self._has_event(waiting):
            state.gaps = f"the event of a match did not arrive within {self.settings.match_wait_s:g} s"
        if state.match_count > 1:
            self.counts.folded_total += 1
        if state.alert_id not in self._unpublished:
            state.unpublished_offset = waiting.offset
            self._unpublished[state.alert_id] = state
        if state.published_count == 0:
            self._publish(state, self.clock.monotonic_s())

    def _publish(self, state: AlertState, now_s: float) -> None:
        alert = write_alert(state, self.windows.get(state.host))
        if state.published_count == 0:
            self.counts.raised_total += 1
        else:
            self.counts.revised_total += 1
        state.published_count = state.match_count
        state.published_s = now_s
        state.shown = _shown(alert)
        del self._unpublished[state.alert_id]
        self.outputs.append(_alert_record(alert))
        if not state.is_overflow:
            self._settling.append((now_s + self.settings.evidence_settle_s, state.match_count, state))

    def _settle(self, now_s: float) -> None:
        """Publish once more what has more to show by now: most programs connect after the event that gave them away."""
        while self._settling and self._settling[0][0] <= now_s:
            _, match_count, state = self._settling.popleft()
            if state.match_count != match_count:
                continue
            alert = write_alert(state, self.windows.get(state.host), is_settled=True)
            if _shown(alert) != state.shown:
                self.counts.revised_total += 1
                self.outputs.append(_alert_record(alert))


def _shown(alert: Alert) -> tuple[int, int]:
    return len(alert.destinations), len(alert.ancestry)


def _host_of(record: ConsumedRecord) -> HostKey:
    try:
        return HostKey(record.headers[headers.TENANT].decode("ascii"), record.headers[headers.HOST].decode("ascii"))
    except (KeyError, ValueError) as error:
        raise DeadLetterError("bad_headers", f"{type(error).__name__}: {error}") from error


def _place_of(record: ConsumedRecord) -> tuple[Origin, int, int]:
    try:
        epoch_id = record.headers[headers.EPOCH].decode("ascii")
        lane, first_seq = int(record.headers[headers.LANE]), int(record.headers[headers.FIRST_SEQ])
        return Origin(epoch_id, lane), first_seq, int(record.headers[headers.RECEIVED_UNIX_NS])
    except (KeyError, ValueError) as error:
        raise DeadLetterError("bad_headers", f"{type(error).__name__}: {error}") from error


def _decode(message: MessageT, value: bytes) -> MessageT:
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise DeadLetterError("undecodable", str(error)) from error
    return message


def _alert_record(alert: Alert) -> Record:
    beside = {headers.TENANT: alert.tenant_id, headers.HOST: alert.host_id, headers.TRACE: alert.trace_id}
    return Record(topics.ALERTS, alert.host_id.encode(), alert.SerializeToString(), _encoded(beside))


def _update_record(update: ActionUpdate) -> Record:
    beside = {headers.TENANT: update.tenant_id, headers.HOST: update.host_id, headers.TRACE: update.trace_id}
    return Record(topics.ACTION_RESULTS, update.host_id.encode(), update.SerializeToString(), _encoded(beside))


def _encoded(beside: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in beside.items()}
