"""Names of the host's users, from /etc/passwd alone: a name service could block, and reaches the network."""

from collections.abc import Mapping
from pathlib import Path

from microedr_agent.sensor.text import as_utf8

_PASSWD = Path("/etc/passwd")
_MAX_BYTES = 4 * 1024 * 1024
_UID_FIELD = 2
_FIELDS = 7


class Users:
    """uid → name, as UTF-8; empty for a uid without one."""

    def __init__(self, path: Path = _PASSWD) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._names: Mapping[int, bytes] = {}
        self.refresh()

    def name(self, uid: int) -> bytes:
        """Of this uid."""
        return self._names.get(uid, b"")

    def refresh(self) -> bool:
        """Read the file again when it was replaced; True when it was. One that cannot be read leaves what is known."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return False
            with self._path.open("rb") as opened:
                self._names = _parse(opened.read(_MAX_BYTES))
            self._stamp = stamp
        except OSError:
            return False
        return True


def _parse(content: bytes) -> dict[int, bytes]:
    names: dict[int, bytes] = {}
    for line in content.splitlines():
        fields = line.split(b":")
        if len(fields) == _FIELDS and fields[_UID_FIELD].isdigit():
            # The first entry of a uid is the one that getpwuid gives.
            names.setdefault(int(fields[_UID_FIELD]), as_utf8(fields[0]))
    return names
