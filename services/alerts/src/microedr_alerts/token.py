"""The API's bearer token: drawn at the first start, kept in a file that only its owner reads."""

import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from microedr_chassis.errors import SettingsError

TOKEN_BYTES = 32
MIN_TOKEN_CHARS = 32
"""Of a token that somebody else put there."""

_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def ensure_token(file: Path) -> str:
    """The token in ``file``, drawn when there is none.

    Raises:
        SettingsError: The file cannot be read or written, others may read it, or its token is short.
    """
    try:
        _create(file)
        if file.stat().st_mode & _OPEN_TO_OTHERS:
            raise SettingsError(f"{file}: others may read or write the API token; chmod 600")
        token = file.read_text("ascii").strip()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: the API token is not text") from None
    if len(token) < MIN_TOKEN_CHARS:
        raise SettingsError(f"{file}: an API token has at least {MIN_TOKEN_CHARS} characters")
    return token


def is_same_token(given: str, known: str) -> bool:
    """Whether they are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode(), known.encode())


def _create(file: Path) -> None:
    """Put a fresh token there, whole or not at all, unless there is one."""
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # readable by us alone
    with os.fdopen(fd, "w", encoding="ascii") as stream:
        stream.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(draft, file)  # unlike rename it leaves a token that another start put there
    except FileExistsError:
        return
    finally:
        Path(draft).unlink()
