"""Ingest as a process of its own: starts from variables, stops on SIGTERM, says what is wrong in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microedr_chassis.identity import ensure_pki


def start(tmp_path: Path, **changes: str) -> "subprocess.Popen[str]":
    paths = ensure_pki(tmp_path / "pki", tenant_id="acme", host_id="host-a")
    environment = {
        "PATH": os.environ["PATH"],
        "MICROEDR_BUS": "memory",
        "MICROEDR_INGEST_LISTEN": "127.0.0.1:0",
        "MICROEDR_INGEST_TLS_CERT_FILE": str(paths.server_cert),
        "MICROEDR_INGEST_TLS_KEY_FILE": str(paths.server_key),
        "MICROEDR_INGEST_CLIENT_CA_FILE": str(paths.ca_cert),
        **changes,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "microedr_ingest"], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("bus", ["memory", "sqlite"])
def test_sigterm_stops_it_in_order_within_seconds(tmp_path: Path, bus: str) -> None:
    with start(tmp_path, MICROEDR_BUS="memory" if bus == "memory" else f"sqlite://{tmp_path}/bus.db") as process:
        assert process.stderr is not None
        events = []
        while "ingest_listening" not in events:
            events.append(json.loads(process.stderr.readline())["event"])
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)

    assert process.returncode == 0
    assert time.monotonic() - began_s < 10
    stopped = [json.loads(line) for line in rest.splitlines()]
    assert [entry["service"] for entry in stopped if entry["event"] == "service_stopped"] == ["ingest", "bus"]


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        pytest.param("MICROEDR_BUS", "", "microedr-ingest: MICROEDR_BUS: must be set", id="no bus"),
        pytest.param("MICROEDR_BUS", "amqp://x", "microedr-ingest: MICROEDR_BUS: 'amqp://x' is not a bus", id="bus"),
        pytest.param("MICROEDR_INGEST_LISTEN", "7443", "microedr-ingest: MICROEDR_INGEST_LISTEN: write", id="listen"),
        pytest.param(
            "MICROEDR_INGEST_TLS_CERT_FILE",
            "/nowhere",
            "microedr-ingest: MICROEDR_INGEST_TLS_CERT_FILE: /nowhere: No such file",
            id="file",
        ),
    ],
)
def test_wrong_settings_end_it_with_status_2_and_a_line(tmp_path: Path, variable: str, value: str, line: str) -> None:
    with start(tmp_path, **{variable: value}) as process:
        _, err = process.communicate(timeout=20)

    assert process.returncode == 2
    assert err.splitlines()[-1].startswith(line)
    assert "Traceback" not in err
