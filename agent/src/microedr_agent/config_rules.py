"""What one setting may be: a rule turns a YAML value, or text from a flag or a variable, into a value.

A rule raises ``ValueError`` with what is allowed; where the value came from is added by ``config_sources``.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from microedr.ids import is_valid_name

PUBLIC_KEY_BYTES = 32
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Rule:
    """How one setting is read.

    ``check`` takes what YAML gives; ``from_text`` makes that of a flag's or variable's text.
    """

    allowed: str
    check: Callable[[object], Any]
    from_text: Callable[[str], object] = str

    def read(self, value: object) -> Any:
        """The setting's value.

        Raises:
            ValueError: Its text says what is allowed.
        """
        try:
            return self.check(value)
        except (ValueError, TypeError) as error:
            detail = f" ({error})" if str(error) else ""
            raise ValueError(f"allowed is {self.allowed}{detail}") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError
    return value


def name() -> Rule:
    """A tenant or host id."""

    def check(value: object) -> str:
        text = _text(value)
        if not is_valid_name(text):
            raise ValueError
        return text

    return Rule("1 to 64 letters, digits, '.', '_' and '-'", check)


def integer(least: int, most: int, unit: str = "") -> Rule:
    """A whole number within bounds, both allowed."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    return Rule(f"a whole number from {least} to {most}{unit and ' ' + unit}", check, int)


def power_of_two(least: int, most: int, unit: str) -> Rule:
    """The size of a ring buffer."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most or value & (value - 1):
            raise ValueError
        return value

    return Rule(f"a power of two from {least} to {most} {unit}", check, int)


def number(least: float, most: float, unit: str) -> Rule:
    """A number within bounds, both allowed."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError
        return float(value)

    return Rule(f"a number from {least:g} to {most:g} {unit}", check, float)


def flag() -> Rule:
    """Yes or no."""

    def from_text(text: str) -> object:
        return {"true": True, "false": False}.get(text.lower(), text)

    def check(value: object) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return Rule("true or false", check, from_text)


def choice(*words: str) -> Rule:
    """One of some words."""

    def check(value: object) -> str:
        text = _text(value)
        if text not in words:
            raise ValueError
        return text

    return Rule("one of " + ", ".join(words), check)


def path() -> Rule:
    """An absolute path. A daemon's working directory says nothing, so relative ones have no meaning."""

    def check(value: object) -> Path:
        given = Path(_text(value))
        if not given.is_absolute():
            raise ValueError
        return given

    return Rule("an absolute path", check)


def url() -> Rule:
    """Where ingest listens. TLS only; a path, as in ``https://host/v1/events``, is accepted and not used."""

    def check(value: object) -> str:
        text = _text(value)
        parts = urlsplit(text)
        if parts.scheme not in {"https", "grpcs"} or not parts.hostname or parts.username or parts.query:
            raise ValueError
        if parts.port is not None and not 0 < parts.port <= _MAX_PORT:
            raise ValueError
        return text

    return Rule("https://host[:port] or grpcs://host[:port]", check)


def _split(text: str) -> object:
    return [part.strip() for part in text.split(",") if part.strip()]


def _items(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_text(item) for item in value]


def words(*known: str) -> Rule:
    """A list of words from a closed set, or of any words when none are given."""

    def check(value: object) -> tuple[str, ...]:
        items = _items(value)
        for item in items:
            if known and item not in known:
                raise ValueError(f"{item!r} is not")
        return tuple(dict.fromkeys(items))

    return Rule("a list of " + (", ".join(known) if known else "names or paths"), check, _split)


def public_key(text: str) -> bytes:
    """An Ed25519 public key in hex or base64.

    Raises:
        ValueError: It is neither, or not 32 bytes.
    """
    if _HEX_KEY.fullmatch(text):
        return bytes.fromhex(text)
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != PUBLIC_KEY_BYTES:
        raise ValueError("a key is 64 hex digits or the base64 of 32 bytes")
    return raw


def public_keys(read_file: Callable[[Path], str]) -> Rule:
    """A list of public keys, or the absolute path of a file with one a line; ``#`` begins a comment."""

    def check(value: object) -> tuple[bytes, ...]:
        if isinstance(value, str) and value.startswith("/"):
            lines = (line.split("#", 1)[0].strip() for line in read_file(Path(value)).splitlines())
            return tuple(dict.fromkeys(public_key(line) for line in lines if line))
        return tuple(dict.fromkeys(public_key(item) for item in _items(value)))

    def from_text(text: str) -> object:
        return text if text.startswith("/") else _split(text)

    return Rule("a list of Ed25519 public keys in hex or base64, or a file of them", check, from_text)
