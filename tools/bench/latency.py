"""From an event in the kernel to its alert readable in the API: p50 and p99 over 200 events, in seconds.

Each sample starts a harmless program whose arguments a built-in rule takes for a miner's, hears of the alert on
``/v1/stream`` and reads it with ``GET /v1/alerts/{id}``. The clock runs from before the program starts until
the answer is there. Starts ``microedr up`` on a state directory of its own (root); ``--ready-file`` names
one that runs, which must have been started with MICROEDR_CORRELATOR_ALERTS_PER_RULE_AND_HOST=1000, otherwise
the rate limit folds all but 20 of the alerts into one.
"""

import argparse
import contextlib
import json
import os
import queue
import random
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from tools.bench.report import ROOT, report

SAMPLES = 200
WARM_UP = 5
TARGET_P50_S = 1.0
TARGET_P99_S = 2.0
READY_TIMEOUT_S = 60.0
ALERT_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
PAUSE_S = 0.4
"""At most, between samples: a random part of it, so that they fall anywhere between two polls of the sensor."""

ALERT_LIMIT = "MICROEDR_CORRELATOR_ALERTS_PER_RULE_AND_HOST"


@dataclass(frozen=True, slots=True)
class Api:
    """Where the system under test answers."""

    url: str
    token: str
    ca_file: str

    def client(self) -> httpx.Client:
        """A connection to it."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=ssl.create_default_context(cafile=self.ca_file),
            timeout=httpx.Timeout(10.0, read=ALERT_TIMEOUT_S),
            trust_env=False,
        )


class AlertStream:
    """Listens to the stream in a thread; a context manager."""

    def __init__(self, api: Api) -> None:
        self._client = api.client()
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._is_open.wait(ALERT_TIMEOUT_S):
            raise SystemExit("latency: the API's stream did not open")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def wait_for(self, token: str) -> str:
        """Id of the alert that names ``token``."""
        deadline_s = time.monotonic() + ALERT_TIMEOUT_S
        while True:
            try:
                alert = self._heard.get(timeout=max(deadline_s - time.monotonic(), 0.001))
            except queue.Empty:
                raise SystemExit(f"latency: no alert within {ALERT_TIMEOUT_S:g} s") from None
            if alert is None:
                raise SystemExit("latency: the API closed its stream")
            if alert.get("folded_count"):
                raise SystemExit(f"latency: the rate limit folds the alerts; start the system with {ALERT_LIMIT}=1000")
            if token in json.dumps(alert):
                return str(alert["alert_id"])

    def _listen(self) -> None:
        with contextlib.suppress(httpx.HTTPError), self._client.stream("GET", "/v1/stream") as response:
            kind = ""
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                if name == "event":
                    kind = value.strip()
                    self._is_open.set()
                elif name == "data" and kind.startswith("alert."):
                    self._heard.put(json.loads(value))
        self._heard.put(None)


def sample(client: httpx.Client, stream: AlertStream) -> float:
    """Seconds from a program's start to its alert in the API's answer."""
    token = uuid.uuid4().hex
    began_s = time.monotonic()
    _start_program(token)
    alert_id = stream.wait_for(token)
    client.get(f"/v1/alerts/{alert_id}").raise_for_status()
    return time.monotonic() - began_s


def bound(client: httpx.Client) -> float:
    """Seconds of the same without the system under test in between."""
    began_s = time.monotonic()
    subprocess.run(["/bin/true"], check=True)
    client.get("/v1/alerts", params={"limit": 1}).raise_for_status()
    return time.monotonic() - began_s


def measure(api: Api, samples: int) -> None:
    """Take the samples and report."""
    times_s: list[float] = []
    with api.client() as client, AlertStream(api) as stream:
        bound_s = statistics.median(bound(client) for _ in range(20))
        for number in range(WARM_UP + samples):
            time.sleep(random.uniform(0, PAUSE_S))  # noqa: S311 - spreads samples
            taken_s = sample(client, stream)
            if number >= WARM_UP:
                times_s.append(taken_s)
            if len(times_s) % 20 == 0 and times_s:
                print(f"latency: {len(times_s)} of {samples}: {statistics.median(times_s):.3f} s", flush=True)
    times_s.sort()
    notes = f"{samples} events, one at a time, fastest {times_s[0]:.3f} s, slowest {times_s[-1]:.3f} s"
    for name, value, target in (
        ("latency-p50", statistics.median(times_s), TARGET_P50_S),
        ("latency-p99", times_s[min(int(len(times_s) * 0.99), len(times_s) - 1)], TARGET_P99_S),
    ):
        report(
            name,
            [value],
            unit="s",
            target=target,
            higher_is_better=False,
            baseline=bound_s,
            baseline_is="starting a program and one GET",
            notes=notes,
        )


def main() -> None:
    """Measure a system that runs, or one started for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ready-file", type=Path, help="of a running `microedr up`; default: start one")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    if options.ready_file is not None:
        measure(_api(options.ready_file), options.samples)
        return
    with _system() as ready_file:
        measure(_api(ready_file), options.samples)


@contextlib.contextmanager
def _system() -> Iterator[Path]:
    """``microedr up`` on a fresh state directory, from ready to stopped."""
    if os.geteuid() != 0:
        raise SystemExit("latency: the eBPF agent needs root; or name a running system with --ready-file")
    root = Path(tempfile.mkdtemp(prefix="microedr-bench-"))
    root.chmod(0o711)  # the agent's unprivileged processes have to reach their files
    ready_file, log_file = root / "ready.json", root / "up.log"
    command = [sys.executable, "-m", "microedr_standalone", "up", "--state-dir", str(root / "state")]
    command += ["--api-listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0", "--ready-file", str(ready_file)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, ALERT_LIMIT: "1000"}
        )
        try:
            _wait_until_ready(process, ready_file, log_file)
            yield ready_file
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    shutil.rmtree(root, ignore_errors=True)


def _wait_until_ready(process: subprocess.Popen[bytes], ready_file: Path, log_file: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > deadline_s:
            print(log_file.read_text(errors="replace")[-4000:], file=sys.stderr)
            raise SystemExit(f"latency: microedr up was not ready in {READY_TIMEOUT_S:g} s")
        time.sleep(0.05)


def _api(ready_file: Path) -> Api:
    ready = json.loads(ready_file.read_text())
    agent = ready.get("agent") or {}
    if not agent.get("collector"):
        raise SystemExit(f"latency: the system runs no agent: {agent.get('reason')}")
    return Api(ready["api_url"], Path(ready["api_token_file"]).read_text().strip(), ready["ca_file"])


def _start_program(token: str) -> None:
    """Runs ``true``; the rule looks at its arguments only."""
    subprocess.run(["/bin/true", f"stratum+tcp://127.0.0.1:1/{token}"], check=True)


if __name__ == "__main__":
    main()
