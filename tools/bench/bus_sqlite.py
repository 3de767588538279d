"""Durable publishing on the SQLite bus: ``python -m tools.bench.bus_sqlite``.

One process publishes frames of 100 events, 28 KB each, of 64 hosts to 6 partitions, with at most 512 under way,
as ingest does; an event counts when its publish is confirmed, which is after the disk sync. The baseline is
the same frames appended to a plain file with one sync per 16: what the disk gives without a database.
"""

import asyncio
import os
import shutil
import time
from pathlib import Path

from tools.bench.report import ROOT, report

from microedr_chassis.bus.api import Record, TopicSpec
from microedr_chassis.bus.sqlite import SqliteBus
from microedr_chassis.bus.window import Place

TARGET_EVENTS_PER_S = 300_000
FRAME_EVENTS = 100
FRAME_BYTES = 28_000
HOSTS = 64
PARTITIONS = 6
UNDER_WAY = 512
REPETITIONS = 5
RUN_S = 3.0
BASELINE_GROUP = 16

DATA_DIR = ROOT / "build" / "bench-bus"
"""On the disk of the checkout: a memory file system has nothing to sync."""


def frames() -> list[Record]:
    """One per host; SQLite does not compress, so their content does not matter."""
    headers = {
        "tenant_id": b"default",
        "host_id": b"0" * 36,
        "epoch_id": b"1" * 36,
        "lane": b"0",
        "first_seq": b"1",
        "last_seq": b"100",
        "count": b"100",
        "schema_version": b"1",
    }
    return [Record("events", b"host-%d" % host, os.urandom(FRAME_BYTES), headers) for host in range(HOSTS)]


async def published_per_s(directory: Path, records: list[Record]) -> float:
    """Events confirmed per second of one run into a new file."""
    bus = SqliteBus(directory / "bus.db")
    await bus.start()
    await bus.ensure_topics([TopicSpec("events", PARTITIONS, retention_s=3600)])
    room = asyncio.Semaphore(UNDER_WAY)

    def confirm(future: "asyncio.Future[Place]") -> None:
        future.result()
        room.release()

    began_s = time.perf_counter()
    number = 0
    while time.perf_counter() - began_s < RUN_S:
        await room.acquire()
        bus.submit(records[number % HOSTS]).add_done_callback(confirm)
        number += 1
    for _ in range(UNDER_WAY):
        await room.acquire()
    took_s = time.perf_counter() - began_s
    await bus.close()
    return number * FRAME_EVENTS / took_s


def appended_per_s(directory: Path, records: list[Record]) -> float:
    """The baseline."""
    number = 0
    with (directory / "plain").open("wb", buffering=0) as file:
        began_s = time.perf_counter()
        while (took_s := time.perf_counter() - began_s) < RUN_S:
            file.write(b"".join(records[(number + more) % HOSTS].value for more in range(BASELINE_GROUP)))
            os.fdatasync(file.fileno())
            number += BASELINE_GROUP
    return number * FRAME_EVENTS / took_s


def main() -> None:
    """Measure and report."""
    records = frames()
    values = []
    baselines = []
    for repetition in range(REPETITIONS):
        shutil.rmtree(DATA_DIR, ignore_errors=True)
        DATA_DIR.mkdir(parents=True)
        try:
            baselines.append(appended_per_s(DATA_DIR, records))
            values.append(asyncio.run(published_per_s(DATA_DIR, records)))
        finally:
            shutil.rmtree(DATA_DIR)
        print(f"bus-sqlite {repetition + 1}/{REPETITIONS}: {values[-1]:,.0f} events/s", flush=True)
    report(
        "bus-sqlite",
        values,
        unit="events/s",
        target=TARGET_EVENTS_PER_S,
        higher_is_better=True,
        baseline=sorted(baselines)[len(baselines) // 2],
        baseline_is="the same frames appended to a plain file, one sync per 16",
        notes=f"{FRAME_EVENTS} events of {FRAME_BYTES // FRAME_EVENTS} bytes per frame, {UNDER_WAY} frames under way",
    )


if __name__ == "__main__":
    main()
