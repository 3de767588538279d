"""Whoever starts it wrongly reads one line that names what is wrong, and no more: status 2, no traceback, no secret."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from microedr_chassis.identity import ensure_pki
from microedr_standalone.state import StateDir

SECRET = "s3cr3t-in-a-dsn"
_UP = ("-m", "microedr_standalone", "up", "--no-agent", "--api-listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0")


def _complaint(*words: str | Path, **environment: str) -> str:
    """The one line on standard error of a command that must refuse to start."""
    done = subprocess.run(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # log lines are beside it
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert SECRET not in done.stderr + done.stdout
    return lines[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(("--bus", "rabbit://x"), "MICROEDR_BUS: 'rabbit://x' is not a bus; allowed are", id="bus"),
        pytest.param(("--bus", "kafka://here"), "MICROEDR_BUS: 'here' is not host:port", id="kafka"),
        pytest.param(("--postgres", f"db://u:{SECRET}@h/d"), "MICROEDR_ALERTS_POSTGRES: not a DSN", id="dsn"),
        pytest.param(("--api-listen", "here"), "MICROEDR_ALERTS_API_LISTEN: write host:port", id="address"),
        pytest.param(("--ingest-listen", "127.0.0.1:70000"), "MICROEDR_INGEST_LISTEN: a port is at most", id="port"),
        pytest.param(("--ready-file", "{d}/no/r.json"), "--ready-file {d}/no/r.json: there is no", id="no dir"),
        pytest.param(("--ready-file", "{d}"), "--ready-file {d}: Is a directory", id="ready file is a directory"),
        pytest.param(("--state-dir", "{d}/file"), "--state-dir {d}/file: File exists", id="state is a file"),
        pytest.param(("--state-dir", "{d}/file/x"), "--state-dir {d}/file/x: Not a directory", id="below a file"),
    ],
)
def test_up_with_a_wrong_option_says_which_and_what_is_allowed(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    (tmp_path / "file").touch()
    given = [word.format(d=tmp_path) for word in words]

    assert _complaint(*_UP, "--state-dir", tmp_path / "state", *given).startswith(
        "microedr: " + told.format(d=tmp_path)
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as the first steps of a start leave it."""
    made = StateDir(tmp_path_factory.mktemp("damaged") / "state")
    made.prepare()
    ensure_pki(made.pki, tenant_id="default", host_id=made.host_id())
    return made.root


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        pytest.param("pki/ca.crt", b"junk", "not PEM that can be read", id="authority"),
        pytest.param("pki/server.key", b"", "not PEM that can be read", id="empty key"),
        pytest.param("host-id", b"two words", "not a host id", id="host id"),
        pytest.param("host-id", b"\xff\xfe", "not a host id", id="host id in no encoding"),
        pytest.param("api-token", b"short", "an API token has at least", id="token"),
        pytest.param("actions/signing-key", b"00", "not a signing key; allowed is 64 hex digits", id="signing key"),
        pytest.param("bus/bus.db", b"no database " * 1000, "is damaged", id="bus"),
    ],
)
def test_up_on_a_damaged_state_directory_names_the_file(
    tmp_path: Path, state: Path, path: str, content: bytes, told: str
) -> None:
    copy = Path(shutil.copytree(state, tmp_path / "state"))
    (copy / path).write_bytes(content)
    (copy / path).chmod(0o600)

    complaint = _complaint(*_UP, "--state-dir", copy)

    assert str(copy / path) in complaint
    assert told in complaint


def test_a_directory_that_others_made_keeps_its_mode(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o1777)
    StateDir(root).prepare()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    StateDir(closed).prepare()

    assert root.stat().st_mode & 0o7777 == 0o1777
    assert closed.stat().st_mode & 0o7777 == 0o711  # the agent's processes pass through


@dataclass(frozen=True, slots=True)
class _Alone:
    """A service alone, what it is given and what it must say."""

    service: str
    told: str
    environment: tuple[tuple[str, str], ...] = ()


@pytest.mark.parametrize(
    "case",
    [
        _Alone("detector", "MICROEDR_BUS: must be set"),
        _Alone("ingest", "MICROEDR_INGEST_TLS_CERT_FILE: must be set"),
        _Alone("actioner", "MICROEDR_ACTIONER_SIGNING_KEY_FILE: must be set", (("MICROEDR_BUS", "memory"),)),
        _Alone("alerts", "set MICROEDR_ALERTS_POSTGRES to a DSN", (("MICROEDR_BUS", "memory"),)),
        _Alone("correlator", "MICROEDR_BUS: 'x' is not a bus; allowed are", (("MICROEDR_BUS", "x"),)),
        _Alone(
            "detector",
            "MICROEDR_DETECTOR_RULES: /no/rules: no such file or directory",
            (("MICROEDR_BUS", "memory"), ("MICROEDR_DETECTOR_RULES", "/no/rules")),
        ),
        _Alone(
            "correlator",
            "MICROEDR_METRICS_LISTEN: cannot listen on 192.0.2.1:9",
            (("MICROEDR_BUS", "memory"), ("MICROEDR_METRICS_LISTEN", "192.0.2.1:9")),
        ),
    ],
    ids=lambda case: f"{case.service}: {case.told.partition(':')[0]}",
)
def test_a_service_alone_names_the_variable(case: _Alone) -> None:
    complaint = _complaint("-m", f"microedr_{case.service}", **dict(case.environment))

    assert complaint.startswith(f"microedr-{case.service}: ")
    assert case.told in complaint


@pytest.fixture
def taken_port() -> Iterator[int]:
    import socket  # noqa: PLC0415 - only here

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("option", ["--api-listen", "--ingest-listen"])
def test_a_taken_port_is_named(tmp_path: Path, taken_port: int, option: str) -> None:
    complaint = _complaint(
        *_UP, "--bus", "memory", "--state-dir", tmp_path / "state", option, f"127.0.0.1:{taken_port}"
    )

    assert f"cannot listen on 127.0.0.1:{taken_port}" in complaint
