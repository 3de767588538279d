"""Consume through librdkafka: a thread that owns the consumer and talks to ``subscription`` in messages.

The thread polls only while a fetch is asked for, so rebalances happen inside fetches and nowhere
else. While librdkafka waits in a rebalance callback, the thread runs the calls the listener makes.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from microedr_chassis.bus.api import ConsumedRecord, TopicPartition
from microedr_chassis.bus.kafka.client import KafkaOptions, Wanted, consume_error, consumer_config, is_fatal
from microedr_chassis.bus.kafka.messages import Event, Failed, Fetched, Gained, Losing, record_of, source_of
from microedr_chassis.errors import BusError, BusRetentionError, BusUnavailableError

_SLICE_S = 0.2
"""One poll. A call that comes while a cancelled fetch still polls waits this long."""

_RETRY_S = 0.5
_TROUBLE_S = 60.0
_MAX_FETCH_BYTES = 8 * 1024 * 1024


Job = tuple[Callable[[], Any], "asyncio.Future[Any] | None"]


class ConsumeThread:
    """One member of one group. ``on_event`` is called on the loop it was made on."""

    def __init__(self, options: KafkaOptions, wanted: Wanted, on_event: Callable[[Event], None]) -> None:
        self._options = options
        self._wanted = wanted
        self._eager = wanted.co_partitioned
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"bus-kafka-{wanted.group}", daemon=True)
        self._consumer: Consumer | None = None
        self._planned: dict[TopicPartition, int] = {}
        self._member_id = ""
        self._told = False
        self._closing = False
        self._fatal: KafkaError | None = None
        self._troubled_s = float("-inf")
        self.paused: frozenset[TopicPartition] = frozenset()
        self.assigned: frozenset[TopicPartition] = frozenset()
        """Replaced as a whole, read from both threads."""

    @property
    def consumer(self) -> Consumer:
        """For calls, on the thread."""
        if self._consumer is None:
            raise BusUnavailableError("the subscription is closed")
        return self._consumer

    def had_trouble(self) -> bool:
        """Whether a broker was lost in the last session or the minute before it."""
        return time.monotonic() - self._troubled_s < self._options.session_timeout_s + _TROUBLE_S

    def start(self) -> None:
        """Join the group, at the first fetch."""
        self._thread.start()

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run it on the thread; blocking questions to the broker belong there."""
        if self._closing:
            raise BusUnavailableError("the subscription is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((function, future))
        return await future

    def fetch(self, max_records: int, timeout_s: float) -> None:
        """Ask for records; the answer is an event."""
        self._queue.put((lambda: self._fetch(max_records, timeout_s), None))

    def done(self) -> None:
        """The listener knows."""
        self._queue.put((self._tell, None))

    def _tell(self) -> None:
        self._told = True

    async def close(self) -> str:
        """Disconnect; returns the id the coordinator knows the member by, empty if it knows none."""
        self._closing = True
        self._queue.put((_nothing, None))
        await self._loop.run_in_executor(None, self._thread.join)
        return self._member_id

    def _run(self) -> None:
        try:
            self._consumer = Consumer({**consumer_config(self._options, self._wanted), "error_cb": self._on_error})
            self._consumer.subscribe(
                list(self._wanted.topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        except KafkaException as error:
            self._post(self._on_event, Failed(consume_error(error.args[0])))
        while not self._closing:
            self._serve()
        if self._consumer is not None:
            self._member_id = str(self._consumer.memberid() or "")
            self._consumer.close()
            self._consumer = None
        while not self._queue.empty():
            _, future = self._queue.get()
            if future is not None:
                self._post(_settle, future, None, BusUnavailableError("the subscription is closed"))

    def _serve(self) -> None:
        """Run the next job."""
        function, future = self._queue.get()
        result: Any = None
        failure: Exception | None = None
        try:
            result = function()
        except KafkaException as error:
            failure = consume_error(error.args[0])
        except Exception as error:  # noqa: BLE001 - it belongs to whoever called
            failure = error
        if future is not None:
            self._post(_settle, future, result, failure)
        elif isinstance(failure, BusError):
            self._post(self._on_event, Failed(failure))

    def _fetch(self, max_records: int, timeout_s: float) -> None:
        """Poll until there is something, time is up, or another call waits."""
        deadline_s = time.monotonic() + timeout_s
        records: list[ConsumedRecord] = []
        size_bytes = 0
        while len(records) < max_records and size_bytes < _MAX_FETCH_BYTES:
            wait_s = 0.0 if records else max(0.0, min(_SLICE_S, deadline_s - time.monotonic()))
            message = self.consumer.poll(wait_s)
            if self._fatal is not None:
                raise consume_error(self._fatal)
            if message is None:
                if records or time.monotonic() >= deadline_s or not self._queue.empty():
                    break
                continue
            if (error := message.error()) is not None:
                self._judge(error, message)
                continue
            record = record_of(message)
            if record.source in self.paused:
                self.seek(record.source, record.offset)
                continue
            records.append(record)
            size_bytes += len(record.value)
        # Polling again can have moved partitions away from us: what was theirs is not ours to consume.
        self._post(self._on_event, Fetched([record for record in records if record.source in self.assigned]))

    def _on_error(self, error: KafkaError) -> None:
        """From librdkafka, in ``poll``; what is not fatal it mends itself."""
        if is_fatal(error):
            self._fatal = error
        else:
            self._troubled_s = time.monotonic()

    def _judge(self, error: KafkaError, message: Message) -> None:
        """Raise what the consumer must know; librdkafka goes on with the rest by itself."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - librdkafka's own codes have this name
            raise BusRetentionError(
                f"group {self._wanted.group}: the log of {message.topic()}/{message.partition()} begins after"
                f" where it goes on: what lies between was deleted unread ({error.str()})"
            )
        self._on_error(error)
        if self._fatal is not None or error.code() in _TOLD:
            raise consume_error(error)

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """In ``poll``: place them, tell the listener, begin to read."""
        sources = [source_of(each) for each in partitions]
        self._planned = self._starts(consumer, partitions)
        self.assigned |= frozenset(sources)
        if sources:
            self._tell_listener(Gained(sorted(sources)))
        placed = [KafkaPartition(*source, self._planned.get(source, OFFSET_BEGINNING)) for source in sources]
        self._planned = {}
        if self._eager:
            consumer.assign(placed)
        else:
            consumer.incremental_assign(placed)

    def _starts(self, consumer: Consumer, partitions: list[KafkaPartition]) -> dict[TopicPartition, int]:
        """Where the group goes on; asked until the broker answers, for guessing would skip or repeat."""
        while partitions and not self._closing:
            try:
                known = consumer.committed(partitions, timeout=self._options.connect_timeout_s)
            except KafkaException:
                time.sleep(_RETRY_S)
                continue
            return {source_of(each): each.offset if each.offset >= 0 else OFFSET_BEGINNING for each in known}
        return {}

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """In ``poll``: tell the listener, which may still commit, then give them up."""
        sources = frozenset(source_of(each) for each in partitions)
        if sources:
            self._tell_listener(Losing(sorted(sources)))
        self._give_up(consumer, partitions, sources)

    def _on_lost(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """In ``poll``: they are another's already, commits are left out."""
        sources = frozenset(source_of(each) for each in partitions)
        self.assigned -= sources
        self._tell_listener(Losing(sorted(sources)))
        self._give_up(consumer, partitions, sources)

    def _give_up(
        self, consumer: Consumer, partitions: list[KafkaPartition], sources: frozenset[TopicPartition]
    ) -> None:
        self.assigned -= sources
        self.paused -= sources
        if self._eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(partitions)

    def _tell_listener(self, event: Gained | Losing) -> None:
        """Wait until the listener was told, running the calls it makes meanwhile."""
        self._told = self._closing
        if not self._told:
            self._post(self._on_event, event)
        while not self._told and not self._closing:
            self._serve()

    def seek(self, source: TopicPartition, offset: int) -> None:
        """On the thread. During an assignment: where it will begin."""
        if source in self._planned:
            self._planned[source] = offset
            return
        deadline_s = time.monotonic() + self._options.connect_timeout_s
        while True:
            try:
                self.consumer.seek(KafkaPartition(*source, offset))
            except KafkaException as error:
                # A partition assigned a moment ago can not be sought yet.
                if error.args[0].code() != KafkaError._STATE or time.monotonic() > deadline_s:  # noqa: SLF001 - as above
                    raise
                time.sleep(_SLICE_S / 10)
            else:
                return

    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        """On the thread. What is no longer ours is left out."""
        offsets = [
            KafkaPartition(*source, offset) for source, offset in next_offsets.items() if source in self.assigned
        ]
        if not offsets:
            return
        try:
            answers = self.consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in _NOT_OURS:
                return
            raise
        for answer in answers or ():
            if answer.error is not None and answer.error.code() not in _NOT_OURS:
                raise KafkaException(answer.error)

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop was closed without closing the subscription: nobody waits for this any more.
            self._closing = True


_TOLD = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})
"""What no waiting mends."""

_NOT_OURS = frozenset({KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID})
"""The group went on without us; the next poll brings the news."""


def _nothing() -> None:
    """Only wakes the thread."""


def _settle(future: "asyncio.Future[Any]", result: Any, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
