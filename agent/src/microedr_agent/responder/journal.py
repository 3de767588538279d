"""What was started here and what came of it, on disk before anything is done or said.

An intent is durable before the act and a result before its report. An intent without a result is
an order during which the responder stopped: it is reported once as UNKNOWN and never repeated.
One append-only file of checksummed records, rewritten when most of it is past; owned by one
process. Not here: whether an order is right (verify) and carrying it out (kill).
"""

import enum
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c

from microedr.limits import MAX_ACTION_BYTES
from microedr_agent.errors import JournalError
from microedr_agent.responder.action import Action, ActionResult, ActionState, read_action, read_result
from microedr_agent.responder.reasons import Reason

MAX_ENTRIES = 512
"""Orders remembered. At the most kills a minute that the configuration allows (60), those of one
action life (5 minutes) are 300; when nobody takes the results, new orders are refused."""

MAX_FILE_BYTES = 256 * 1024
"""Size above which the file is rewritten with what still counts."""

_MAGIC = b"MEDRJNL1"
_RECORD = struct.Struct("<IBI")  # CRC32C of all that follows, kind, bytes of payload
_CHECKED_FROM = 4


class _Kind(enum.IntEnum):
    INTENT = 1
    RESULT = 2
    ACK = 3


@dataclass(slots=True)
class _Entry:
    action: Action
    result: ActionResult | None = None
    acked: bool = False

    def is_past(self, now_unix_ns: int) -> bool:
        """Told to the backend, and so old that its order could not be taken again."""
        return self.acked and self.action.expires_unix_ns <= now_unix_ns


