"""The run directory: where the sockets of the agent's processes meet, and the page that says how they are."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from microedr_agent.config import AgentConfig
from microedr_agent.errors import ConfigError

STATUS_FILE = "status.json"
_SHARED_MODE = 0o1770
"""Sensor and uploader make files here; the sticky bit keeps each from removing another's."""

_PRIVATE_MODE = 0o700
_STATUS_MODE = 0o644
_LOCK_FILE = "lock"
_LOCK_TIMEOUT_S = 1.0
_LOCK_POLL_S = 0.05
_ROOT = 0


def prepare_run_dir(config: AgentConfig) -> None:
    """Make the run directory with the owner and mode it needs.

    Raises:
        ConfigError: It cannot be made, or it is somebody else's.
    """
    path = config.run_dir
    try:
        path.mkdir(mode=_PRIVATE_MODE, parents=True, exist_ok=True)
        if os.geteuid() == _ROOT:
            os.chown(path, _ROOT, config.run_as.gid)
            path.chmod(_SHARED_MODE)
        else:
            path.chmod(_PRIVATE_MODE)
    except OSError as error:
        raise ConfigError(f"run_dir: {path}: {error.strerror}") from error


def hold_run_dir(run_dir: Path) -> int:
    """Claim the directory for this process; the claim ends with it, and is not its children's.

    An agent that was killed may be on its way out: it is waited for.

    Raises:
        ConfigError: Another agent has it.
    """
    path = run_dir / _LOCK_FILE
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"run_dir: {path}: {error.strerror}") from error
    due_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            # Of POSIX's kind, for flock's would live on in forked children.
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < due_s:
                time.sleep(_LOCK_POLL_S)
                continue
            os.close(fd)
            raise ConfigError(f"run_dir: {run_dir}: another agent runs here; stop it first") from None
        return fd


def write_status(run_dir: Path, status: Mapping[str, object]) -> None:
    """Replace the status page at once, so that a reader never sees half of it.

    Raises:
        OSError: It cannot be written.
    """
    fresh = run_dir / f".{STATUS_FILE}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    # O_EXCL: in a shared directory a name can be taken by a link to somewhere else.
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _STATUS_MODE)
    try:
        os.write(fd, json.dumps(status, indent=1, default=str).encode() + b"\n")
    finally:
        os.close(fd)
    fresh.rename(run_dir / STATUS_FILE)
