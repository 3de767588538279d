"""Every service as a process of its own, on a real Kafka and a real PostgreSQL, with a real agent."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from microedr_actioner.signer import ensure_signing_key
from microedr_chassis.identity import ensure_pki
from microedr_standalone.client import Client, Endpoint
from microedr_standalone.demo import RULE_ID

HOST_ID = "fleet-host"
TENANT = "default"
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Program:
    """One process that can be killed and started again."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    metrics_port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; ``wait_ready`` tells when it works."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return when /readyz says that the service does its work."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not self._ready():
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline_s, f"{self.name} was not ready in {READY_TIMEOUT_S} s:\n{self.tail()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return -signal.SIGKILL
        return self.process.returncode

    def metric(self, name: str) -> float:
        """Sum of the series of one metric."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def tail(self, lines: int = 30) -> str:
        """The end of its log, for a failure's message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _ready(self) -> bool:
        url = f"http://127.0.0.1:{self.metrics_port}/readyz"
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as page:
            return bool(page.status == 200)
        return False


@dataclass
class Fleet:
    """The whole backend and one agent. ``bus`` is a kafka:// URL, ``dsn`` a PostgreSQL."""

    root: Path
    bus: str
    dsn: str
    programs: dict[str, Program] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pki = ensure_pki(self.root / "pki", tenant_id=TENANT, host_id=HOST_ID)
        self.trusted_key = ensure_signing_key(self.root / "signing-key")
        self.ingest_port = free_port()
        self.api_port = free_port()
        self.token_file = self.root / "api-token"
        self._add("alerts", "alerts", self._alerts())
        self._add("ingest", "ingest", self._ingest())
        self._add("detector-1", "detector", {})
        self._add("detector-2", "detector", {})
        self._add("correlator", "correlator", {"MICROEDR_CORRELATOR_ALERTS_PER_RULE_AND_HOST": "10000"})
        actioner = {
            "MICROEDR_ACTIONER_SIGNING_KEY_FILE": str(self.root / "signing-key"),
            "MICROEDR_ACTIONER_AUTO_RULES": RULE_ID,
        }
        self._add("actioner", "actioner", actioner)
        config = self._agent_config()
        agent = (sys.executable, "-m", "microedr_agent", "run", "--config", str(config))
        self.programs["agent"] = Program("agent", agent, {}, self.root / "agent.log")

    def start(self) -> None:
        """Start the services, and the agent once they are ready."""
        services = [program for name, program in self.programs.items() if name != "agent"]
        for program in services:
            program.start()
        for program in services:
            program.wait_ready()
        self.programs["agent"].start()
        self._wait_for_sensor()

    def stop(self) -> None:
        """Stop the agent first, then the services."""
        for program in reversed(self.programs.values()):
            if program.process is not None:
                program.stop()

    def client(self) -> Client:
        """A client of the API."""
        token = self.token_file.read_text().strip()
        return Client(Endpoint(f"https://127.0.0.1:{self.api_port}", token, self.pki.ca_cert))

    def sensor_epoch(self) -> str:
        """The epoch the sensor writes."""
        status = json.loads((self.root / "agent" / "run" / "status.json").read_text())
        return str(status["processes"]["sensor"]["epoch_id"])

    def _wait_for_sensor(self) -> None:
        status = self.root / "agent" / "run" / "status.json"
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            with suppress(OSError, ValueError, KeyError):
                if json.loads(status.read_text())["processes"]["sensor"]["collector"] == "ebpf":
                    return
            assert time.monotonic() < deadline_s, f"the sensor did not start:\n{self.programs['agent'].tail()}"
            time.sleep(0.1)

    def _add(self, name: str, service: str, settings: dict[str, str]) -> None:
        port = free_port()
        environment = {
            "MICROEDR_BUS": self.bus,
            "MICROEDR_BUS_PARTITIONS": "4",
            "MICROEDR_MEMBER": name,
            "MICROEDR_METRICS_LISTEN": f"127.0.0.1:{port}",
            **settings,
        }
        command = (sys.executable, "-m", f"microedr_{service}")
        self.programs[name] = Program(name, command, environment, self.root / f"{name}.log", port)

    def _alerts(self) -> dict[str, str]:
        return {
            "MICROEDR_ALERTS_POSTGRES": self.dsn,
            "MICROEDR_ALERTS_API_LISTEN": f"127.0.0.1:{self.api_port}",
            "MICROEDR_ALERTS_API_CERT_FILE": str(self.pki.server_cert),
            "MICROEDR_ALERTS_API_KEY_FILE": str(self.pki.server_key),
            "MICROEDR_ALERTS_API_TOKEN_FILE": str(self.token_file),
            "MICROEDR_TENANT": TENANT,
        }

    def _ingest(self) -> dict[str, str]:
        return {
            "MICROEDR_INGEST_LISTEN": f"127.0.0.1:{self.ingest_port}",
            "MICROEDR_INGEST_TLS_CERT_FILE": str(self.pki.server_cert),
            "MICROEDR_INGEST_TLS_KEY_FILE": str(self.pki.server_key),
            "MICROEDR_INGEST_CLIENT_CA_FILE": str(self.pki.ca_cert),
        }

    def _agent_config(self) -> Path:
        home = self.root / "agent"
        home.mkdir()
        document = {
            "tenant_id": TENANT,
            "host_id": HOST_ID,
            "ingest": {
                "url": f"https://127.0.0.1:{self.ingest_port}",
                "mTLS": {
                    "cert_file": str(self.pki.agent_cert),
                    "key_file": str(self.pki.agent_key),
                    "ca_file": str(self.pki.ca_cert),
                },
            },
            "spool": {"dir": str(home / "spool")},
            "run_dir": str(home / "run"),
            "state_dir": str(home / "state"),
            "actions": {"enabled": True, "allow": ["kill_process"], "trusted_keys": [self.trusted_key.hex()]},
        }
        path = home / "agent.yaml"
        path.write_text(yaml.safe_dump(document))
        return path
