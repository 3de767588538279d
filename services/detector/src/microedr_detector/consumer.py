"""The whole flow of a record: which events are new, decode, evaluate, publish what matched."""

import time
from collections.abc import Callable, Sequence

import structlog

from microedr.batch import BatchError, decode_batch
from microedr.v1.event_pb2 import EventBatch
from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus, ConsumedRecord, Subscription, TopicPartition
from microedr_chassis.errors import DeadLetterError
from microedr_chassis.highwater import Admission, HighWater
from microedr_chassis.metrics import Metrics
from microedr_detector.matches import Origin, complete, match_record
from microedr_detector.outbox import Outbox
from microedr_rules.ruleset import RuleSet

_log = structlog.get_logger()


class DetectorConsumer:
    """Implements ``runner.Consumer``."""

    def __init__(
        self, rules: RuleSet, *, bus: Bus, metrics: Metrics, unix_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._rules = rules
        self._unix_ns = unix_ns
        self._outbox = Outbox(bus)
        self._seen = HighWater()
        self._refs = {rule.rule_id: rule.to_wire() for rule in rules.rules}
        self._tally = _Tally(metrics, rules)

    async def assigned(self, _subscription: Subscription, _partitions: Sequence[TopicPartition]) -> None:
        """Nothing to rebuild."""

    async def revoked(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Forget their sequences. Matches under way are published; the next owner's are the same ones."""
        self._seen.forget(partitions)

    async def consume(self, record: ConsumedRecord) -> None:
        """Evaluate the new events of one batch.

        Raises:
            DeadLetterError: ``bad_headers`` or ``undecodable``.
            RetryLaterError: The bus has no room for what matched. So BusUnavailableError.
        """
        admission = self._seen.look(record)
        if not admission.all_duplicate:
            origin = Origin.of(record, admission)
            await self._evaluate(_decode(record, admission), admission, origin)
        self._seen.remember(record, admission)
        self._tally.consumed(admission)

    async def flush(self) -> None:
        """Return when every match is durable."""
        try:
            await self._outbox.flush()
        finally:
            self._tally.published(self._outbox)

    async def _evaluate(self, batch: EventBatch, admission: Admission, origin: Origin) -> None:
        match = self._rules.match
        events = batch.events
        matched_total = 0
        for index in range(admission.first_new, len(events)):
            event = events[index]
            found = match(event)
            if not found:
                continue
            complete(event, events[0], origin, admission.first_seq + index)
            now_unix_ns = self._unix_ns()
            for one in found:
                await self._outbox.put(
                    match_record(
                        one,
                        self._refs[one.rule.rule_id],
                        event,
                        origin,
                        ruleset_hash=self._rules.hash,
                        now_unix_ns=now_unix_ns,
                    )
                )
            matched_total += len(found)
        self._tally.matched(matched_total)


class _Tally:
    """The counters, and a word in the log when a rule is given up."""

    def __init__(self, metrics: Metrics, rules: RuleSet) -> None:
        self._rules = rules
        self._consumed = metrics.counter(catalogue.EVENTS_CONSUMED)
        self._duplicate = metrics.counter(catalogue.EVENTS_DUPLICATE)
        self._missing = metrics.counter(catalogue.EVENTS_MISSING)
        self._matched = metrics.counter(catalogue.EVENTS_MATCHED)
        self._published = metrics.counter(catalogue.RECORDS_PUBLISHED, topic=topics.MATCHES)
        self._dropped = metrics.counter(catalogue.RECORDS_DROPPED, topic=topics.MATCHES, reason="unpublishable")
        self._failed = metrics.counter(catalogue.RULES_FAILED)
        self._loaded = metrics.gauge(catalogue.RULES_LOADED)
        self._loaded.set(len(rules.evaluated))
        self._failed_total = 0
        self._published_total = 0
        self._unpublishable_total = 0
        self._disabled: set[str] = set()

    def consumed(self, admission: Admission) -> None:
        """One record is done with."""
        count = admission.last_seq - admission.first_seq + 1
        self._consumed.inc(count - admission.first_new)
        if admission.first_new:
            self._duplicate.inc(admission.first_new)
        if admission.gap:
            self._missing.inc(admission.gap)
        failed_total = self._rules.failures_total
        if failed_total != self._failed_total:
            self._failed.inc(failed_total - self._failed_total)
            self._failed_total = failed_total
            self._tell_disabled()

    def matched(self, count: int) -> None:
        """Rules fired so many times on the events of one record."""
        self._matched.inc(count)

    def published(self, outbox: Outbox) -> None:
        """The outbox was flushed."""
        self._published.inc(outbox.published_total - self._published_total)
        self._published_total = outbox.published_total
        self._dropped.inc(outbox.unpublishable_total - self._unpublishable_total)
        self._unpublishable_total = outbox.unpublishable_total

    def _tell_disabled(self) -> None:
        for rule_id, reason in self._rules.disabled.items():
            if rule_id not in self._disabled:
                self._disabled.add(rule_id)
                _log.error("rule_disabled", rule_id=rule_id, error=reason)
        self._loaded.set(len(self._rules.evaluated))


def _decode(record: ConsumedRecord, admission: Admission) -> EventBatch:
    try:
        batch = decode_batch(record.value)
    except BatchError as error:
        raise DeadLetterError("undecodable", str(error)) from error
    count = admission.last_seq - admission.first_seq + 1
    if len(batch.events) != count:
        raise DeadLetterError("bad_headers", f"the headers say {count} events, the batch holds {len(batch.events)}")
    return batch
