"""Killed anywhere and started again, the correlator raises the same alerts and proves the same kills."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from microedr.v1.action_pb2 import ACTION_STATE_EXECUTED, ACTION_STATE_SIGNED
from microedr.v1.detection_pb2 import Alert
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record, Subscription, TopicPartition
from microedr_chassis.bus.local import Membership
from microedr_chassis.bus.memory import MemoryBroker, MemoryBus, _Group
from microedr_chassis.bus.window import Place
from microedr_chassis.metrics import MetricRegistry
from microedr_chassis.settings import load_settings
from microedr_correlator.consumer import TOPICS, CorrelatorConsumer
from microedr_correlator.settings import CorrelatorSettings
from support.host_story import START_UNIX_NS, HostStory

MINUTE_S = 60
GROUP = "g"
KILLED_AT = ("after consume", "after flush", "after commit")
# Late evidence is left out: when it comes is a matter of the clock.
SETTINGS = load_settings(CorrelatorSettings, bus="memory:", alerts_per_rule_and_host=3, evidence_settle_s=300)


AFTER_ALL_UNIX_NS = START_UNIX_NS + 50 * MINUTE_S * 10**9


@dataclass
class Clock:
    """Goes on by a step each time it is read, so that throttled revisions come due here and there."""

    unix: int
    now_s: float = 0.0

    def monotonic_s(self) -> float:
        """See ``clock.Clock``."""
        self.now_s += 0.01
        return self.now_s

    def unix_ns(self) -> int:
        """See ``clock.Clock``."""
        return self.unix


@dataclass
class Recording:
    """A stream of records with the time at which each was published."""

    records: list[tuple[int, Record]] = field(default_factory=list)

    def add(self, story: HostStory, *records: Record) -> None:
        """Published at the story's present."""
        self.records.extend((story.now_unix_ns, record) for record in records)

    def logs(self) -> dict[TopicPartition, list[ConsumedRecord]]:
        """What a bus holds on which only this was published."""
        logs: dict[TopicPartition, list[ConsumedRecord]] = {
            TopicPartition(spec.name, 0): [] for spec in topics.catalogue(1)
        }
        for at_unix_ns, record in self.records:
            log = logs[TopicPartition(record.topic, 0)]
            log.append(
                ConsumedRecord(
                    record.topic, 0, len(log), at_unix_ns // 10**6, record.key, record.value, dict(record.headers)
                )
            )
        return logs


def recording() -> Recording:
    """Fifty minutes of two hosts: folding within and across buckets, an overflow, kills, a late match."""
    recorded = Recording()
    for story in (HostStory("host-a"), HostStory("host-b", lane=1)):
        pids = itertools.count(100)
        noisy = next(pids)
        story.exec(noisy, 1, "/usr/bin/noisy", "noisy")
        recorded.add(story, story.frame())
        for quarter in range(3):
            bad = [story.exec(next(pids), noisy) for _ in range(5)]
            frame = story.frame()
            matches = [story.match(event) for event in bad]
            if quarter == 1:
                recorded.add(story, *matches[:2], frame, *matches[2:], matches[0])
            else:
                recorded.add(story, frame, *matches)
            story.wait(MINUTE_S)
            again = story.connect(noisy, last_octet=quarter)
            recorded.add(story, story.frame(), story.match(again, rule_id="rule-net"))
            recorded.add(story, story.step(topics.ACTIONS, ACTION_STATE_SIGNED, noisy + 1 + quarter))
            executed = story.step(topics.ACTION_RESULTS, ACTION_STATE_EXECUTED, noisy + 1 + quarter, with_target=False)
            story.exit(noisy + 1 + quarter)
            ended = story.frame()
            recorded.add(story, *((ended, executed) if quarter % 2 else (executed, ended)))
            story.wait(13 * MINUTE_S)
            once_more = story.connect(noisy)
            recorded.add(story, story.frame(), story.match(once_more, rule_id="rule-net"))
            story.wait(2 * MINUTE_S)
    recorded.records.sort(key=lambda item: item[0])
    return recorded


