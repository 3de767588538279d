"""What everything stands on goes away and comes back: a clear line, nothing acked is lost, no restart is needed."""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from microedr import ids
from microedr.limits import PROCESS_TICK_NS
from microedr_agent.boot import read_boot_id
from microedr_chassis.address import join_address
from microedr_standalone.client import Client, find_endpoint
from microedr_standalone.errors import ApiError
from support.fleet import free_port
from support.kafka import Broker
from support.system import System

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert os.geteuid() == 0, "the whole system needs root for its agent: run the tests as root"
    path = tmp_path_factory.mktemp("outages")
    path.parent.chmod(0o755)  # the agent's unprivileged processes pass through
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def system(root: Path) -> Iterator[System]:
    (root / "one").mkdir()
    with System(root / "one") as running:
        yield running


def attack() -> str:
    """Do something that a built-in rule fires on; returns a word that only its alert has."""
    mark = f"mark-{uuid.uuid4().hex[:12]}"
    subprocess.run(["sh", "-c", f"echo {mark} | base64 -d | sh"], capture_output=True, check=False)
    return mark


def seen(system: System, mark: str) -> int:
    """How many alerts tell of it; 0 as well while nobody answers."""
    with suppress(ApiError), Client(find_endpoint(system.state_dir)) as api:
        return sum(mark in alert["summary"] for alert in api.items("/v1/alerts", {}, 1000))
    return 0


def until(is_so: Callable[[], object], what: str, log: System) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"{what} did not happen\n{log.tail()}"
        time.sleep(0.2)


def agent(system: System) -> dict[str, Any]:
    """What the agent says of its processes."""
    status: dict[str, Any] = json.loads((system.state_dir / "agent" / "run" / "status.json").read_text())
    return status


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_killed_postgres_comes_back_and_nothing_is_missing(system: System) -> None:
    assert system.process is not None
    children = Path(f"/proc/{system.process.pid}/task/{system.process.pid}/children").read_text().split()
    (postmaster,) = (int(pid) for pid in children if b"/bin/postgres" in Path("/proc", pid, "cmdline").read_bytes())
    before = attack()
    os.kill(postmaster, signal.SIGKILL)
    meanwhile = attack()
    until(lambda: seen(system, before) and seen(system, meanwhile), "both alerts", system)

    assert (seen(system, before), seen(system, meanwhile)) == (1, 1)
    assert '"postgres_exited"' in system.log.read_text()


@pytest.mark.parametrize("name", ["sensor", "uploader", "supervisor"])
def test_a_killed_process_of_the_agent_is_back_within_seconds(system: System, name: str) -> None:
    status = agent(system)
    pids = {each["pid"] for each in status["processes"].values()} | {status["pid"]}
    victim = status["pid"] if name == "supervisor" else status["processes"][name]["pid"]
    os.kill(victim, signal.SIGKILL)

    def collects() -> bool:
        with suppress(OSError, ValueError, KeyError):
            now = agent(system)
            fresh = {each["pid"] for each in now["processes"].values()} | {now["pid"]}
            return not fresh & {0, victim} and now["processes"]["sensor"]["collector"] == "ebpf"
        return False

    until(collects, f"a new {name}", system)
    mark = attack()
    until(lambda: seen(system, mark), "the alert", system)

    assert not is_alive(victim)
    if name == "supervisor":
        assert not any(map(is_alive, pids)), "its children end with it"


def test_what_must_not_be_killed_is_refused_with_the_reason(system: System) -> None:
    status = agent(system)
    kthreadd = next(int(p.parent.name) for p in Path("/proc").glob("[0-9]*/comm") if p.read_text() == "kthreadd\n")
    with subprocess.Popen(["sleep", "300"]) as bystander, subprocess.Popen(["sleep", "300"]) as ended:
        targets = {
            "kernel_thread": _target(system, kthreadd),
            "own_process": _target(system, status["pid"]),
            "other_process": {**_target(system, bystander.pid), "process_uid": "ab" * 16},
            "pid_reused": _target(system, bystander.pid, later_s=5),
            "gone": _target(system, ended.pid),
        }
        ended.kill()
        ended.wait()
        told = _ask(system, targets)
        lives = is_alive(bystander.pid)
        bystander.kill()

    assert {wanted: reason for wanted, (_, reason) in told.items()} == {wanted: wanted for wanted in targets}
    assert {state for state, _ in told.values()} == {"refused", "failed"}
    assert lives


