"""The supervisor keeps its children alive and in their rooms, stops them in order, and answers orders itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from microedr.limits import PROCESS_TICK_NS
from microedr.v1.action_pb2 import ActionResult, ActionState
from microedr_agent.boot import read_boot_id
from microedr_agent.ipc import Channel, connect
from microedr_agent.ipc_messages import ActionOrder, ActionReport, ActionReportAck, SessionNonce
from microedr_agent.responder.kill import read_facts
from support import agent_children
from support.orders import KEY, OTHER_KEY, Order

pytestmark = pytest.mark.root

_LONGEST_S = 10.0


class _Agent:
    def __init__(self, state_dir: Path, *words: str) -> None:
        self.state_dir = state_dir
        tests = Path(agent_children.__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, agent_children.__file__, state_dir, bytes(KEY.verify_key).hex(), *words],
            env={**os.environ, "PYTHONPATH": str(tests)},
        )

    def status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.state_dir / "run" / "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"processes": {"sensor": {}, "uploader": {}}}
        return status

    def child(self, name: str) -> dict[str, Any]:
        child: dict[str, Any] = self.status()["processes"][name]
        return child

    def connect(self) -> Channel:
        return connect(self.state_dir / "run" / "responder.sock", allowed_uids=[])


ResultT = TypeVar("ResultT")


def until(get: Callable[[], ResultT | None]) -> ResultT:
    """The first result that is not empty."""
    deadline_s = time.monotonic() + _LONGEST_S
    while time.monotonic() < deadline_s:
        result = get()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError("it did not come about in time")


def _receive(channel: Channel) -> Any:
    return until(channel.receive)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Agent]]:
    if os.geteuid() != 0:
        pytest.fail("needs root: run the tests as root, or in the container that `make test` describes")
    tmp_path.chmod(0o755)
    agents: list[_Agent] = []

    def start_agent(*words: str) -> _Agent:
        agents.append(_Agent(tmp_path, *words))
        return agents[-1]

    yield start_agent
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture
def agent(start: Callable[..., _Agent]) -> _Agent:
    agent = start()
    until(lambda: all("exec" in agent.child(name) for name in ("sensor", "uploader")))
    return agent


def test_children_live_in_their_rooms(agent: _Agent) -> None:
    sensor, uploader = agent.child("sensor"), agent.child("uploader")

    for child, uid in ((sensor, agent_children.SENSOR_UID), (uploader, agent_children.UPLOADER_UID)):
        assert child["seccomp_problem"] == ""
        assert (child["uid"], child["groups"], child["capabilities"]) == (uid, [], "0" * 16)
        for forbidden in ("exec", "fork", "raw_socket", "root_again"):
            assert child[forbidden] == "Operation not permitted", forbidden
    assert sensor["internet_socket"] == "Operation not permitted"
    assert uploader["internet_socket"] == "ok"
    assert set(uploader["interfaces"]) == {entry.name for entry in Path("/sys/class/net").iterdir()}


def test_the_responder_has_no_network_and_cannot_gain_anything(agent: _Agent) -> None:
    proc = Path("/proc", str(agent.process.pid))
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text(encoding="ascii").splitlines())

    assert (proc / "ns" / "net").readlink() != Path("/proc/self/ns/net").readlink()
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_responder_stays_small(agent: _Agent) -> None:
    status = Path("/proc", str(agent.process.pid), "status").read_text(encoding="ascii")
    rss_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    assert rss_kb <= 20 * 1024


@pytest.mark.parametrize("name", ["sensor", "uploader"])
def test_a_killed_child_comes_back_in_its_room(agent: _Agent, name: str) -> None:
    pid = agent.child(name)["pid"]
    os.kill(pid, signal.SIGKILL)

    again = until(lambda: child if (child := agent.child(name))["pid"] not in {0, pid} and "exec" in child else None)
    assert (again["restarts"], again["last_exit"]) == (1, "SIGKILL")
    assert again["exec"] == "Operation not permitted"
    assert again["internet_socket"] == ("ok" if name == "uploader" else "Operation not permitted")


def test_the_sensor_is_stopped_first_and_the_uploader_when_it_has_ended(agent: _Agent) -> None:
    began_s = time.monotonic()
    agent.process.terminate()

    assert agent.process.wait(8) == 0
    sensor, uploader = agent.child("sensor"), agent.child("uploader")
    assert sensor["asked_to_stop_s"] < sensor["ended_s"] <= uploader["asked_to_stop_s"]
    assert time.monotonic() - began_s < 3


def test_children_that_do_not_stop_are_gone_within_8_s(start: Callable[..., _Agent]) -> None:
    agent = start("hang")
    pids = until(lambda: [c["pid"] for n in ("sensor", "uploader") if (c := agent.child(n)).get("hangs")][:2])
    agent.process.send_signal(signal.SIGINT)

    assert agent.process.wait(8) == 0
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)


def test_children_end_with_their_supervisor(agent: _Agent) -> None:
    pids = [agent.child(name)["pid"] for name in ("sensor", "uploader")]
    agent.process.kill()
    agent.process.wait()

    until(lambda: not any(Path("/proc", str(pid), "exe").exists() for pid in pids))


def test_an_order_that_came_over_the_socket_is_carried_out_and_reported_until_it_is_taken(agent: _Agent) -> None:
    victim = subprocess.Popen([shutil.copy("/bin/sleep", agent.state_dir / "victim"), "60"])
    nonce = until(lambda: _greeting(agent))
    channel = agent.connect()
    assert _receive(channel) == SessionNonce(nonce)
    order = _order(victim.pid, nonce).sign()
    channel.send(ActionOrder(order))

    report = _receive(channel)
    assert victim.wait(5) == -9
    assert isinstance(report, ActionReport)
    assert ActionResult.FromString(report.result).state == ActionState.ACTION_STATE_EXECUTED

    channel.close()
    channel = agent.connect()
    assert _receive(channel) == SessionNonce(nonce)
    assert _receive(channel) == report
    channel.send(ActionReportAck(report.number))
    channel.close()
    channel = agent.connect()
    assert _receive(channel) == SessionNonce(nonce)
    time.sleep(0.1)
    assert channel.receive() is None
    channel.send(ActionOrder(order))
    again, refusal = (ActionResult.FromString(_receive(channel).result) for _ in range(2))
    assert again == ActionResult.FromString(report.result)
    assert (refusal.state, refusal.reason) == (ActionState.ACTION_STATE_REFUSED, "replayed")
    channel.close()


def test_refusals_are_reported_and_the_agent_never_kills_its_own(agent: _Agent) -> None:
    nonce = until(lambda: _greeting(agent))
    channel = agent.connect()
    _receive(channel)
    own = [agent.process.pid, agent.child("sensor")["pid"], agent.child("uploader")["pid"]]
    orders = [_order(pid, nonce, number) for number, pid in enumerate(own, 1)]
    forged = Order(key=OTHER_KEY, session_nonce=nonce)

    reasons = []
    for raw in (*(order.sign() for order in orders), forged.sign(), b"garbage"):
        channel.send(ActionOrder(raw))
        report = _receive(channel)
        assert isinstance(report, ActionReport)
        reasons.append(ActionResult.FromString(report.result).reason)

    channel.close()
    assert reasons == ["own_process"] * 3 + ["bad_signature", "malformed"]


def test_a_key_under_which_anyone_can_sign_stops_the_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, agent_children.__file__, tmp_path, "01" + "00" * 31],
        env={**os.environ, "PYTHONPATH": str(Path(agent_children.__file__).parents[1])},
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert ended.returncode == 2
    assert b"small order" in ended.stderr


def _greeting(agent: _Agent) -> bytes | None:
    try:
        channel = agent.connect()
    except OSError:
        return None
    greeting = _receive(channel)
    channel.close()
    assert isinstance(greeting, SessionNonce)
    return greeting.nonce


def _order(pid: int, nonce: bytes, number: int = 7) -> Order:
    facts, now_unix_ns = read_facts(pid), time.time_ns()
    return Order(
        action_id=f"00000000-0000-0000-0000-{number:012d}",
        boot_id=read_boot_id(),
        session_nonce=nonce,
        sequence=number,
        not_before_unix_ns=now_unix_ns - 10**9,
        expires_unix_ns=now_unix_ns + 60 * 10**9,
        pid=pid,
        start_boot_ns=facts.start_ticks * PROCESS_TICK_NS,
        exe=facts.exe,
    )
