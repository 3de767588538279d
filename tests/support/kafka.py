"""One real Kafka for the whole test run: the broker of MICROEDR_TEST_KAFKA, or one that tools/kafka starts.

Workers of pytest-xdist share it; the last one that needs it stops it. Without Java and Maven the
tests that need it fail and say so.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "kafka"
VARIABLE = "MICROEDR_TEST_KAFKA"


class Broker:
    """One broker under ``instance``, which tests may stop, kill and start again on the same data and address."""

    def __init__(self, instance: Path, port: int = 0) -> None:
        self.instance = instance
        self._port = port
        self.servers = ""

    def start(self) -> str:
        """Its address. It runs already: nothing happens."""
        done = subprocess.run(
            [TOOL, "start", "--instance", self.instance, "--port", str(self._port)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(
                f"these tests need a real Kafka: run `make kafka` once to see what is missing, or set {VARIABLE} to"
                f" host:port of a broker.\n{done.stderr.strip()}",
                pytrace=False,
            )
        self.servers = str(json.loads(done.stdout)["bootstrap"])
        return self.servers

    def pid(self) -> int:
        """Of the running broker."""
        return int(json.loads((self.instance / "kafka.json").read_text())["pid"])

    def stop(self) -> None:
        """End it in order; nothing else."""
        subprocess.run([TOOL, "stop", "--instance", self.instance], capture_output=True, check=True)


@contextmanager
def _shared_broker(directory: Path) -> Iterator[str]:
    """Start it for the first user, stop it after the last one that lives."""
    directory.mkdir(exist_ok=True)
    users = directory / "users"
    broker = Broker(directory / "broker")
    with _locked(directory):
        servers = broker.start()
        users.write_text("\n".join([*_living(users), str(os.getpid())]))
    try:
        yield servers
    finally:
        with _locked(directory):
            left = _living(users)
            left.remove(str(os.getpid()))
            users.write_text("\n".join(left))
            if not left:
                broker.stop()


def _living(users: Path) -> list[str]:
    pids = users.read_text().split() if users.exists() else []
    return [pid for pid in pids if Path("/proc", pid).exists()]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def kafka_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a real broker."""
    given = os.environ.get(VARIABLE)
    if given:
        yield given
        return
    base = tmp_path_factory.getbasetemp()
    # Every worker has a directory of its own below the run's.
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with _shared_broker(run / "kafka") as servers:
        yield servers