def _ask(system: System, targets: dict[str, dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """State and reason of each request, as the list shows them once all are answered."""
    with Client(find_endpoint(system.state_dir)) as api:
        with pytest.raises(ApiError, match="never killed"):
            api.post("/v1/actions", _target(system, 1))
        asked = {wanted: api.post("/v1/actions", target)["action_id"] for wanted, target in targets.items()}

        def answers() -> dict[str, tuple[str, str]]:
            listed = {action["action_id"]: action for action in api.get("/v1/actions")["items"]}
            return {wanted: (listed[each]["state"], listed[each].get("reason", "")) for wanted, each in asked.items()}

        until(lambda: all(reason for _, reason in answers().values()), "every answer", system)
        return answers()


def _target(system: System, pid: int, *, later_s: int = 0) -> dict[str, Any]:
    ticks = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19])
    start_boot_ns = max(1, ticks * PROCESS_TICK_NS) + later_s * 10**9
    key = ids.process_key(system.ready["host_id"], read_boot_id())
    return {
        "type": "kill_process",
        "host_id": system.ready["host_id"],
        "pid": pid,
        "start_boot_ns": start_boot_ns,
        "process_uid": ids.process_uid(key, pid, start_boot_ns).hex(),
    }


def test_a_killed_system_leaves_no_agent_behind_and_the_next_goes_on(system: System) -> None:
    mark = attack()
    until(lambda: seen(system, mark), "the alert", system)
    left = agent(system)
    assert system.process is not None
    system.process.kill()
    system.process.wait()
    system.start()

    assert not is_alive(left["pid"])
    assert system.ready["agent"] == {"collector": "ebpf"}
    assert seen(system, mark) == 1
    again = attack()
    until(lambda: seen(system, again), "an alert of the new run", system)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_said_and_survived(root: Path) -> None:
    system = System(root / "full")
    system.root.mkdir()
    with small_disk(system.state_dir, "160m"), system:
        before = attack()
        until(lambda: seen(system, before), "the alert before", system)
        fill = system.state_dir / "fill"
        with suppress(OSError), fill.open("wb", buffering=0) as file:
            while file.write(bytes(65536)):
                pass
        meanwhile = attack()
        until(lambda: '"spool_unwritable"' in system.log.read_text(), "the line that says so", system)
        assert system.process is not None
        assert system.process.poll() is None
        fill.unlink()
        until(lambda: seen(system, meanwhile), "the alert of that time", system)
        after = attack()
        until(lambda: seen(system, after), "the alert after", system)

        assert [seen(system, mark) for mark in (before, meanwhile, after)] == [1, 1, 1]
        assert '"spool_writable_again"' in system.log.read_text()


@pytest.mark.kafka
def test_a_kafka_that_is_away_at_the_start_and_in_the_middle_costs_nothing(root: Path, system: System) -> None:
    system.stop()  # two on one host would both kill what the demo starts
    port = free_port()
    broker = Broker(root / "broker", port)
    system = System(root / "kafka", options=("--bus", f"kafka://{join_address('127.0.0.1', port)}"))
    system.root.mkdir()
    marks = []

    def bring() -> None:
        until(lambda: '"bus_unavailable"' in system.log.read_text(), "the line that it is away", system)
        broker.start()

    try:
        with system.starting(bring):
            marks.append(attack())
            until(lambda: seen(system, marks[0]), "the first alert", system)
            broker.stop()
            for _ in range(5):
                marks.append(attack())
                time.sleep(1)
            broker.start()
            until(lambda: all(seen(system, mark) for mark in marks), "every alert", system)
            system.json("demo")  # orders come down again too

            assert [seen(system, mark) for mark in marks] == [1] * len(marks)
            assert '"kafka_went_away"' in system.log.read_text()
    finally:
        broker.stop()
