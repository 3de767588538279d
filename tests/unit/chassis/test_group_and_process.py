"""Services start in order, stop in reverse, and end together; a process says how it ended by its status."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from microedr_chassis.errors import ChassisError
from microedr_chassis.group import ServiceGroup
from microedr_chassis.lifecycle import Health, Progress
from microedr_chassis.process import serve_until


class _Actor:
    """A service that writes into a shared script what is done to it, and fails where it is told to."""

    def __init__(self, name: str, script: list[str], *, fail: str = "") -> None:
        self.name = name
        self._script = script
        self._fail = fail
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        self._play("start")

    async def serve(self) -> None:
        await asyncio.sleep(0)
        self._play("serve")
        await self._stopping.wait()

    async def stop(self) -> None:
        self._stopping.set()
        self._play("stop")
        if self._fail == "hang":
            await asyncio.sleep(60)

    def health(self) -> Health:
        return Health(ok=not self._fail, detail=self._fail)

    def _play(self, act: str) -> None:
        self._script.append(f"{act} {self.name}")
        if act == self._fail:
            raise ChassisError(f"{self.name} cannot {act}")


async def run(*actors: _Actor, stop: bool = True) -> None:
    stopping = asyncio.Event()
    if stop:
        asyncio.get_running_loop().call_later(0.05, stopping.set)
    await asyncio.wait_for(serve_until(ServiceGroup(actors, stop_timeout_s=0.2), stopping), 5)


async def test_services_start_in_order_and_stop_in_reverse() -> None:
    script: list[str] = []
    await run(_Actor("a", script), _Actor("b", script))

    assert script == ["start a", "start b", "serve a", "serve b", "stop b", "stop a"]


async def test_when_one_cannot_start_those_before_it_are_stopped() -> None:
    script: list[str] = []
    with pytest.raises(ChassisError, match="b cannot start"):
        await run(_Actor("a", script), _Actor("b", script, fail="start"), _Actor("c", script))

    assert script == ["start a", "start b", "stop a"]


async def test_when_one_cannot_go_on_all_are_stopped_in_order() -> None:
    script: list[str] = []
    with pytest.raises(ChassisError, match="a cannot serve"):
        await run(_Actor("a", script, fail="serve"), _Actor("b", script), stop=False)

    assert [act for act in script if act.startswith("stop")] == ["stop b", "stop a"]


@pytest.mark.parametrize("fail", ["stop", "hang"])
async def test_one_that_stops_badly_does_not_keep_the_others(fail: str) -> None:
    script: list[str] = []
    await run(_Actor("a", script), _Actor("b", script, fail=fail))

    assert script[-2:] == ["stop b", "stop a"]


async def test_a_stop_during_the_start_undoes_it() -> None:
    script: list[str] = []

    class Slow(_Actor):
        async def start(self) -> None:
            await asyncio.sleep(60)

    await run(_Actor("a", script), Slow("b", script))

    assert script == ["start a", "stop a"]


def test_a_group_is_well_when_all_are_and_names_those_that_are_not() -> None:
    group = ServiceGroup([_Actor("a", []), _Actor("b", [], fail="rot")])

    assert group.health() == Health(ok=False, detail="b: rot", alive=True)


def test_a_loop_that_does_not_come_round_is_stuck_and_one_that_waits_is_not() -> None:
    stuck, waiting = Progress(stale_after_s=-1), Progress()
    waiting.degrade("kafka is away")

    assert (stuck.health().ok, stuck.health().alive) == (False, False)
    assert (waiting.health().ok, waiting.health().alive) == (False, True)


_PROGRAM = """
import asyncio
from microedr_chassis.errors import ChassisError
from microedr_chassis.lifecycle import Health
from microedr_chassis.process import run_process
from microedr_chassis.settings import ServiceSettings

class Door:
    name = "door"
    def __init__(self):
        self.stopping = asyncio.Event()
    async def start(self):
        print("ready", flush=True)
    async def serve(self):
        {serve}
    async def stop(self):
        self.stopping.set()
        print("closed", flush=True)
    def health(self):
        return Health(ok=True)

run_process("door", ServiceSettings, lambda settings, bus, metrics: Door())
"""


def start(tmp_path: Path, serve: str = "await self.stopping.wait()", **environment: str) -> "subprocess.Popen[str]":
    program = tmp_path / "door.py"
    program.write_text(textwrap.dedent(_PROGRAM.format(serve=serve)))
    return subprocess.Popen(
        [sys.executable, program],
        env={"MICROEDR_BUS": f"sqlite://{tmp_path}/bus", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_process_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=10)

    assert (process.returncode, out) == (0, "closed\n")


def test_wrong_settings_end_in_one_line_and_status_2(tmp_path: Path) -> None:
    with start(tmp_path, MICROEDR_BUS_PARTITIONS="0") as process:
        _, err = process.communicate(timeout=10)

    assert process.returncode == 2
    assert err == "microedr-door: MICROEDR_BUS_PARTITIONS: Input should be greater than or equal to 1\n"


def test_a_service_that_cannot_go_on_ends_the_process_with_status_1(tmp_path: Path) -> None:
    with start(tmp_path, serve="raise ChassisError('the door is stuck')") as process:
        out, err = process.communicate(timeout=10)

    assert (process.returncode, out) == (1, "ready\nclosed\n")
    assert '"error": "the door is stuck"' in err
    assert "Traceback" not in err