RECORDING = recording()
LOGS = RECORDING.logs()
RESULTS = TopicPartition(topics.ACTION_RESULTS, 0)


@dataclass(frozen=True)
class Moment:
    """What a correlator killed now leaves behind: all that its successor can know."""

    log_lengths: Mapping[TopicPartition, int]
    committed: Mapping[TopicPartition, int]

    def next_unix_ns(self) -> int:
        """When the oldest record not committed was published."""
        rest = (LOGS[source][offset:] for source, offset in self.committed.items())
        return min((log[0].timestamp_unix_ms * 10**6 for log in rest if log), default=AFTER_ALL_UNIX_NS)


class WatchedBroker(MemoryBroker):
    """Holds the recording and remembers the moment after each record published and each commit."""

    def __init__(self) -> None:
        super().__init__()
        for spec in topics.catalogue(1):
            self.ensure_topic(spec)
        self._logs = {source: list(log) for source, log in LOGS.items()}
        self.moments: list[Moment] = []

    def append(self, record: Record) -> Place:
        """See ``MemoryBroker``."""
        place = super().append(record)
        self._remember()
        return place

    async def commit(self, membership: Membership, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See ``MemoryBroker``."""
        await super().commit(membership, next_offsets)
        self._remember()

    def _remember(self) -> None:
        lengths = {source: len(log) for source, log in self._logs.items()}
        self.moments.append(Moment(lengths, dict(self._groups[GROUP].committed)))

    def log(self, topic: str) -> list[ConsumedRecord]:
        """All of a topic."""
        return self._logs[TopicPartition(topic, 0)]

    def at(self, moment: Moment) -> "WatchedBroker":
        """As it was then, with nobody connected."""
        then = WatchedBroker()
        then._logs = {source: log[: moment.log_lengths[source]] for source, log in self._logs.items()}
        then._groups[GROUP] = _Group(committed=dict(moment.committed))
        return then


class Run:
    """Runs correlators one after the other over one broker, killing each where it is told to."""

    def __init__(
        self, per_fetch: int = 2, broker: WatchedBroker | None = None, unix_ns: int = AFTER_ALL_UNIX_NS
    ) -> None:
        self.broker = broker if broker is not None else WatchedBroker()
        self.per_fetch = per_fetch
        self.unix_ns = unix_ns
        self.consumed = 0

    async def until(self, position: int, where: str) -> None:
        """Run one life that ends by force after it consumed so many records."""
        bus, consumer, subscription = await self._begin()
        consumed = 0
        while consumed < position:
            records = await subscription.fetch(max_records=self.per_fetch, timeout_s=0)
            for record in records:
                await consumer.consume(record)
                consumed += 1
                if consumed == position and where == "after consume":
                    bus.crash()
                    return
            if not records and not await self._settle(consumer, subscription, {}):
                break
            await consumer.flush()
            if consumed >= position and where == "after flush":
                break
            await self._settle(consumer, subscription, _positions(records))
        bus.crash()

    async def to_the_end(self) -> None:
        """Run one life until there is nothing left to do."""
        _, consumer, subscription = await self._begin()
        while True:
            records = await subscription.fetch(max_records=self.per_fetch, timeout_s=0)
            for record in records:
                self.consumed += 1
                await consumer.consume(record)
            await self._settle(consumer, subscription, _positions(records))
            if not records and consumer._partitions[0].held_offset() is None:
                return

    async def _begin(self) -> tuple[MemoryBus, CorrelatorConsumer, Subscription]:
        bus = MemoryBus(self.broker)
        metrics = MetricRegistry().for_service("correlator")
        consumer = CorrelatorConsumer(SETTINGS, bus, metrics, Clock(self.unix_ns))
        subscription = await bus.subscribe(TOPICS, group=GROUP, member="m", listener=consumer, co_partitioned=True)
        return bus, consumer, subscription

    async def _settle(
        self, consumer: CorrelatorConsumer, subscription: Subscription, consumed: dict[TopicPartition, int]
    ) -> bool:
        await consumer.flush()
        positions = consumer.committable(consumed)
        await subscription.commit(positions)
        return bool(positions)

    def alerts(self) -> dict[str, tuple[object, ...]]:
        """The newest revision of each."""
        newest: dict[str, Alert] = {}
        for record in self.broker.log(topics.ALERTS):
            alert = Alert.FromString(record.value)
            if alert.revision > (newest[alert.alert_id].revision if alert.alert_id in newest else 0):
                newest[alert.alert_id] = alert
        return {
            key: (
                alert.host_id,
                alert.match_count,
                alert.folded_count,
                alert.event_unix_ns,
                alert.last_event_unix_ns,
                [item.event.event_id for item in alert.evidence],
                [node.process_uid for node in alert.ancestry],
            )
            for key, alert in newest.items()
        }

    def observed(self) -> set[bytes]:
        """Every proof of a kill, byte for byte."""
        return {record.value for record in self.broker.log(topics.ACTION_RESULTS)[len(LOGS[RESULTS]) :]}

    def published(self) -> int:
        """Alerts, revisions and proofs on the bus."""
        return len(self.broker.log(topics.ALERTS)) + len(self.broker.log(topics.ACTION_RESULTS))


def _positions(records: Sequence[ConsumedRecord]) -> dict[TopicPartition, int]:
    return {record.source: record.offset + 1 for record in records}


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed() -> Run:
    run = Run()
    asyncio.run(run.to_the_end())
    return run


def test_the_recording_has_what_the_promise_is_about(undisturbed: Run) -> None:
    counts = [(match_count, folded) for _, match_count, folded, *_ in undisturbed.alerts().values()]

    assert counts.count((2, 2)) == 6, "an overflow per host and quarter"
    assert counts.count((1, 0)) >= 18
    assert counts.count((2, 0)) >= 2, "folded into one alert"
    assert len(undisturbed.observed()) == 6


@pytest.mark.parametrize("per_fetch", [2, 6])
async def test_killed_after_anything_it_left_on_the_bus_the_alerts_are_those_of_an_undisturbed_run(
    per_fetch: int, undisturbed: Run
) -> None:
    first = Run(per_fetch)
    await first.to_the_end()

    for number, moment in enumerate(first.broker.moments):
        # No later than this: the longer ago the kill, the more generous the replay.
        run = Run(per_fetch, first.broker.at(moment), moment.next_unix_ns())
        await run.to_the_end()

        assert run.alerts() == undisturbed.alerts(), number
        assert run.observed() == undisturbed.observed(), number


@settings(max_examples=25, deadline=None)
@given(
    kills=st.lists(st.tuples(st.integers(1, 90), st.sampled_from(KILLED_AT)), min_size=1, max_size=6),
    per_fetch=st.integers(1, 7),
)
# Here results are committed, and nothing yet of what they speak of.
@example(kills=[(7, "after consume")], per_fetch=6)
async def test_killed_again_and_again_the_alerts_are_the_same(
    undisturbed: Run, kills: list[tuple[int, str]], per_fetch: int
) -> None:
    run = Run(per_fetch)

    for position, where in kills:
        await run.until(position, where)
    await run.to_the_end()

    assert run.alerts() == undisturbed.alerts()
    assert run.observed() == undisturbed.observed()


async def test_a_restart_with_nothing_new_publishes_nothing() -> None:
    run = Run()
    await run.to_the_end()
    published, consumed = run.published(), run.consumed

    await run.to_the_end()

    assert run.published() == published
    assert run.consumed > consumed, "the window was rebuilt"
    assert run.consumed < 2 * consumed, "but not from the beginning"
