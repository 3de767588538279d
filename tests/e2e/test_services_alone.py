"""Every service runs alone on Kafka; killed one after the other, they lose nothing and double nothing."""

import asyncio
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from microedr import headers
from microedr.batch import decode_batch
from microedr_alerts.embedded import EmbeddedPostgres
from microedr_chassis.bus import topics
from microedr_chassis.bus.connect import connect_bus
from microedr_standalone import demo
from support.fleet import HOST_ID, Fleet
from support.kafka import Broker
from support.postgres import as_owner, dsn_of, of_database

pytestmark = [pytest.mark.root, pytest.mark.kafka, pytest.mark.timeout(600)]

EXECS = 6_700
"""Each is a fork, an exec and an exit: 20,100 events."""
MARK_EVERY = 67
"""Every so many of them is one that a built-in rule fires on: 100 alerts."""
SETTLE_TIMEOUT_S = 180.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres_server: EmbeddedPostgres) -> Iterator[Fleet]:
    assert os.geteuid() == 0, "the agent of this test loads eBPF programs: run the tests as root"
    root = tmp_path_factory.mktemp("fleet")
    root.chmod(0o755)
    broker = Broker(root / "broker")
    servers = broker.start()
    asyncio.run(as_owner(of_database(postgres_server.target, "postgres"), "CREATE DATABASE fleet"))
    # The server's socket is reached through a descriptor of this process; others name the process.
    dsn = dsn_of(of_database(postgres_server.target, "fleet")).replace("/proc/self/", f"/proc/{os.getpid()}/")
    fleet = Fleet(root, f"kafka://{servers}?session_timeout_s=6", dsn)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
        broker.stop()


def test_the_demo_attack_is_detected_killed_and_proven(fleet: Fleet) -> None:
    steps: list[demo.Step] = []
    with fleet.client() as client:
        alert = demo.run(client, HOST_ID, steps.append)

    assert [step.name for step in steps][-1] == "action observed"
    assert alert["actions"][0]["proof_event_ids"], "the exit event is the proof"


def test_killing_each_service_in_turn_changes_no_alert_and_loses_no_event(fleet: Fleet, tmp_path: Path) -> None:
    began_unix_ns = time.time_ns()
    load = start_load(tmp_path)
    victims = ("ingest", "detector-1", "correlator", "actioner", "alerts", "detector-2")
    for name in victims:
        program = fleet.programs[name]
        time.sleep(1.0)
        program.kill()
        time.sleep(1.0)
        program.start()
    assert load.wait(timeout=300) == 0
    for name in victims:
        fleet.programs[name].wait_ready()

    marks = {f"mark-{number}-of-the-run" for number in range(0, EXECS, MARK_EVERY)}
    raised = wait_for_alerts(fleet, marks, began_unix_ns)

    assert raised == Counter(marks), "each mark is one alert: none is missing, none is doubled"
    places = asyncio.run(published_places(fleet.bus))
    for epoch, sequences in places.items():
        assert sequences == set(range(1, max(sequences) + 1)), f"sequences of {epoch} are missing"
    assert sum(map(len, places.values())) >= 3 * EXECS


def start_load(directory: Path) -> subprocess.Popen[bytes]:
    """Run ``EXECS`` programs, some of them marked as what the rule for miners looks for."""
    script = directory / "load.sh"
    script.write_text(
        "i=0\n"
        f"while [ $i -lt {EXECS} ]; do\n"
        f"  if [ $((i % {MARK_EVERY})) = 0 ]; then\n"
        "    /bin/true --url stratum+tcp://mark-$i-of-the-run:3333\n"
        "  else\n"
        "    /bin/true $i\n"
        "  fi\n"
        "  i=$((i + 1))\n"
        "done\n"
    )
    return subprocess.Popen(["/bin/sh", str(script)], stdin=subprocess.DEVNULL)


def wait_for_alerts(fleet: Fleet, marks: set[str], since_unix_ns: int) -> Counter[str]:
    """How many alerts each mark has, once every mark has one or time is up, and nothing came for a while."""
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    with fleet.client() as client:
        while True:
            raised: Counter[str] = Counter()
            for alert in client.items("/v1/alerts", {"since": str(since_unix_ns)}, 5_000):
                raised.update(mark for mark in marks if f"/{mark}:" in alert["entities"]["cmdline"])
            if set(raised) == marks:
                time.sleep(3)  # a doubled one would still come
                return Counter(
                    mark
                    for alert in client.items("/v1/alerts", {"since": str(since_unix_ns)}, 5_000)
                    for mark in marks
                    if f"/{mark}:" in alert["entities"]["cmdline"]
                )
            if time.monotonic() > deadline_s:
                return raised
            time.sleep(1)


async def published_places(url: str) -> dict[str, set[int]]:
    """Sequences on the bus, per epoch."""
    bus = connect_bus(url)
    await bus.start()
    places: defaultdict[str, set[int]] = defaultdict(set)
    try:
        tail = await bus.tail([topics.EVENTS], since_unix_ms=0)
        while records := await tail.fetch(max_records=500, timeout_s=5):
            for record in records:
                events = decode_batch(record.value).events
                places[record.headers[headers.EPOCH].decode()].update(event.seqno for event in events)
        await tail.close()
    finally:
        await bus.close()
    return places
