"""What the settings name on disk, looked at before anything is started.

Later on the same faults are no end: a certificate that vanishes is waited for while events are kept in the
spool. At the start they are a wrong configuration, and somebody is there to read one line.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from microedr_agent.config_sources import LoadedConfig
from microedr_agent.errors import ConfigError

_FILES: Mapping[str, tuple[str, ...]] = {
    "run": ("ingest.mTLS.cert_file", "ingest.mTLS.key_file", "ingest.mTLS.ca_file"),
    "uploader": ("ingest.mTLS.cert_file", "ingest.mTLS.key_file", "ingest.mTLS.ca_file"),
}
_DIRECTORIES: Mapping[str, tuple[str, ...]] = {
    "run": ("spool.dir", "run_dir", "state_dir"),
    "sensor": ("spool.dir", "run_dir"),
    "responder": ("run_dir", "state_dir"),
}


def require_files(command: str, loaded: LoadedConfig) -> None:
    """Require what ``command`` needs: its files can be read, its directories are there or can be made.

    Raises:
        ConfigError: One line that names where the setting stands, the setting, the path and what is wrong.
    """
    for name, value, origin in loaded.rows():
        if not isinstance(value, Path):
            continue
        if name in _FILES.get(command, ()):
            problem = _unreadable(value)
        elif name in _DIRECTORIES.get(command, ()):
            problem = _not_a_place(value)
        else:
            continue
        if problem:
            raise ConfigError(f"{origin}: {name}: {problem}")


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return f"{path}: {error.strerror}; allowed is a PEM file that can be read"


def _not_a_place(directory: Path) -> str:
    nearest = next(path for path in (directory, *directory.parents) if path.exists() or path == path.parent)
    if not nearest.is_dir():
        return f"{nearest} is not a directory; allowed is a directory, or a place where one can be made"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written; allowed is a directory, or a place where one can be made"
    return ""
