"""The sensor as it runs: nothing is lost in a storm, the account balances, and no privilege is left."""

import os
import socket
from pathlib import Path

import pytest

from microedr.v1.event_pb2 import AgentEvent
from support.eyes import require_root
from support.sensor_process import SensorProcess

pytestmark = pytest.mark.root
EXECS = 2000
AT_ONCE = 8


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def storm(count: int) -> None:
    """Start ``count`` programs as fast as one process can, each with an argument of its own."""
    running = 0
    for number in range(count):
        os.posix_spawn("/bin/true", ["true", f"storm-{number}"], {"HOME": "/"})
        running += 1
        if running == AT_ONCE:
            os.wait()
            running -= 1
    for _ in range(running):
        os.wait()


def kinds(events: list[AgentEvent]) -> list[str]:
    return [str(event.WhichOneof("kind")) for event in events]


def test_a_storm_of_execs_loses_nothing_and_the_account_balances(tmp_path: Path) -> None:
    with SensorProcess(tmp_path) as sensor:
        storm(EXECS)
        status = sensor.stop()
    events = sensor.events()
    told = {argument for event in events for argument in event.proc_exec.argv if argument.startswith("storm-")}
    beat = events[-1].agent_heartbeat

    assert status == 0
    assert len(told) == EXECS
    assert [event.seqno for event in events] == list(range(1, len(events) + 1))
    assert (beat.phase, beat.ring_dropped_total) == ("stop", 0)
    assert beat.kernel_seen_total == beat.emitted_total == len(events) - 1
    assert beat.emitted_total == beat.acked_total + beat.spool_pending_events + beat.evicted_total


def test_rings_too_small_are_told_to_the_last_event(tmp_path: Path) -> None:
    with SensorProcess(tmp_path, rings={"proc_kb": 64, "net_kb": 64}) as sensor:
        os.kill(sensor.pid, 19)  # stopped, it cannot read
        storm(300)
        os.kill(sensor.pid, 18)
        sensor.stop()
    events = sensor.events()
    lost = sum(event.loss.count for event in events if event.HasField("loss"))
    beat = events[-1].agent_heartbeat

    assert lost == beat.ring_dropped_total > 0
    assert beat.kernel_seen_total == beat.emitted_total + beat.ring_dropped_total


def test_it_keeps_no_privilege_and_no_network(tmp_path: Path) -> None:
    with SensorProcess(tmp_path) as sensor:
        facts = {
            name: sensor.status(name)
            for name in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
        }
        own_network = Path("/proc/self/ns/net").readlink() == Path(f"/proc/{sensor.pid}/ns/net").readlink()
        interfaces = Path(f"/proc/{sensor.pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]

    assert facts["Uid"].split() == ["61480"] * 4
    assert facts["Gid"].split() == ["61480"] * 4
    assert facts["Groups"] == ""
    assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert own_network is False
    assert [line.split(":")[0].strip() for line in interfaces] in (["lo"], [])


def test_its_files_are_its_own_and_the_uploaders_to_read(tmp_path: Path) -> None:
    with SensorProcess(tmp_path) as sensor:
        storm(1)
    segment = next(sensor.spool_dir.glob("*.seg")).stat()

    assert (segment.st_uid, segment.st_gid, segment.st_mode & 0o777) == (61480, 61480, 0o640)


def test_frames_name_the_host_once_and_processes_for_ever(tmp_path: Path) -> None:
    with SensorProcess(tmp_path) as sensor:
        storm(3)
    events = sensor.events()
    executed = next(event for event in events if "storm-0" in event.proc_exec.argv)
    exited = next(event for event in events if event.HasField("proc_exit") and event.process == executed.process)
    first = events[0]

    assert (first.host.host_id, first.host.hostname) == ("host-1", socket.gethostname())
    assert (first.host.os, first.host.kernel_version, first.agent.collector) == ("linux", os.uname().release, "ebpf")
    assert first.agent_heartbeat.phase == "start"
    assert exited.process_uid == executed.process_uid
    assert executed.process.parent_cmdline
    assert executed.process.ppid == os.getpid()


def test_a_restart_begins_a_new_epoch_behind_the_old_events(tmp_path: Path) -> None:
    with SensorProcess(tmp_path):
        storm(2)
    with SensorProcess(tmp_path) as sensor:
        pass
    phases = [event.agent_heartbeat.phase for event in sensor.events() if event.HasField("agent_heartbeat")]

    assert phases == ["start", "stop", "start", "stop"]


def test_without_ebpf_it_runs_and_says_why(tmp_path: Path) -> None:
    with SensorProcess(tmp_path, collectors={"linux": {"ebpf": False}}) as sensor:
        storm(1)
    events = sensor.events()

    assert sensor.started["collector"] == "none"
    assert kinds(events) == ["agent_heartbeat", "agent_heartbeat"]
    assert events[0].agent_heartbeat.collector == "none"
    assert any("collectors.linux.ebpf" in spot for spot in events[0].agent_heartbeat.blind_spots)
