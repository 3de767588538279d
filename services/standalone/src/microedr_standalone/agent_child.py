"""The agent as a child of ``microedr up``: its configuration, its process, its state.

The agent is its own program with its own privileges; here it is only written a configuration,
started, watched and stopped. The backend never depends on it.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import yaml

from microedr_chassis.backoff import Backoff
from microedr_chassis.lifecycle import Health
from microedr_standalone.errors import StartError
from microedr_standalone.leftover import die_with_parent, stop_leftover

_log = structlog.get_logger()

READY_TIMEOUT_S = 10.0
"""For the sensor to attach its programs; attaching takes a third of a second on an idle machine."""
STOP_TIMEOUT_S = 6.0
"""The agent flushes and drains within this; then it is killed, and its spool keeps the rest."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """What the agent of this machine is told."""

    root: Path
    tenant_id: str
    host_id: str
    ca_file: Path
    cert_file: Path
    key_file: Path
    trusted_key: bytes
    log_level: str

    @property
    def config(self) -> Path:
        """The agent's configuration file."""
        return self.root / "agent.yaml"

    @property
    def run_dir(self) -> Path:
        """Sockets and the status file."""
        return self.root / "run"

    @property
    def status(self) -> Path:
        """What the agent says of itself."""
        return self.run_dir / "status.json"

    def document(self, ingest_url: str) -> dict[str, object]:
        """The content of the configuration file."""
        return {
            "tenant_id": self.tenant_id,
            "host_id": self.host_id,
            "ingest": {
                "url": ingest_url,
                "mTLS": {
                    "cert_file": str(self.cert_file),
                    "key_file": str(self.key_file),
                    "ca_file": str(self.ca_file),
                },
            },
            "spool": {"dir": str(self.root / "spool")},
            "run_dir": str(self.run_dir),
            "state_dir": str(self.root / "state"),
            "log_level": self.log_level,
            "actions": {"enabled": True, "allow": ["kill_process"], "trusted_keys": [self.trusted_key.hex()]},
        }

    def write(self, ingest_url: str) -> None:
        """Write the configuration: root's, readable by the agent's unprivileged processes."""
        text = "# Written by `microedr up` at each start.\n" + yaml.safe_dump(
            self.document(ingest_url), sort_keys=False
        )
        self.config.write_text(text)
        self.config.chmod(0o644)


class AgentChild:
    """Runs ``microedr-agent run`` and starts it again when it ends. A ``Service``."""

    name = "agent"

    def __init__(self, files: AgentFiles, *, ingest_url: Callable[[], str]) -> None:
        self._files = files
        self._ingest_url = ingest_url  # known once ingest listens
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start it and wait until it collects or says why it does not; neither is an error.

        Raises:
            StartError: Its configuration cannot be written.
        """
        await stop_leftover(self._files.config)
        try:
            self._files.write(self._ingest_url())
            self._files.status.unlink(missing_ok=True)
        except OSError as error:
            raise StartError(f"{error.filename or self._files.root}: {error.strerror}") from error
        process = await self._spawn()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_TIMEOUT_S):
                # The agent tells by a file, so that it need not know who started it.
                while process.returncode is None and not self._sensor().keys() & {"collector", "reason"}:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(_POLL_S)

    async def serve(self) -> None:
        """Watch it until ``stop``; restart it with a growing pause when it ends."""
        backoff = Backoff(first_s=1.0, most_s=30.0)
        while (process := self._process) is not None and not self._stopping.is_set():
            status = await process.wait()
            if self._stopping.is_set():
                return
            pause_s = backoff.next_s()
            _log.error("agent_ended", status=status, restart_s=round(pause_s, 1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
                    return
            await self._spawn()

    async def stop(self) -> None:
        """Let it flush and drain, then make sure that it is gone. Idempotent."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            _log.error("agent_stop_timed_out", timeout_s=STOP_TIMEOUT_S)
            process.kill()
            await process.wait()

    def health(self) -> Health:
        """Whether the child lives; that it collects is told by its heartbeats."""
        runs = self._process is not None and self._process.returncode is None
        return Health(ok=runs, detail="" if runs else "the agent is not running")

    def describe(self) -> dict[str, str | None]:
        """For the ready file: its collector, or the reason there is none."""
        sensor = self._sensor()
        if collector := sensor.get("collector"):
            return {"collector": str(collector)}
        if self._process is None or self._process.returncode is not None:
            return {"collector": None, "reason": "the agent ended; its log lines say why"}
        return {"collector": None, "reason": str(sensor.get("reason") or "it has not said yet")}

    async def _spawn(self) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C in the terminal reaches `up` alone, which then stops the agent in order.
        self._process = await asyncio.create_subprocess_exec(
            *die_with_parent(),
            sys.executable,
            "-m",
            "microedr_agent",
            "run",
            "--config",
            str(self._files.config),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return self._process

    def _sensor(self) -> dict[str, object]:
        """What the agent's sensor announced; empty before it did."""
        try:
            status = json.loads(self._files.status.read_text())
            sensor: dict[str, object] = status["processes"]["sensor"]
        except (OSError, ValueError, KeyError):
            return {}
        return sensor


class NoAgent:
    """Stands where no agent can run or none is wanted. A ``Service``."""

    name = "agent"

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Say so."""
        _log.warning("agent_not_started", reason=self._reason)

    async def serve(self) -> None:
        """Wait."""
        await self._stopping.wait()

    async def stop(self) -> None:
        """End ``serve``."""
        self._stopping.set()

    def health(self) -> Health:
        """Nothing is wrong: this was asked for."""
        return Health(ok=True)

    def describe(self) -> dict[str, str | None]:
        """For the ready file."""
        return {"collector": None, "reason": self._reason}
