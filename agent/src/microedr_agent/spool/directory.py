"""The spool's directory: made and handed to its owner while root is still at hand.

Both processes enter it through a descriptor or as their working directory, before they give up root, so
the directories above it need not be open to them.
"""

import os
import stat
from pathlib import Path

from microedr_agent.config import AgentConfig
from microedr_agent.errors import SpoolError

_DIRECTORY_MODE = 0o750
"""The sensor writes; the uploader reads through the group."""
_ROOT = 0


def prepare_directory(config: AgentConfig) -> Path:
    """Make the directory; as root, give it and what is in it to the sensor's user and the shared group.

    Raises:
        SpoolError: It cannot be made or used.
    """
    path = config.spool.dir
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        if os.geteuid() == _ROOT:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _hand_over(fd, config.run_as.sensor_uid, config.run_as.gid)
            finally:
                os.close(fd)
    except OSError as error:
        raise SpoolError(f"spool.dir: {path}: {error.strerror}") from error
    return path


def _hand_over(directory_fd: int, uid: int, gid: int) -> None:
    os.fchown(directory_fd, uid, gid)
    os.fchmod(directory_fd, _DIRECTORY_MODE)
    for name in os.listdir(directory_fd):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
        try:
            status = os.fstat(fd)
            # The sensor's user can put any name here: only plain files of one name are handed to it.
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.fchown(fd, uid, gid)
        finally:
            os.close(fd)
