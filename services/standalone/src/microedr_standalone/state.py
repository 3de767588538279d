"""The state directory of one installation: where everything lies, and that only one process uses it."""

import fcntl
import json
import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microedr.ids import is_valid_name
from microedr_standalone.errors import UsageError


def default_state_dir() -> Path:
    """``/var/lib/microedr`` for root, the XDG state directory otherwise; MICROEDR_STATE_DIR overrides."""
    if named := os.environ.get("MICROEDR_STATE_DIR"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/microedr")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "microedr"


_PASSABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths below one state directory. Nothing is created before ``prepare``."""

    root: Path

    @property
    def pki(self) -> Path:
        """The development CA, server and agent certificates and keys."""
        return self.root / "pki"

    @property
    def bus(self) -> Path:
        """The embedded bus's file."""
        return self.root / "bus" / "bus.db"

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL's data."""
        return self.root / "postgres"

    @property
    def agent(self) -> Path:
        """What the agent owns: configuration, spool, journal, sockets."""
        return self.root / "agent"

    @property
    def api_token(self) -> Path:
        """The bearer token of the API, 0600."""
        return self.root / "api-token"

    @property
    def signing_key(self) -> Path:
        """The private key that signs orders, 0600."""
        return self.root / "actions" / "signing-key"

    @property
    def endpoints(self) -> Path:
        """Where the running system is reached, for the command line."""
        return self.root / "run" / "endpoints.json"

    def prepare(self) -> None:
        """Create the directory and those below it.

        Raises:
            UsageError: It cannot be created or written.
        """
        try:
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            # The agent's unprivileged processes must pass through to their own directory. Nothing is taken away:
            # the directory may be older than its use.
            mode = stat.S_IMODE(self.root.stat().st_mode)
            if mode & _PASSABLE != _PASSABLE:
                self.root.chmod(mode | _PASSABLE)
            for path in (self.pki, self.bus.parent, self.signing_key.parent, self.endpoints.parent):
                path.mkdir(mode=0o700, exist_ok=True)
            self.agent.mkdir(mode=0o711, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--state-dir {self.root}: {error.strerror}") from error

    def lock(self) -> int:
        """Claim the directory for this process; the claim ends with the returned descriptor.

        Raises:
            UsageError: Another process has it.
        """
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"--state-dir {self.root}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UsageError(f"--state-dir {self.root}: another microedr runs on it") from error
        return descriptor

    def host_id(self) -> str:
        """This machine's host id: drawn at the first start, the same ever after.

        Raises:
            UsageError: It cannot be kept, or what is kept is no host id.
        """
        path = self.root / "host-id"
        try:
            if not path.exists():
                write_atomically(path, f"{uuid.uuid4()}\n", mode=0o644)
            known = path.read_text("utf-8").strip()
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError:
            known = ""
        if not is_valid_name(known):
            raise UsageError(f"{path}: not a host id: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
        return known


def write_atomically(path: Path, text: str, *, mode: int) -> None:
    """Have ``path`` hold ``text`` or what it held before, at any moment and after a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """As ``write_atomically``, readable by everyone."""
    write_atomically(path, json.dumps(content, indent=2) + "\n", mode=0o644)
