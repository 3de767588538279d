"""The doors between the agent's processes: Unix sockets that keep datagrams whole and name their peer.

A ``Listener`` or ``connect`` gives a ``Channel``; what travels over it is in ``ipc_messages``.
Nothing here blocks: plain selector loops register ``fileno()``, asyncio uses ``add_reader``.
The kernel says who the peer is (SO_PEERCRED), so no secret guards these sockets; a peer that is not
expected is closed before a byte of it is read.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from microedr_agent.errors import IpcClosedError, IpcError, IpcMessageError, IpcPeerError
from microedr_agent.ipc_messages import MAX_DATAGRAM_BYTES, Message, decode_message, encode_message

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
_BACKLOG = 4
_SOCKET_MODE = 0o660
_ROOT = 0


class Channel:
    """One connected peer. Close it on any ``IpcError``."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    def fileno(self) -> int:
        """For a selector; -1 once closed."""
        return self._socket.fileno()

    def send(self, message: Message) -> bool:
        """Pass one message on; False when the peer's queue is full: keep it and try again later.

        Raises:
            IpcClosedError: The peer is gone.
            IpcMessageError: The message is larger than a datagram may be.
        """
        try:
            self._socket.send(encode_message(message), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            raise IpcClosedError(error.strerror) from error
        return True

    def receive(self) -> Message | None:
        """The next message; None when there is none now.

        Raises:
            IpcClosedError: The peer is gone.
            IpcMessageError: What came is not one of ours.
        """
        try:
            raw, _, flags, _ = self._socket.recvmsg(MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise IpcClosedError(error.strerror) from error
        if not raw:
            raise IpcClosedError("the peer closed the socket")
        if flags & socket.MSG_TRUNC:
            raise IpcMessageError(f"a datagram is larger than {MAX_DATAGRAM_BYTES} bytes")
        return decode_message(raw)

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


class Listener:
    """A named socket in the run directory, replaced when a file of that name is left over.

    Args:
        path: At most 107 bytes, the kernel's limit.
        allowed_uids: Who may connect. Root always may: it could anyway.
        gid: Group that may open the socket; None leaves this process's own.
    """

    def __init__(self, path: Path, *, allowed_uids: Collection[int], gid: int | None = None) -> None:
        self._allowed_uids = frozenset(allowed_uids) | {_ROOT}
        self.refused_total = 0
        """Peers turned away, for the owner to report."""
        self._socket = _new_socket()
        try:
            path.unlink(missing_ok=True)
            # The socket is made for its owner alone and opened to the group once that is the right one.
            mask = os.umask(0o177)
            try:
                self._socket.bind(str(path))
            finally:
                os.umask(mask)
            if gid is not None:
                os.chown(path, -1, gid)
            path.chmod(_SOCKET_MODE)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise IpcError(f"{path}: {error.strerror or error}") from error

    def fileno(self) -> int:
        """For a selector; -1 once closed."""
        return self._socket.fileno()

    def accept(self) -> Channel | None:
        """A peer that may come in; None when nobody waits or the one who did may not."""
        try:
            connected, _ = self._socket.accept()
        except OSError:  # nobody waits, or it went away again
            return None
        if peer_uid(connected) not in self._allowed_uids:
            self.refused_total += 1
            connected.close()
            return None
        return Channel(connected)

    def close(self) -> None:
        """Idempotent. The file stays: whoever listens next replaces it, and removing it could hit theirs."""
        self._socket.close()


def connect(path: Path, *, allowed_uids: Collection[int]) -> Channel:
    """Reach the process that listens at ``path``.

    Args:
        path: The socket's file.
        allowed_uids: Who may have made the socket, beside root. The kernel reports who called listen().

    Raises:
        IpcClosedError: Nobody listens there now, or its queue is full.
        IpcPeerError: Somebody else does.
    """
    connected = _new_socket()
    try:
        connected.connect(str(path))
        uid = peer_uid(connected)
    except OSError as error:
        connected.close()
        raise IpcClosedError(f"{path}: {error.strerror or error}") from error
    if uid != _ROOT and uid not in allowed_uids:
        connected.close()
        raise IpcPeerError(f"{path}: uid {uid} listens there, expected {sorted({*allowed_uids, _ROOT})}")
    return Channel(connected)


def peer_uid(connected: socket.socket) -> int:
    """Who is at the other end, as the kernel says."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


def _new_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    # Room for a burst of extents; the kernel caps it at net.core.wmem_max.
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_DATAGRAM_BYTES)
    return made
