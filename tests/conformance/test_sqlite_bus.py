"""What only the SQLite bus promises: one file, several processes, a disk that fills, age and compaction."""

import asyncio
import os
import sqlite3
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from microedr_chassis.bus.api import Record, TopicPartition, TopicSpec
from microedr_chassis.bus.sqlite import SqliteBus
from microedr_chassis.bus.sqlite.reader import REAP_S
from microedr_chassis.bus.sqlite.schema import APPLICATION_ID
from microedr_chassis.errors import BusDamagedError, BusRetentionError, BusUnavailableError
from support.buses import PATIENCE_S, Backend, fetch, fetch_until, kill, numbers, positions, publish, records

HOST = b"host-1"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[SqliteBus]:
    """Looks after age and compaction all the time."""
    made = SqliteBus(tmp_path / "bus" / "bus.db", maintenance_s=0.02)
    await made.start()
    yield made
    await made.close()


async def first_offset(bus: SqliteBus, topic: str) -> int:
    tail = await bus.tail([topic], since_unix_ms=0)
    offset = await tail.offset_at(TopicPartition(topic, 0), 0)
    await tail.close()
    return offset


async def until_first_offset(bus: SqliteBus, topic: str, wanted: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := await first_offset(bus, topic)) != wanted:
        assert time.monotonic() < deadline_s, found
        await asyncio.sleep(0.01)


async def test_only_its_owner_can_read_the_file(bus: SqliteBus, tmp_path: Path) -> None:
    directory = tmp_path / "bus"

    assert [f"{path.stat().st_mode & 0o777:o}" for path in (directory, directory / "bus.db")] == ["700", "600"]


async def test_records_are_deleted_by_age_and_offsets_go_on(bus: SqliteBus) -> None:
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=0)])
    await publish(bus, records("events", 600, keys=[HOST]))
    await until_first_offset(bus, "events", 600)
    _, offset = await bus.publish(Record("events", HOST, b""))

    assert offset == 600


async def test_what_a_living_group_has_not_consumed_is_kept_however_old(bus: SqliteBus) -> None:
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=0)])
    subscription = await bus.subscribe(["events"], group="g", member="a")
    await publish(bus, records("events", 20, keys=[HOST]))
    fetched = await fetch(subscription, 20)
    await subscription.commit(positions(fetched[:10]))
    await until_first_offset(bus, "events", 10)
    await asyncio.sleep(0.2)

    assert await first_offset(bus, "events") == 10


async def test_a_group_that_comes_back_too_late_is_told_and_skips_nothing_silently(bus: SqliteBus) -> None:
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=0)])
    subscription = await bus.subscribe(["events"], group="g", member="a")
    await publish(bus, records("events", 20, keys=[HOST]))
    await subscription.commit(positions((await fetch(subscription, 20))[:10]))
    await subscription.close()
    await until_first_offset(bus, "events", 20)
    late = await bus.subscribe(["events"], group="g", member="a")

    with pytest.raises(BusRetentionError, match=r"goes on at offset 10 of events/0, but the log begins at 20"):
        await fetch(late, 1)


async def test_a_compacted_topic_keeps_the_newest_record_of_each_key(bus: SqliteBus) -> None:
    await bus.ensure_topics([TopicSpec("hosts", 1, retention_s=0, compacted=True)])
    await publish(bus, records("hosts", 1000, keys=[b"host-1", b"host-2", b"host-3"]))
    await until_first_offset(bus, "hosts", 997)
    tail = await bus.tail(["hosts"], since_unix_ms=0)

    assert numbers(await fetch(tail, 3)) == [997, 998, 999]


async def test_whoever_waits_is_woken_by_the_publisher_not_by_the_clock(tmp_path: Path) -> None:
    backend = Backend("sqlite", tmp_path, None)
    publisher = await backend.bus_with_topics()
    # A second bus on the file stands for a second process: they share nothing else.
    tail = await (await backend.bus()).tail([backend.topic()], since_unix_ms=0)
    waited_s = []
    for number in range(7):
        fetching = asyncio.create_task(tail.fetch(max_records=1, timeout_s=PATIENCE_S))
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        await publisher.publish(Record(backend.topic(), HOST, b"%d" % number))
        assert numbers(await fetching) == [number]
        waited_s.append(time.monotonic() - began_s)
    await backend.close()

    assert statistics.median(waited_s) < REAP_S / 2


