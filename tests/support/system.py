"""``microedr up`` as a test's system: started on a fresh state directory, stopped and checked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
MICROEDR = (sys.executable, "-m", "microedr_standalone")


@dataclass
class System:
    """One ``microedr up``. A context manager; ``stop`` and ``kill`` may come earlier, ``start`` again."""

    root: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        """Kept over restarts."""
        return self.root / "state"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.root / "up.log"

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start it, do what is asked ``meanwhile``, and wait until it is ready."""
        ready_file = self.root / "ready.json"
        ready_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *MICROEDR,
                    "up",
                    "--state-dir",
                    str(self.state_dir),
                    "--api-listen",
                    "127.0.0.1:0",
                    "--ingest-listen",
                    "127.0.0.1:0",
                    "--log-level",
                    "info",
                    "--ready-file",
                    str(ready_file),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        meanwhile()
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not ready_file.exists():
            assert self.process.poll() is None, f"up ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline_s, f"up was not ready in {READY_TIMEOUT_S} s:\n{self.tail()}"
            time.sleep(0.05)
        self.ready = json.loads(ready_file.read_text())

    def stop(self) -> float:
        """Stop it in order; returns the seconds it took."""
        assert self.process is not None
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_TIMEOUT_S)
        assert status == 0, f"up ended with {status}:\n{self.tail()}"
        self.process = None
        return time.monotonic() - began_s

    def command(self, *arguments: str, status: int = 0, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run ``microedr`` against this system; it must end with ``status``."""
        done = subprocess.run(
            [*MICROEDR, *arguments, "--state-dir", str(self.state_dir)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.tail()}"
        return done

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.command(*arguments, "--json").stdout)

    def tail(self, lines: int = 40) -> str:
        """The end of its log, for a failure's message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    @contextmanager
    def starting(self, meanwhile: Callable[[], None]) -> Iterator[Self]:
        """As ``with system``, doing something while it starts."""
        try:
            self.start(meanwhile)
            yield self
        except BaseException as error:
            self.__exit__(type(error))
            raise
        self.__exit__(None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process is None:
            return
        if kind is None:
            self.stop()
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
