"""The files and programs of the embedded PostgreSQL: its directory, its cluster, its command line.

Layout of the directory: ``data`` (the cluster), ``log`` and ``lock`` (held while a microedr uses it). The
server is told its place as ``/proc/self/fd/N``: it never walks the path, so a directory of any length works, also
below one that is closed to the user it runs as, and no permission of a parent is touched.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from microedr_alerts.errors import EmbeddedPostgresError
from microedr_alerts.programs import MAJOR_VERSION, find_programs, system_account

OWNER = "postgres"
INITDB_TIMEOUT_S = 60
MAX_LOG_BYTES = 1024 * 1024
"""At a start a longer log becomes ``log.1``."""

_PID_FILE_LINES = 8

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0600",
    # Few, small processes: 16 MB in all (PSS) with one connection.
    "max_connections": "24",
    "shared_buffers": "16MB",
    "maintenance_work_mem": "16MB",
    "io_method": "sync",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "huge_pages": "off",
    "jit": "off",
    # Seldom awake: a commit writes the log itself, so durability does not wait for these.
    "bgwriter_delay": "10s",
    "wal_writer_delay": "10s",
    "autovacuum_naptime": "5min",
    "checkpoint_timeout": "15min",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Cluster:
    """One directory, held from ``open`` to ``close``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._account = system_account()
        self._programs = find_programs(self._account)
        self._lock_fd = -1
        self._data_fd = -1

    @property
    def data(self) -> Path:
        """The cluster's directory."""
        return self._directory / "data"

    @property
    def socket_directory(self) -> str:
        """Where the server listens, as this process names it while the cluster is open."""
        return f"/proc/self/fd/{self._data_fd}"

    def open(self) -> None:
        """Take the directory; create the cluster when there is none. Blocks for a second.

        Raises:
            EmbeddedPostgresError: Another microedr has it, it is of another version, or initdb failed.
            OSError: The directory cannot be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedPostgresError(f"{self._directory} is in use by another microedr; stop it first") from None
        if not (self.data / "PG_VERSION").exists():
            if self.data.exists():
                raise EmbeddedPostgresError(f"{self.data} has no PG_VERSION: move it away to begin anew")
            self._create()
        found = (self.data / "PG_VERSION").read_text("ascii").strip()
        if found != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"{self.data} was written by PostgreSQL {found}; this microedr carries {MAJOR_VERSION}"
            )
        self._data_fd = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Release the directory. Idempotent."""
        for fd in (self._data_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._data_fd = self._lock_fd = -1

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the server; it does not take connections yet.

        Raises:
            EmbeddedPostgresError: The program cannot be run.
        """
        place = self.socket_directory
        command = [str(self._programs / "postgres"), "-D", place]
        for name, value in {**_SETTINGS, "unix_socket_directories": place}.items():
            command += ["-c", f"{name}={value}"]
        # Where util-linux is present the kernel stops the server when we are killed; elsewhere the next start does.
        setpriv = shutil.which("setpriv")
        if setpriv:
            command = [setpriv, "--pdeathsig", "INT", *command]
        log = self._directory / "log"
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(self._directory / "log.1")
        return self._popen(command, self._data_fd, log)

    def is_ready(self, pid: int) -> bool:
        """Whether the server ``pid`` says that it takes connections; a file left behind says so of another."""
        try:
            lines = (self.data / "postmaster.pid").read_text("utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= _PID_FILE_LINES and lines[0] == str(pid) and lines[-1].strip() == "ready"

    def last_words(self) -> str:
        """What the server's log ends with."""
        return _last_line(self._directory / "log")

    def _create(self) -> None:
        # initdb writes PG_VERSION first: a cluster counts only under its final name.
        draft = self._directory / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(draft, self._account.uid, self._account.gid)
        fd = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        try:
            command = [str(self._programs / "initdb"), "-D", f"/proc/self/fd/{fd}", "-U", OWNER]
            # Only who may enter the directory, its owner and root, reaches the socket: no password.
            command += ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--no-instructions"]
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            log = self._directory / "initdb.log"
            if self._popen(command, fd, log).wait(INITDB_TIMEOUT_S) != 0:
                raise EmbeddedPostgresError(f"initdb failed in {self._directory}: {_last_line(log)}")
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(f"initdb took more than {INITDB_TIMEOUT_S} s in {self._directory}") from None
        finally:
            os.close(fd)
        draft.rename(self.data)
        log.unlink()

    def _popen(self, command: Sequence[str], data_fd: int, log: Path) -> subprocess.Popen[bytes]:
        account = self._account
        try:
            with open(log, "ab", opener=_private) as output:
                return subprocess.Popen(  # noqa: S603 - our own words, no shell
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[data_fd],
                    cwd="/",
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                    start_new_session=True,  # Ctrl-C is for us: the writer flushes before the server stops
                    umask=0o077,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                )
        except OSError as error:
            raise EmbeddedPostgresError(f"cannot run {command[0]}: {error.strerror}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "it left no log"
    # The reason is on the newest FATAL or ERROR; hints follow it.
    telling = [line for line in lines[-20:] if "FATAL" in line or "PANIC" in line or "rror" in line]
    return (telling or lines or ["its log is empty"])[-1].strip()