async def test_another_process_is_heard(tmp_path: Path) -> None:
    backend = Backend("sqlite", tmp_path, None)
    bus = await backend.bus_with_topics()
    tail = await bus.tail([backend.topic()], since_unix_ms=0)
    child = await backend.child("publish", backend.topic())
    fetched = numbers(await fetch(tail, 200))
    await kill(child)
    await backend.close()

    assert fetched == list(range(len(fetched)))


async def test_the_traces_of_the_dead_are_removed(tmp_path: Path) -> None:
    backend = Backend("sqlite", tmp_path, None)
    bus = await backend.bus_with_topics()
    await publish(bus, records(backend.topic(), 5))
    subscription = await bus.subscribe([backend.topic()], group="g", member="heir")
    child = await backend.child("consume", backend.topic(), "g", "victim")
    await fetch_until([subscription], lambda _: 0 < len(subscription.assignment()) < 4)
    sessions = tmp_path / "bus.db.sessions"
    together = len(list(sessions.iterdir()))
    await kill(child)
    killed_at_s = time.monotonic()
    await fetch_until([subscription], lambda _: len(subscription.assignment()) == 4)
    took_over_s = time.monotonic() - killed_at_s
    await backend.close()

    assert together == 2
    assert took_over_s < 5
    assert list(sessions.iterdir()) == []


@pytest.mark.parametrize("content", [b"not a database, " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bus.db"
    path.write_bytes(content)
    bus = SqliteBus(path)
    with pytest.raises(BusDamagedError, match=str(path)):
        await bus.start()
    await bus.close()

    assert path.read_bytes() == content


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    bus = SqliteBus(path)
    with pytest.raises(BusDamagedError, match="another program"):
        await bus.start()
    await bus.close()

    assert path.read_bytes() == before


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE topics (x)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    bus = SqliteBus(path)
    with pytest.raises(BusDamagedError, match="format 99"):
        await bus.start()
    await bus.close()


async def test_damage_in_the_middle_is_told_to_whoever_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    bus = SqliteBus(path)
    await bus.start()
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=3600)])
    await publish(bus, [Record("events", HOST, b"x" * 50_000) for _ in range(100)])
    await bus.close()
    with path.open("r+b") as file:
        file.seek(65536)
        file.write(os.urandom(path.stat().st_size - 65536))
    bus = SqliteBus(path)
    with pytest.raises(BusDamagedError, match="is damaged"):
        await read_all(bus)
    await bus.close()


async def read_all(bus: SqliteBus) -> None:
    await bus.start()
    await fetch(await bus.tail(["events"], since_unix_ms=0), 100)


async def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    bus = SqliteBus(tmp_path / "file" / "bus.db")
    with pytest.raises(BusUnavailableError, match="bus"):
        await bus.start()
    await bus.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Eight megabytes."""
    if os.geteuid() != 0:
        pytest.fail("mounting a small disk needs root: run `make test` as root", pytrace=False)
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.root
async def test_a_full_disk_is_said_and_forgotten_when_there_is_room_again(small_disk: Path) -> None:
    bus = SqliteBus(small_disk / "bus.db")
    await bus.start()
    await bus.ensure_topics([TopicSpec("events", 1, retention_s=3600)])
    subscription = await bus.subscribe(["events"], group="g", member="a")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * 1024 * 1024))
    published: list[int] = []
    with pytest.raises(BusUnavailableError, match="full"):
        await publish_for_ever(bus, published)
    ballast.unlink()
    deadline_s = time.monotonic() + PATIENCE_S
    while len(published) < 120:
        assert time.monotonic() < deadline_s
        with suppress(BusUnavailableError):
            await bus.publish(Record("events", HOST, b"%d" % len(published)))
            published.append(len(published))
        await asyncio.sleep(0.01)
    fetched = numbers(await fetch(subscription, len(published)))
    await bus.close()

    assert fetched == published


async def publish_for_ever(bus: SqliteBus, published: list[int]) -> None:
    while True:
        await bus.publish(Record("events", HOST, b"%d" % len(published) + b" " * 20_000))
        published.append(len(published))
