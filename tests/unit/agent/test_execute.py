"""A signed order ends exactly the process it names, at most once, and every way out is a result."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from microedr.limits import PROCESS_TICK_NS
from microedr_agent.errors import ActionFailedError
from microedr_agent.log import Log
from microedr_agent.responder.action import ActionState, ActionType
from microedr_agent.responder.execute import Executor, RateLimit
from microedr_agent.responder.guardrails import Guardrails
from microedr_agent.responder.journal import Journal
from microedr_agent.responder.keyring import Keyring
from microedr_agent.responder.kill import hold_process, read_facts
from microedr_agent.responder.verify import Identity
from support.orders import HOST, KEY, NONCE, NOW_UNIX_NS, OTHER_KEY, PROCESS_KEY, SECOND_NS, TENANT, Order


@dataclass
class _Rig:
    path: Path
    most_per_minute: int = 10
    own_pids: set[int] = field(default_factory=lambda: {os.getpid()})
    now_unix_ns: int = NOW_UNIX_NS

    def __post_init__(self) -> None:
        self.journal = Journal(str(self.path / "journal"), now_unix_ns=self.now_unix_ns)
        self.executor = Executor(
            identity=Identity(TENANT, HOST, NONCE),
            process_key=PROCESS_KEY,
            keyring=Keyring([bytes(KEY.verify_key)]),
            allowed_types=[ActionType.KILL_PROCESS],
            guardrails=lambda: Guardrails(own_pids=self.own_pids),
            journal=self.journal,
            rate=RateLimit(self.most_per_minute),
            log=Log("test", "error"),
            clock_unix_ns=lambda: self.now_unix_ns,
            clock_s=lambda: self.now_unix_ns / SECOND_NS,
        )

    def execute(self, order: Order) -> tuple[str, str]:
        result = self.executor.execute(order.sign())
        assert result.action_id == order.action_id
        return result.state.name, result.reason


@pytest.fixture
def rig(tmp_path: Path) -> _Rig:
    return _Rig(tmp_path)


Victims = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    """Starts sleeping processes whose executable is ours to name."""
    program = tmp_path / "victim"
    shutil.copy("/bin/sleep", program)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([program, "60"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _against(pid: int, number: int = 7) -> Order:
    facts = read_facts(pid)
    return replace(
        Order(),
        action_id=f"00000000-0000-0000-0000-{number:012d}",
        sequence=number,
        pid=pid,
        start_boot_ns=facts.start_ticks * PROCESS_TICK_NS + 1234,
        exe=facts.exe,
    )


def test_the_named_process_is_killed(rig: _Rig, victims: Victims) -> None:
    victim = victims()

    assert rig.execute(_against(victim.pid)) == ("EXECUTED", "")
    assert victim.wait(5) == -9


def test_a_process_whose_file_was_deleted_is_killed(rig: _Rig, victims: Victims, tmp_path: Path) -> None:
    victim = victims()
    order = _against(victim.pid)
    (tmp_path / "victim").unlink()

    assert rig.execute(order) == ("EXECUTED", "")
    assert victim.wait(5) == -9


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        pytest.param({"start_boot_ns": PROCESS_TICK_NS}, "pid_reused", id="other start"),
        pytest.param({"process_uid": b"p" * 16}, "other_process", id="other process_uid"),
        pytest.param({"exe": "/bin/sleep"}, "exe_changed", id="other executable"),
        pytest.param({"key": OTHER_KEY}, "bad_signature", id="forged"),
        pytest.param({"host_id": "host-b"}, "other_host", id="for another host"),
    ],
)
def test_another_process_lives_on(rig: _Rig, victims: Victims, flaw: dict[str, Any], reason: str) -> None:
    victim = victims()

    assert rig.execute(replace(_against(victim.pid), **flaw)) == ("REFUSED", reason)
    assert victim.poll() is None


def test_start_times_one_tick_apart_are_of_two_processes(rig: _Rig, victims: Victims) -> None:
    victim = victims()
    order = _against(victim.pid)

    for ticks in (-1, 1):
        wrong = replace(order, start_boot_ns=order.start_boot_ns + ticks * PROCESS_TICK_NS)
        assert rig.execute(wrong) == ("REFUSED", "pid_reused")
    assert victim.poll() is None


def test_a_process_that_has_ended_is_gone(rig: _Rig, victims: Victims) -> None:
    victim = victims()
    order = _against(victim.pid)
    victim.kill()

    # Not waited for yet: a zombie.
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
    assert rig.execute(order) == ("FAILED", "gone")
    victim.wait()
    assert rig.execute(order) == ("FAILED", "gone")


def test_a_held_process_that_ends_cannot_be_mistaken_for_another(victims: Victims) -> None:
    victim = victims()

    with hold_process(victim.pid) as held:
        victim.kill()
        victim.wait()
        with pytest.raises(ActionFailedError) as caught:
            held.kill()

    assert caught.value.reason == "gone"


def test_pid_1_is_never_killed(rig: _Rig) -> None:
    assert rig.execute(_against(1)) == ("REFUSED", "pid_1")


def test_we_never_kill_ourselves(rig: _Rig) -> None:
    assert rig.execute(_against(os.getpid())) == ("REFUSED", "own_process")


def test_a_kernel_thread_is_never_killed(rig: _Rig) -> None:
    threads = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_kernel_thread(int(p.name))]
    assert threads, "no kernel thread can be seen: run the tests in the host's pid namespace"

    assert rig.execute(replace(_against(threads[0]), exe="")) == ("REFUSED", "kernel_thread")


def _is_kernel_thread(pid: int) -> bool:
    try:
        return read_facts(pid).is_kernel_thread
    except ActionFailedError:
        return False


def test_an_order_is_carried_out_once(rig: _Rig, victims: Victims) -> None:
    first, second = victims(), victims()
    order = _against(first.pid)
    rig.execute(order)

    assert rig.execute(order) == ("REFUSED", "replayed")
    other_id = replace(_against(second.pid, 8), sequence=order.sequence)
    assert rig.execute(other_id) == ("REFUSED", "replayed")
    assert second.poll() is None


def test_a_refused_order_leaves_nothing_behind(rig: _Rig, victims: Victims) -> None:
    victim = victims()
    order = _against(victim.pid)
    early = replace(order, not_before_unix_ns=NOW_UNIX_NS + 1)

    assert rig.execute(early) == ("REFUSED", "not_yet_valid")
    rig.now_unix_ns += 2
    assert rig.execute(early) == ("EXECUTED", "")


def test_an_order_that_came_too_late_is_expired(rig: _Rig) -> None:
    assert rig.execute(replace(Order(), expires_unix_ns=NOW_UNIX_NS)) == ("EXPIRED", "expired")


def test_more_kills_than_allowed_in_a_minute_are_refused(tmp_path: Path, victims: Victims) -> None:
    rig = _Rig(tmp_path, most_per_minute=2)
    rest = [victims() for _ in range(3)]

    assert [rig.execute(_against(v.pid, n))[0] for n, v in enumerate(rest, 1)] == ["EXECUTED", "EXECUTED", "REFUSED"]
    assert rest[2].poll() is None
    rig.now_unix_ns += 60 * SECOND_NS
    assert rig.execute(_against(rest[2].pid, 9)) == ("EXECUTED", "")


def test_without_a_durable_intent_nothing_is_done(rig: _Rig, victims: Victims, tmp_path: Path) -> None:
    victim = victims()
    rig.journal.close()
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    rig.journal._path = str(tmp_path / "gone" / "journal")

    assert rig.execute(_against(victim.pid)) == ("REFUSED", "journal_failed")
    assert victim.poll() is None


_CRASH = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from typing import Any
from support.orders import Order
from microedr_agent.responder.action import read_action
from microedr_agent.responder.journal import Journal
journal = Journal(sys.argv[1], now_unix_ns=1)
journal.record_intent(read_action(Order().action().SerializeToString()), now_unix_ns=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_between_intent_and_act_is_reported_once_and_never_repeated(tmp_path: Path) -> None:
    script = _CRASH.format(paths=[str(Path(__file__).parents[2])])
    crashed = subprocess.run([sys.executable, "-c", script, tmp_path / "journal"], check=False)
    assert crashed.returncode == -9

    rig = _Rig(tmp_path)
    (result,) = rig.journal.unreported()

    assert (result.action_id, result.state, result.reason) == (
        Order().action_id,
        ActionState.UNKNOWN,
        "interrupted",
    )
    assert rig.execute(Order()) == ("REFUSED", "replayed")
    rig.journal.record_ack(result.action_id)
    assert _Rig(tmp_path).journal.unreported() == []
    assert _Rig(tmp_path).execute(Order()) == ("REFUSED", "replayed")
