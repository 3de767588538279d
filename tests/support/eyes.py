"""The sensor's programs on the running kernel, and what they see as events; for tests that need root."""

import os
import time
from collections.abc import Callable

import pytest

from microedr.ids import process_key
from microedr.v1.event_pb2 import AgentEvent
from microedr_agent.errors import EbpfUnavailableError
from microedr_agent.sensor import procfs
from microedr_agent.sensor.clock import WallClock
from microedr_agent.sensor.decode import decode
from microedr_agent.sensor.encode import Encoder
from microedr_agent.sensor.loader import load_probes
from microedr_agent.sensor.processes import ProcessTable
from microedr_agent.sensor.users import Users

PROC_BYTES = 4 * 1024 * 1024
NET_BYTES = 1024 * 1024
PATIENCE_S = 10.0


def require_root() -> None:
    """Fail with the way to get it."""
    if os.geteuid() != 0:
        pytest.fail("needs root on Linux with eBPF: run `sudo make test-kernel`")


class Eyes:
    """Loaded programs; every event they gave since, in the order of their rings."""

    def __init__(self) -> None:
        require_root()
        try:
            loaded = load_probes({"proc": PROC_BYTES, "net": NET_BYTES})
        except EbpfUnavailableError as error:
            pytest.fail(f"no eBPF here: {error}")
        self.failures = loaded.failures
        self.probes = loaded.probes
        self._attached = list(loaded.probes)
        self.samples: list[bytes] = []
        self.events: list[AgentEvent] = []
        table = ProcessTable(process_key("host-1", "boot-1"))
        procfs.remember_running(table)
        self._encoder = Encoder(table, Users(), WallClock())

    def look(self) -> list[AgentEvent]:
        """Take what is in the rings; returns all events so far."""
        for probe in self.probes:
            for sample in probe.ring.drain(1_000_000):
                self.samples.append(sample)
                self.events.append(AgentEvent.FromString(self._encoder.encode(decode(sample), len(self.samples))))
        return self.events

    def wait_for(self, matches: Callable[[AgentEvent], bool]) -> AgentEvent:
        """The first event that matches, which may still be on its way."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            found = next((event for event in self.look() if matches(event)), None)
            if found is not None:
                return found
            time.sleep(0.02)
        pytest.fail(f"no such event among {len(self.events)}")

    def of(self, pid: int, kind: str) -> AgentEvent:
        """The event of this kind of this process."""
        return self.wait_for(lambda event: event.process.pid == pid and event.WhichOneof("kind") == kind)

    def close(self) -> None:
        """Stop the programs; what is in the rings can still be looked at. Idempotent."""
        while self._attached:
            self._attached.pop().detach()
