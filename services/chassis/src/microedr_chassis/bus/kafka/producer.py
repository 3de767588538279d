"""Publish through librdkafka: one producer, one thread that polls it, one future per record.

Order is kept over failures: ``enable.gapless.guarantee`` makes librdkafka give up everything that
waits behind a record that failed, and a new producer begins after that.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from microedr_chassis.bus.api import Record, TopicPartition
from microedr_chassis.bus.kafka.client import LOGGER, KafkaOptions, is_fatal, publish_error
from microedr_chassis.bus.window import Place
from microedr_chassis.errors import BusError, BusFullError, BusUnavailableError

_log = structlog.get_logger()

_POLL_S = 0.5
_AWAY_FLUSH_S = 1.0
_PROBE_S = 1.0
"""While the brokers seem to be away they are asked this often."""

_MESSAGE_MAX_BYTES = 1_040_000
"""Above ``record.MAX_RECORD_BYTES`` and a dead letter's extra, below the broker's default of 1,048,588."""


@dataclass(frozen=True, slots=True)
class PublishJob:
    """A record on its way."""

    record: Record
    size_bytes: int
    future: "asyncio.Future[Place]"


Outcome = tuple[PublishJob, Place | BusError]


class PublishThread:
    """Runs from ``start`` to ``stop``; ``report`` is called on the event loop with what was delivered or failed."""

    def __init__(self, options: KafkaOptions, report: Callable[[list[Outcome]], None]) -> None:
        self._options = options
        self._report = report
        self._thread = threading.Thread(target=self._run, name="bus-kafka-publish", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._producer: Producer | None = None
        self._outcomes: deque[Outcome] = deque()
        self._scheduled = False
        self._failed = False
        self._suspect = False
        self._stopping = False
        self.away = False
        """No broker answers. Read by everything of this bus."""

    def _new_producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._options.servers,
                "client.id": "microedr",
                "acks": "all",
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 5,
                "batch.size": 1_000_000,
                "message.max.bytes": _MESSAGE_MAX_BYTES,
                "delivery.timeout.ms": int(self._options.publish_timeout_s * 1000),
                # The window of the bus is the bound; these only have to be wider.
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
                "reconnect.backoff.max.ms": 2000,
                "log_level": 2,
                "logger": LOGGER,
                "error_cb": self._on_error,
            }
        )

    def connect(self) -> None:
        """Make the producer and wait until a broker answers; blocks.

        Asking for the topics also warms it up: a first record would wait half a second for them.

        Raises:
            BusUnavailableError: None answers in time.
        """
        if self._producer is None:
            self._producer = self._new_producer()
        try:
            self._producer.list_topics(timeout=self._options.connect_timeout_s)
        except KafkaException as error:
            raise BusUnavailableError(f"kafka at {self._options.servers}: {error.args[0].str()}") from error

    def start(self) -> None:
        """Begin to report, to the loop that runs now."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()

    def partitions(self, topic: str | None = None) -> dict[str, int]:
        """Partition counts of all topics or of one, which is missing when it does not exist; blocks.

        Raises:
            BusUnavailableError: No broker answers.
        """
        producer = self._producer
        if producer is None or self.away:
            raise BusUnavailableError(f"kafka at {self._options.servers} is away")
        try:
            found = producer.list_topics(topic, timeout=self._options.connect_timeout_s).topics
        except KafkaException as error:
            raise BusUnavailableError(f"kafka at {self._options.servers}: {error.args[0].str()}") from error
        return {name: len(each.partitions) for name, each in found.items() if each.error is None}

    def put(self, job: PublishJob) -> None:
        """Hand it to librdkafka, which never blocks.

        Raises:
            BusUnavailableError: The brokers are away, or something failed a moment ago.
            BusFullError: librdkafka's queue is full.
            BusRecordError: librdkafka refuses the record.
        """
        producer = self._producer
        if producer is None or self._failed or self.away or self._stopping:
            raise BusUnavailableError(f"kafka at {self._options.servers} is away")
        record = job.record
        try:
            producer.produce(
                record.topic,
                record.value,
                record.key,
                headers=list(record.headers.items()),
                on_delivery=partial(self._on_delivery, job),
            )
        except BufferError as error:
            raise BusFullError(str(error)) from error
        except KafkaException as error:
            reason = publish_error(error.args[0])
            self._failed = self._failed or isinstance(reason, BusUnavailableError)
            raise reason from error

    async def stop(self) -> None:
        """Deliver what was put, for as long as that can take, then end the thread."""
        if self._loop is not None and not self._stopping:
            self._stopping = True
            await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        next_probe_s = 0.0
        while True:
            producer = self._producer
            if producer is not None:
                if self._stopping:
                    producer.flush(_AWAY_FLUSH_S if self.away else self._options.publish_timeout_s)
                    # What could not be delivered fails; whoever waits for it is told.
                    producer.purge(in_queue=True, in_flight=True, blocking=True)
                    producer.flush(_AWAY_FLUSH_S)
                    break
                producer.poll(_POLL_S)
            if self._failed:
                self._replace(producer)
            if self._suspect and time.monotonic() >= next_probe_s:
                next_probe_s = time.monotonic() + _PROBE_S
                self._probe()

    def _replace(self, producer: Producer | None) -> None:
        """Give up what waits behind the failure, then begin anew."""
        self._producer = None
        if producer is not None:
            producer.purge(in_queue=True, in_flight=True, blocking=True)
            producer.flush(1.0)
        self._producer = self._new_producer()
        self._failed = False

    def _probe(self) -> None:
        """All brokers were said to be down, which idle connections are as well: ask."""
        producer = self._producer
        if producer is None:
            return
        try:
            producer.list_topics(timeout=_PROBE_S)
        except KafkaException as error:
            if not self.away:
                _log.warning("kafka_went_away", servers=self._options.servers, error=error.args[0].str())
            self.away = True
        else:
            if self.away:
                _log.info("kafka_came_back", servers=self._options.servers)
            self.away = self._suspect = False

    def _on_error(self, error: KafkaError) -> None:
        """From librdkafka, on the thread that polls."""
        if is_fatal(error):
            self._failed = True
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - librdkafka's own codes have this name
            self._suspect = True

    def _on_delivery(self, job: PublishJob, error: KafkaError | None, message: Message) -> None:
        """From librdkafka, on the thread that polls."""
        if error is None:
            place = TopicPartition(job.record.topic, message.partition() or 0), message.offset() or 0
            self._outcomes.append((job, place))
        else:
            reason = publish_error(error)
            self._failed = self._failed or isinstance(reason, BusUnavailableError)
            self._outcomes.append((job, reason))
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop was closed without closing the bus: nobody waits for this any more.
                self._stopping = True

    def _deliver(self) -> None:
        """On the loop: one call for all that came since the last."""
        self._scheduled = False
        outcomes = []
        while self._outcomes:
            outcomes.append(self._outcomes.popleft())
        if outcomes:
            self._report(outcomes)
