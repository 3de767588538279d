"""Certificate, key and authorities of this host, read anew for each connection.

A key that only root may read is opened before root is given up and read through that descriptor from
then on; a renewed one must then be written in place, or be readable by the uploader's user.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from microedr_agent.config import MtlsConfig
from microedr_agent.errors import CredentialsError

_MAX_PEM_BYTES = 256 * 1024
_BAD = 3
"""Exit status of the checking child when a file is wrong."""


@dataclass(frozen=True, slots=True)
class Pem:
    """File contents; never logged."""

    authorities: bytes
    key: bytes
    chain: bytes


class Credentials:
    """The three files. Make it while still root, if root at all."""

    def __init__(self, config: MtlsConfig) -> None:
        """Open what may be out of reach later.

        Raises:
            CredentialsError: A file is missing, unreadable, or a key that everybody may read.
        """
        self._files = {path: _open(path) for path in (config.ca_file, config.key_file, config.cert_file)}
        self._config = config
        mode = os.fstat(self._files[config.key_file]).st_mode
        if mode & stat.S_IRWXO:
            raise CredentialsError(
                f"ingest.mTLS.key_file: {config.key_file} is open to every user; allowed is mode 0640 or less"
            )

    def read(self) -> Pem:
        """What the files hold now.

        Raises:
            CredentialsError: One of them cannot be read or does not look like PEM.
        """
        config = self._config
        return Pem(
            self._read("ca_file", config.ca_file),
            self._read("key_file", config.key_file),
            self._read("cert_file", config.cert_file),
        )

    def check(self) -> None:
        """Raise CredentialsError unless the three fit together.

        Done by a short-lived child: a TLS library of 5 MB is not worth keeping for it. Fork before threads exist.
        """
        pem = self.read()
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                problem = _problem(pem)
                os.write(write_fd, problem.encode()[:1024])
                os._exit(_BAD if problem else 0)
            except BaseException:  # noqa: BLE001 - a child of fork must never return
                os._exit(1)
        os.close(write_fd)
        with os.fdopen(read_fd, "rb") as told:
            problem = told.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) == _BAD:
            field, _, reason = problem.partition(" ")
            path = getattr(self._config, field)
            raise CredentialsError(f"ingest.mTLS.{field}: {path}: {reason}")

    def close(self) -> None:
        """Idempotent."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _read(self, field: str, path: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError:
            # Out of reach since root was given up: the descriptor still leads there.
            try:
                content = os.pread(self._files[path], _MAX_PEM_BYTES, 0)
            except OSError as error:
                raise CredentialsError(f"ingest.mTLS.{field}: {path}: {error.strerror}") from error
        if b"-----BEGIN " not in content:
            raise CredentialsError(f"ingest.mTLS.{field}: {path}: is not PEM")
        return content


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CredentialsError(f"ingest.mTLS: {path}: {error.strerror}") from error


def _problem(pem: Pem) -> str:
    """``"field reason"``; empty when all is well."""
    import ssl  # noqa: PLC0415 - in the child alone
    import tempfile  # noqa: PLC0415 - as above

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.authorities.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return "ca_file holds no certificate that can be used"
    # load_cert_chain takes names of files only; memory files never reach a disk.
    with (
        tempfile.TemporaryFile()
        if not hasattr(os, "memfd_create")
        else os.fdopen(os.memfd_create("pem"), "w+b") as both
    ):
        both.write(pem.chain)
        both.flush()
        name = f"/proc/self/fd/{both.fileno()}"
        with os.fdopen(os.memfd_create("key"), "w+b") as key:
            key.write(pem.key)
            key.flush()
            try:
                context.load_cert_chain(name, f"/proc/self/fd/{key.fileno()}", password="")
            except ssl.SSLError as error:
                reason = (error.reason or "").replace("_", " ").lower()
                is_mismatch = "mismatch" in reason
                return (
                    f"key_file does not belong to the certificate ({reason})"
                    if is_mismatch
                    else f"cert_file cannot be used ({reason or 'not a certificate and key'})"
                )
    return ""
