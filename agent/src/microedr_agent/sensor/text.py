"""Bytes from the kernel made into valid UTF-8, and cut without breaking a character."""

from functools import lru_cache


def as_utf8(raw: bytes) -> bytes:
    r"""``raw`` itself when it is UTF-8; otherwise each bad byte written as ``\xNN``."""
    if raw.isascii():
        return raw
    return raw.decode("utf-8", "backslashreplace").encode()


def until_nul(raw: bytes) -> bytes:
    """A C string in a fixed field, as UTF-8."""
    return as_utf8(raw.partition(b"\0")[0])


def cut(text: bytes, max_bytes: int) -> bytes:
    """The beginning of UTF-8 ``text`` that fits, in whole characters."""
    if len(text) <= max_bytes:
        return text
    return text[:max_bytes].decode("utf-8", "ignore").encode()


def split_strings(raw: bytes) -> list[bytes]:
    """Strings that each end in NUL; a last one without it was cut."""
    strings = raw.split(b"\0")
    if not strings[-1]:
        strings.pop()
    return [as_utf8(string) for string in strings]


@lru_cache(maxsize=1024)
def join_path(components: bytes, whole: bool) -> bytes:  # noqa: FBT001 - by keyword the cache costs twice as much
    """A path from components that stand leaf first, each ended by NUL.

    One whose beginning is missing does not begin with a slash.
    """
    path = b"/".join(components[:-1].split(b"\0")[::-1])
    return as_utf8(b"/" + path if whole else path)
