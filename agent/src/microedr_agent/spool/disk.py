"""The few file operations the spool is made of, in one class so that tests can let each of them fail."""

import os
from pathlib import Path

_FILE_MODE = 0o640
"""The uploader reads through the shared group; nobody else does."""


class Disk:
    """The real one. Every method raises ``OSError`` as the kernel reports it."""

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)

    def replace_content(self, path: Path) -> int:
        """A descriptor of a file that is empty, new or not."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)

    def write(self, fd: int, data: bytes) -> None:
        """All of ``data``; an error may leave some of it behind."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int) -> None:
        """The file's content survives a power cut."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Names made, renamed or removed in ``path`` survive a power cut."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut off what follows ``size_bytes``."""
        os.ftruncate(fd, size_bytes)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Put ``source`` in the place of ``target`` in one step."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a name; one that is gone already is no error."""
        path.unlink(missing_ok=True)
