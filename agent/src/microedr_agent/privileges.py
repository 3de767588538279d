"""Giving up what a process no longer needs, through libc; each step is checked, none can be undone."""

import codecs
import contextlib
import ctypes
import gc
import os

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x2008_0522
_CLONE_NEWNET = 0x4000_0000
_MAX_NAME_BYTES = 15
_ROOT = 0
_LAZY_ENCODINGS = ("ascii", "latin-1")
"""Imported by Python at their first use, which may come late."""

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_gain() -> None:
    """No exec gives more than this process has (no_new_privs)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_dump() -> None:
    """No core dump, no ptrace by others of this user. The entries of /proc/self belong to root from now on."""
    _prctl(_PR_SET_DUMPABLE, 0)


def become(uid: int, gid: int) -> None:
    """Become this user and group for good, without other groups or capabilities.

    A death signal set before stays set, which a plain change of user would clear. When this
    process is not root there is nobody to become; its capabilities go all the same. A ``uid`` of 0 keeps root.

    Import everything before: Python's own files may be out of the user's reach (below ``/root``, say), and
    an import that comes later then fails.

    Raises:
        OSError: It cannot; the process must end, for it would go on with too much.
    """
    for name in _LAZY_ENCODINGS:
        codecs.lookup(name)
    if os.geteuid() == _ROOT and uid != _ROOT:
        signal_number = ctypes.c_int()
        _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(signal_number))
        for capability in range(_LAST_CAPABILITY + 1):
            # EINVAL ends the list, EPERM a container without CAP_SETPCAP: below all of them go anyway.
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        _prctl(_PR_SET_PDEATHSIG, signal_number.value)
        _require_no_way_back()
    if uid != _ROOT:
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        _clear_capabilities()
    forbid_gain()
    forbid_dump()


def leave_network() -> None:
    """Move to an empty network namespace of its own. Unix sockets with a path still work.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN.
    """
    if _libc.unshare(_CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_network() -> int:
    """A descriptor of the present network namespace, for ``join_network``."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def join_network(namespace_fd: int) -> None:
    """Return to the network namespace behind ``namespace_fd``.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN.
    """
    if _libc.setns(namespace_fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with(parent_pid: int, signal_number: int) -> None:
    """Get ``signal_number`` when the parent ends; ends at once when it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:
        os._exit(1)


def name_process(name: str) -> None:
    """Set the name that ``ps`` shows; at most 15 bytes. Not worth failing for."""
    with contextlib.suppress(OSError):
        buffer = ctypes.create_string_buffer(name.encode()[:_MAX_NAME_BYTES])
        _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def give_back_memory() -> None:
    """Return to the kernel what starting up left over: about 1 MB of a small process."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        _libc.malloc_trim(0)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _clear_capabilities() -> None:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(header), none) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _require_no_way_back() -> None:
    with contextlib.suppress(PermissionError):
        os.setresuid(_ROOT, _ROOT, _ROOT)
        raise OSError("root could be taken back")


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
