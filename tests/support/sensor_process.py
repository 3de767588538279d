"""The real sensor as a process of its own, and the events it left in its spool."""

import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from microedr.batch import decode_batch
from microedr.frame import open_frame
from microedr.v1.event_pb2 import AgentEvent
from microedr_agent.spool.recovery import list_segments, scan_file
from microedr_agent.spool.segment import ScannedFrame

START_PATIENCE_S = 30.0
STOP_PATIENCE_S = 10.0


class SensorProcess:
    """``microedr-agent sensor`` on a fresh state directory; started and stopped as a context manager."""

    def __init__(self, state_dir: Path, **settings: object) -> None:
        self.state_dir = state_dir
        self.config_file = state_dir / "agent.yaml"
        self.spool_dir = state_dir / "spool"
        nowhere = str(state_dir / "none")
        config = {
            "tenant_id": "tenant-1",
            "host_id": "host-1",
            "run_dir": str(state_dir / "run"),
            "state_dir": str(state_dir / "state"),
            "spool": {"dir": str(self.spool_dir)},
            "ingest": {
                "url": "https://localhost:1",
                "mTLS": {"cert_file": nowhere, "key_file": nowhere, "ca_file": nowhere},
            },
        }
        self.config_file.write_text(yaml.safe_dump(config | settings))
        self.config_file.chmod(0o600)
        self.started: dict[str, Any] = {}
        """The line it logs once it works."""
        self._lines: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        command = (sys.executable, "-m", "microedr_agent", "sensor", "--config", self.config_file)
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.started = self._read_until("sensor_started")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def status(self, name: str) -> str:
        """A line of /proc/PID/status."""
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:"))

    def stop(self) -> int:
        """Ask it to end; returns its exit status. Idempotent."""
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(STOP_PATIENCE_S)
        if self._process.stderr is not None:
            self._process.stderr.close()
        return status

    def events(self) -> list[AgentEvent]:
        """Everything in the spool, in order of sequence."""
        found: list[AgentEvent] = []
        for name, path in list_segments(self.spool_dir):
            content = path.read_bytes()
            for frame in scan_file(path, name):
                if isinstance(frame, ScannedFrame):
                    sealed = content[frame.offset_bytes : frame.end_bytes]
                    found += decode_batch(open_frame(sealed)[1]).events
        return found

    def _read_until(self, event: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + START_PATIENCE_S
        stream = self._process.stderr
        assert stream is not None
        while time.monotonic() < deadline_s:
            ready, _, _ = select.select([stream], [], [], 1.0)
            line = stream.readline() if ready else b""
            if line.startswith(b"{"):
                self._lines.append(json.loads(line))
                if self._lines[-1]["event"] == event:
                    return self._lines[-1]
            if self._process.poll() is not None:
                break
        self._process.kill()
        pytest.fail(f"the sensor did not say {event}: {self._lines}")
