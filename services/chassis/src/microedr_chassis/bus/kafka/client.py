"""What both client libraries are configured with, and what their errors mean."""

import logging
from dataclasses import dataclass, field

from confluent_kafka import KafkaError

from microedr_chassis.bus import topics
from microedr_chassis.errors import BusError, BusFencedError, BusRecordError, BusUnavailableError

LOW_RATE_TOPICS = frozenset({topics.ALERTS, topics.ACTIONS, topics.ACTION_RESULTS, topics.HOSTS})
"""A few records per second at most. Dead letters are low-rate as well."""

LOGGER = logging.getLogger("microedr.librdkafka")
"""Where librdkafka says what it can not mend; otherwise it would write to stderr."""

_MOST_HEARTBEAT_MS = 1000
"""Members learn of a rebalance from a heartbeat's answer: this long it takes at most."""


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """Of one ``KafkaBus``; times in seconds."""

    servers: str
    """``host:port,host:port``."""

    session_timeout_s: float = 45.0
    """A member silent for longer is dead. Rolling restarts within it cost no rebalance."""

    publish_timeout_s: float = 30.0
    """A record not confirmed within this fails."""

    connect_timeout_s: float = 10.0
    """For ``start`` and for every question to the broker."""

    low_rate_topics: frozenset[str] = field(default=LOW_RATE_TOPICS)

    @property
    def session_timeout_ms(self) -> int:
        """For both clients."""
        return int(self.session_timeout_s * 1000)

    @property
    def heartbeat_ms(self) -> int:
        """For both clients: several fit into a session."""
        return min(_MOST_HEARTBEAT_MS, self.session_timeout_ms // 5)

    def is_low_rate(self, wanted: tuple[str, ...]) -> bool:
        """Whether a subscription to these topics goes to aiokafka."""
        return all(topic in self.low_rate_topics or topic.endswith(".dlq") for topic in wanted)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One member's wish to subscribe. A tail has no group."""

    topics: tuple[str, ...]
    group: str
    member: str
    co_partitioned: bool = False


def consumer_config(options: KafkaOptions, wanted: Wanted) -> dict[str, object]:
    """Librdkafka's settings for one member of a group; aiokafka's stand in ``aio``."""
    return {
        "bootstrap.servers": options.servers,
        "client.id": f"microedr-{wanted.member}",
        "group.id": wanted.group,
        "group.instance.id": wanted.member,
        # range gives a member the same numbers of every topic, cooperative-sticky does not.
        "partition.assignment.strategy": "range" if wanted.co_partitioned else "cooperative-sticky",
        "session.timeout.ms": options.session_timeout_ms,
        "heartbeat.interval.ms": options.heartbeat_ms,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "fetch.message.max.bytes": 1_048_576,
        "fetch.max.bytes": 16 * 1_048_576,
        "queued.max.messages.kbytes": 16_384,
        "reconnect.backoff.max.ms": 2000,
        "log_level": 2,
        "logger": LOGGER,
    }


_RECORD_CODES = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - librdkafka's own codes have this name
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)


def publish_error(error: KafkaError) -> BusError:
    """What a failed delivery means for its publisher."""
    if error.code() in _RECORD_CODES:
        return BusRecordError(error.str())
    return BusUnavailableError(f"kafka: {error.str()}")


def is_fatal(error: KafkaError) -> bool:
    """Whether its client can do nothing any more."""
    # The flag alone does not tell: errors that arrive in place of a message carry only the code.
    return error.fatal() or error.code() == KafkaError._FATAL  # noqa: SLF001 - librdkafka's own codes have this name


def consume_error(error: KafkaError) -> BusError:
    """What a failed question or commit means for its consumer."""
    if error.code() == KafkaError.FENCED_INSTANCE_ID or is_fatal(error):
        return BusFencedError(f"kafka: {error.str()}")
    return BusUnavailableError(f"kafka: {error.str()}")
