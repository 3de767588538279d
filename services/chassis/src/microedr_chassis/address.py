"""Addresses that services listen on, as text: ``host:port``, ``[::1]:port``; port 0 lets the kernel choose."""

from typing import Annotated

from pydantic import AfterValidator

_MAX_PORT = 65535


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``text``.

    Raises:
        ValueError: It is not ``host:port``; the text says what is wrong.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise ValueError("write host:port, for example 127.0.0.1:8443")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError("write an IPv6 address in brackets, for example [::1]:8443")
    if int(port) > _MAX_PORT:
        raise ValueError(f"a port is at most {_MAX_PORT}")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """The text of ``split_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked(text: str) -> str:
    split_address(text)
    return text


ListenAddress = Annotated[str, AfterValidator(_checked)]
"""A settings field of this form."""
