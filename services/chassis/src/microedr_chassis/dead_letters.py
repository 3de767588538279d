"""Dead letters: records that can never be consumed, kept with their reason and where they came from."""

import time
from collections import deque
from dataclasses import dataclass

import structlog

from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus, ConsumedRecord, Record
from microedr_chassis.errors import BusRecordError, DeadLetterLimitError
from microedr_chassis.metrics import Metrics

_log = structlog.get_logger()

# Headers of a dead letter, beside those it had.
REASON = "dlq_reason"
DETAIL = "dlq_detail"
TOPIC = "dlq_topic"
PARTITION = "dlq_partition"
OFFSET = "dlq_offset"
GROUP = "dlq_group"
FAILED_UNIX_NS = "dlq_failed_unix_ns"
VALUE_DROPPED = "dlq_value_dropped"

_MAX_DETAIL_CHARS = 512


@dataclass(frozen=True, slots=True)
class DeadLetterLimits:
    """Above these the consumer stops: a wrong deployment must not turn a whole topic into dead letters."""

    max_consecutive: int = 100
    max_ratio: float = 0.1
    """Of the last ``window`` records; looked at once that many were seen."""
    window: int = 1000


class DeadLetters:
    """Publishes dead letters of one consumer group and counts them."""

    def __init__(self, bus: Bus, *, group: str, metrics: Metrics, limits: DeadLetterLimits) -> None:
        self._bus = bus
        self._group = group
        self._metrics = metrics
        self._limits = limits
        self._consecutive = 0
        self._recent: deque[bool] = deque(maxlen=limits.window)

    def passed(self) -> None:
        """A record was consumed."""
        self._consecutive = 0
        self._recent.append(False)

    async def bury(self, record: ConsumedRecord, reason: str, detail: str) -> None:
        """Publish ``record`` to its dead-letter topic; it is durable when this returns.

        Raises:
            BusUnavailableError: It was not published.
            DeadLetterLimitError: It was, and it is one too many.
        """
        letter = Record(
            topics.dead_letters(record.topic), record.key, record.value, self._headers(record, reason, detail)
        )
        try:
            await self._bus.publish(letter)
        except BusRecordError:
            # Its reason and origin are worth keeping even when its bytes do not fit.
            await self._bus.publish(Record(letter.topic, letter.key, b"", {**letter.headers, VALUE_DROPPED: b"1"}))
        self._metrics.counter(catalogue.RECORDS_DEAD_LETTERED, topic=record.topic, reason=reason).inc()
        _log.warning(
            "record_dead_lettered",
            reason=reason,
            detail=detail[:_MAX_DETAIL_CHARS],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )
        self._consecutive += 1
        self._recent.append(True)
        self._check_limits()

    def _headers(self, record: ConsumedRecord, reason: str, detail: str) -> dict[str, bytes]:
        return {
            **record.headers,
            REASON: reason.encode("ascii", "backslashreplace"),
            DETAIL: detail[:_MAX_DETAIL_CHARS].encode("ascii", "backslashreplace"),
            TOPIC: record.topic.encode(),
            PARTITION: b"%d" % record.partition,
            OFFSET: b"%d" % record.offset,
            GROUP: self._group.encode(),
            FAILED_UNIX_NS: b"%d" % time.time_ns(),
        }

    def _check_limits(self) -> None:
        if self._consecutive > self._limits.max_consecutive:
            raise DeadLetterLimitError(f"{self._consecutive} dead letters in a row in group {self._group}")
        if len(self._recent) == self._limits.window:
            ratio = sum(self._recent) / self._limits.window
            if ratio > self._limits.max_ratio:
                raise DeadLetterLimitError(
                    f"{ratio:.0%} of the last {self._limits.window} records are dead letters in group {self._group}"
                )