class Journal:
    """The responder's memory. Every method that writes has reached the disk when it returns."""

    def __init__(self, path: str, *, now_unix_ns: int) -> None:
        """Open or create the file at ``path``; its directory exists and is ours alone.

        Raises:
            JournalError: It cannot be written.
        """
        self._path = path
        self._fd = -1
        self._size_bytes = 0
        self._entries: dict[str, _Entry] = {}
        self.damaged = not self._load()
        """Whether the end of the file could not be read: a write was cut short, or worse."""
        for entry in self._entries.values():
            if entry.result is None:
                entry.result = ActionResult(
                    action_id=entry.action.action_id,
                    state=ActionState.UNKNOWN,
                    reason=Reason.INTERRUPTED,
                    finished_unix_ns=now_unix_ns,
                    detail="the responder stopped between intent and result",
                )
        self._rewrite(now_unix_ns)

    def was_started(self, action: Action) -> bool:
        """Whether this action_id, or this place in this session's sequence, was used before."""
        return action.action_id in self._entries or any(
            entry.action.session_nonce == action.session_nonce and entry.action.sequence == action.sequence
            for entry in self._entries.values()
        )

    def result_of(self, action_id: str) -> ActionResult | None:
        """What came of an order that was started here."""
        entry = self._entries.get(action_id)
        return entry.result if entry else None

    def record_intent(self, action: Action, *, now_unix_ns: int) -> None:
        """Remember that ``action`` is about to be carried out.

        Raises:
            JournalError: Nothing may be done: JOURNAL_FULL or JOURNAL_FAILED.
        """
        self._forget_past(now_unix_ns)
        if len(self._entries) >= MAX_ENTRIES:
            raise JournalError(Reason.JOURNAL_FULL, f"{len(self._entries)} orders wait for their report to be taken")
        if self._fd < 0 or self._size_bytes > MAX_FILE_BYTES:
            self._rewrite(now_unix_ns)
        self._append(_Kind.INTENT, action.raw)
        self._entries[action.action_id] = _Entry(action)

    def record_result(self, result: ActionResult) -> None:
        """Remember what came of an order. One that was never started is nothing to remember: it may come again.

        Raises:
            JournalError: It is remembered only until this process ends.
        """
        entry = self._entries.get(result.action_id)
        if entry is None or entry.result is not None:
            return
        entry.result = result
        self._append(_Kind.RESULT, result.encode())

    def record_ack(self, action_id: str) -> None:
        """Remember that the result was taken. An order not started here is nothing to remember.

        Raises:
            JournalError: It may be reported once more after a restart.
        """
        entry = self._entries.get(action_id)
        if entry is not None and entry.result is not None and not entry.acked:
            entry.acked = True
            self._append(_Kind.ACK, action_id.encode())

    def unreported(self) -> list[ActionResult]:
        """Results nobody took yet, oldest first."""
        return [entry.result for entry in self._entries.values() if entry.result is not None and not entry.acked]

    def close(self) -> None:
        """Release the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, kind: _Kind, payload: bytes) -> None:
        if self._fd < 0:
            raise JournalError(Reason.JOURNAL_FAILED, "the file was given up after an error")
        record = _encode(kind, payload)
        try:
            _write_all(self._fd, record)
            os.fdatasync(self._fd)
        except OSError as error:
            # After a failed write or sync nobody knows what the file holds: it is never written again.
            self.close()
            raise JournalError(Reason.JOURNAL_FAILED, f"{self._path}: {error.strerror}") from error
        self._size_bytes += len(record)

    def _rewrite(self, now_unix_ns: int) -> None:
        self.close()
        self._forget_past(now_unix_ns)
        content = _MAGIC + b"".join(_encode(kind, payload) for kind, payload in self._records())
        fresh = f"{self._path}.new"
        fd = -1
        try:
            fd = os.open(
                fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            _write_all(fd, content)
            os.fdatasync(fd)
            os.rename(fresh, self._path)  # noqa: PTH104 - pathlib costs the responder memory
            _sync_directory(self._path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise JournalError(Reason.JOURNAL_FAILED, f"{self._path}: {error.strerror}") from error
        self._fd, self._size_bytes = fd, len(content)

    def _records(self) -> Iterator[tuple[_Kind, bytes]]:
        for action_id, entry in self._entries.items():
            yield _Kind.INTENT, entry.action.raw
            if entry.result is not None:
                yield _Kind.RESULT, entry.result.encode()
            if entry.acked:
                yield _Kind.ACK, action_id.encode()

    def _forget_past(self, now_unix_ns: int) -> None:
        for action_id in [key for key, entry in self._entries.items() if entry.is_past(now_unix_ns)]:
            del self._entries[action_id]

    def _load(self) -> bool:
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123 - as above
                content = file.read()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise JournalError(Reason.JOURNAL_FAILED, f"{self._path}: {error.strerror}") from error
        end = len(_MAGIC)
        for kind, payload, end in _decode(content):  # noqa: B007 - the end of the last whole record is needed
            self._restore(kind, payload)
        return content.startswith(_MAGIC) and end == len(content)

    def _restore(self, kind: int, payload: bytes) -> None:
        if kind == _Kind.INTENT:
            action = read_action(payload)
            self._entries[action.action_id] = _Entry(action)
        elif kind == _Kind.RESULT:
            result = read_result(payload)
            if result.action_id in self._entries:
                self._entries[result.action_id].result = result
        elif kind == _Kind.ACK and payload.decode() in self._entries:
            self._entries[payload.decode()].acked = True


def _encode(kind: _Kind, payload: bytes) -> bytes:
    checked = _RECORD.pack(0, kind, len(payload))[_CHECKED_FROM:] + payload
    crc: int = google_crc32c.value(checked)
    return crc.to_bytes(_CHECKED_FROM, "little") + checked


def _decode(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield ``(kind, payload, end)`` of each whole record; stops before the first that is not.

    What lies behind a damaged record is given up: a new run has a new session nonce, so orders of an
    earlier one are refused whether or not they are remembered.
    """
    start = len(_MAGIC)
    if content[:start] != _MAGIC:
        return
    while start + _RECORD.size <= len(content):
        crc, kind, length = _RECORD.unpack_from(content, start)
        end = start + _RECORD.size + length
        if length > MAX_ACTION_BYTES or google_crc32c.value(content[start + _CHECKED_FROM : end]) != crc:
            return
        yield kind, content[start + _RECORD.size : end], end
        start = end


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120 - as above
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
