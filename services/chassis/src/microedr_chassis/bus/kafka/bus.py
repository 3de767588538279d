"""The front of the Kafka bus: topics, publishing, and which client serves a subscription."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported, not marked so

from microedr_chassis.bus.api import BusStatistics, RebalanceListener, Record, Subscription, TopicPartition, TopicSpec
from microedr_chassis.bus.kafka.client import LOW_RATE_TOPICS, KafkaOptions, Wanted
from microedr_chassis.bus.kafka.low_rate import LowRateSubscription
from microedr_chassis.bus.kafka.offsets import Link, Offsets
from microedr_chassis.bus.kafka.producer import Outcome, PublishJob, PublishThread
from microedr_chassis.bus.kafka.subscription import KafkaSubscription
from microedr_chassis.bus.record import check_record
from microedr_chassis.bus.window import Place, PublishWindow
from microedr_chassis.errors import BusRecordError, BusTopicError, BusUnavailableError

T = TypeVar("T")

_LEADER_WAIT_S = 0.1


class KafkaBus:
    """Implements ``api.Bus``.

    Args:
        servers: ``host:port,host:port``, any of the cluster.
        session_timeout_s: A consumer silent for longer loses its partitions.
        publish_timeout_s: A record not confirmed within this fails.
        connect_timeout_s: For ``start`` and for every question to the broker.
        queue_records: Most records under way; above it ``submit`` raises BusFullError.
        queue_bytes: The same in bytes.
        low_rate_topics: Served by aiokafka; the same in every process of a deployment.
    """

    def __init__(  # noqa: PLR0913 - each is a limit somebody tunes
        self,
        servers: str,
        *,
        session_timeout_s: float = 45.0,
        publish_timeout_s: float = 30.0,
        connect_timeout_s: float = 10.0,
        queue_records: int = 10_000,
        queue_bytes: int = 64 * 1024 * 1024,
        low_rate_topics: frozenset[str] = LOW_RATE_TOPICS,
    ) -> None:
        self._options = KafkaOptions(
            servers, session_timeout_s, publish_timeout_s, connect_timeout_s, low_rate_topics=low_rate_topics
        )
        self._window = PublishWindow(queue_records, queue_bytes)
        self._publisher = PublishThread(self._options, self._report)
        self._link = Link(self._options, Offsets(self._options), lambda: self._publisher.away)
        self._partitions: dict[str, int] = {}
        self._waiting: dict[str, list[PublishJob]] = {}
        self._lookups: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._closed = False

    async def start(self) -> None:
        """See ``api.Bus``. Can be called again after it failed."""
        await _in_thread(self._publisher.connect)
        self._publisher.start()
        self._partitions = await _in_thread(self._publisher.partitions)

    async def close(self) -> None:
        """See ``api.Bus``."""
        if self._closed:
            return
        self._closed = True
        if self._lookups:
            await asyncio.wait(self._lookups)
        for subscription in self._subscriptions:
            await subscription.close()
        await self._publisher.stop()
        # The thread has ended, its last words may still be on the loop.
        await asyncio.sleep(0)

    def statistics(self) -> BusStatistics:
        """See ``api.Bus``."""
        return self._window.statistics()

    async def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See ``api.Bus``. Replication is the cluster's own default."""
        known = await _in_thread(self._publisher.partitions)
        missing = [spec for spec in topics if spec.name not in known]
        if missing:
            await _in_thread(partial(self._create, missing))
            known = await self._led(missing)
        self._partitions = known
        for spec in topics:
            if known[spec.name] != spec.partitions:
                raise BusTopicError(f"topic {spec.name} has {known[spec.name]} partitions, not {spec.partitions}")

    def _create(self, specs: Sequence[TopicSpec]) -> None:
        admin = AdminClient({"bootstrap.servers": self._options.servers, "log_level": 2})
        created = admin.create_topics(
            [NewTopic(spec.name, spec.partitions, config=_topic_config(spec)) for spec in specs],
            operation_timeout=self._options.connect_timeout_s,
            request_timeout=self._options.connect_timeout_s,
        )
        for name, outcome in created.items():
            try:
                outcome.result()
            except KafkaException as error:
                # Another service was quicker.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise BusUnavailableError(f"creating topic {name}: {error.args[0].str()}") from error

    async def _led(self, specs: Sequence[TopicSpec]) -> dict[str, int]:
        """Wait until the new topics are known everywhere; records for them would wait as well."""
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                while True:
                    known = await _in_thread(self._publisher.partitions)
                    if all(spec.name in known for spec in specs):
                        return known
                    await asyncio.sleep(_LEADER_WAIT_S)
        except TimeoutError as error:
            raise BusUnavailableError(f"new topics are not led: {[spec.name for spec in specs]}") from error

    async def publish(self, record: Record) -> Place:
        """See ``api.Bus``."""
        return await self.submit(record)

    def submit(self, record: Record) -> "asyncio.Future[Place]":
        """See ``api.Bus``."""
        size_bytes = check_record(record)
        if self._closed:
            raise BusUnavailableError("the bus is closed")
        self._window.admit(size_bytes)
        loop = asyncio.get_running_loop()
        job = PublishJob(record, size_bytes, loop.create_future())
        if record.topic not in self._partitions:
            # librdkafka would wait half a minute for a topic that does not exist.
            if record.topic not in self._waiting:
                task = loop.create_task(self._look_up(record.topic), name="bus-kafka-lookup")
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)
            self._waiting.setdefault(record.topic, []).append(job)
            return job.future
        try:
            self._publisher.put(job)
        except BaseException:
            self._window.retract(size_bytes)
            raise
        return job.future

    async def _look_up(self, topic: str) -> None:
        """Publish what waits for ``topic``, in order, once it is known to exist."""
        try:
            found = await _in_thread(partial(self._publisher.partitions, topic))
        except BusUnavailableError as error:
            self._fail_waiting(topic, error)
            return
        if topic not in found:
            self._fail_waiting(topic, BusRecordError(f"topic {topic} does not exist"))
            return
        self._partitions[topic] = found[topic]
        for job in self._waiting.pop(topic, []):
            try:
                self._publisher.put(job)
            except (BusUnavailableError, BusRecordError) as error:
                self._report([(job, error)])

    def _fail_waiting(self, topic: str, error: BusUnavailableError | BusRecordError) -> None:
        self._report([(job, type(error)(str(error))) for job in self._waiting.pop(topic, [])])

    def _report(self, outcomes: list[Outcome]) -> None:
        """Some were delivered, some failed: tell those who wait."""
        for job, outcome in outcomes:
            if isinstance(outcome, BusUnavailableError):
                self._window.cool_down(str(outcome))
            self._window.settle(job.future, job.size_bytes, outcome)

    async def subscribe(
        self,
        topics: Sequence[str],
        *,
        group: str,
        member: str,
        listener: RebalanceListener | None = None,
        co_partitioned: bool = False,
    ) -> Subscription:
        """See ``api.Bus``; which client serves it, the package's docstring says."""
        await self._require(topics)
        wanted = Wanted(tuple(topics), group, member, co_partitioned)
        if self._options.is_low_rate(wanted.topics):
            low_rate = LowRateSubscription(self._link, wanted, listener)
            await low_rate.start()
            return self._remember(low_rate)
        return self._remember(KafkaSubscription(self._link, wanted, listener))

    async def tail(self, topics: Sequence[str], *, since_unix_ms: int) -> Subscription:
        """See ``api.Bus``."""
        await self._require(topics)
        tail = LowRateSubscription(self._link, Wanted(tuple(topics), group="", member="tail"))
        await tail.start()
        self._remember(tail)
        sources = [TopicPartition(topic, number) for topic in topics for number in range(self._partitions[topic])]
        await tail.place_tail(sources, since_unix_ms)
        return tail

    async def _require(self, topics: Sequence[str]) -> None:
        missing = [topic for topic in topics if topic not in self._partitions]
        for topic in missing:
            self._partitions |= await _in_thread(partial(self._publisher.partitions, topic))
            if topic not in self._partitions:
                raise BusTopicError(f"topic {topic} does not exist")

    def _remember(self, subscription: Subscription) -> Subscription:
        self._subscriptions.append(subscription)
        return subscription


def _topic_config(spec: TopicSpec) -> dict[str, str]:
    if spec.compacted:
        return {"cleanup.policy": "compact"}
    return {"cleanup.policy": "delete", "retention.ms": str(spec.retention_s * 1000)}


async def _in_thread(function: Callable[[], T]) -> T:
    """Questions to librdkafka block."""
    return await asyncio.get_running_loop().run_in_executor(None, function)
