"""What lasts reads its settings in a child: the same answers, and nothing of argparse or YAML stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from microedr_agent.lasting import LASTING

_FORBIDDEN = ("argparse", "yaml", "hashlib", "asyncio", "grpc", "google.protobuf", "pyseccomp", "subprocess")


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "microedr_agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("command", sorted(LASTING))
def test_a_wrong_file_is_one_line_and_status_2(tmp_path: Path, command: str) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("tenant_id: acme\nhots_id: a\n")
    file.chmod(0o600)

    done = _run(command, "--config", file)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"microedr-agent: {file}:2: hots_id: no such setting")
    assert len(done.stderr.splitlines()) == 1


_WHOLE = """\
tenant_id: acme
host_id: a
ingest:
  url: https://127.0.0.1:1
  mTLS: {{cert_file: {d}/cert, key_file: {d}/key, ca_file: {d}/ca}}
spool: {{dir: {d}/spool}}
run_dir: {d}/run
state_dir: {d}/state
"""


@pytest.mark.parametrize(
    ("command", "missing", "line", "name"),
    [
        pytest.param("run", "key", 5, "ingest.mTLS.key_file", id="no key"),
        pytest.param("uploader", "ca", 5, "ingest.mTLS.ca_file", id="no authority"),
        pytest.param("run", "", 6, "spool.dir", id="a file where the spool should be"),
        pytest.param("sensor", "", 6, "spool.dir", id="the same for the sensor alone"),
    ],
)
def test_files_that_settings_name_must_be_there_at_the_start(
    tmp_path: Path, command: str, missing: str, line: int, name: str
) -> None:
    for needed in {"cert", "key", "ca"} - {missing}:
        (tmp_path / needed).touch()
    if not missing:
        (tmp_path / "spool").touch()
    file = tmp_path / "agent.yaml"
    file.write_text(_WHOLE.format(d=tmp_path))
    file.chmod(0o600)

    done = _run(command, "--config", file)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"microedr-agent: {file}:{line}: {name}: {tmp_path}")
    assert len(done.stderr.splitlines()) == 1


def test_wrong_arguments_and_help_end_as_they_do_everywhere() -> None:
    assert _run("run", "--no-such-setting", "1").returncode == 2
    helped = _run("run", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "--config" in helped.stdout


def test_the_responder_imports_nothing_that_is_large() -> None:
    script = (
        "import sys, microedr_agent.lasting, microedr_agent.roles, microedr_agent.responder.app;"
        f"print([name for name in {_FORBIDDEN!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.strip() == "[]"
