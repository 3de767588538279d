"""The key that agents obey: made once, kept 0600, used for nothing but orders."""

import contextlib
import os
import stat
from pathlib import Path

from nacl.signing import SigningKey

from microedr.signing import ACTION_PAYLOAD_TYPE, key_id, pre_authentication_encoding
from microedr.v1.action_pb2 import Action, Signature, SignedAction
from microedr_actioner.errors import SigningKeyError

_SEED_BYTES = 32
_FILE_MODE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Signer:
    """Holds the private key."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.public_key = bytes(key.verify_key)
        self._key_id = key_id(self.public_key)

    def sign(self, action: Action) -> SignedAction:
        """``action`` as the bytes that travel, and the signature over exactly those."""
        content = action.SerializeToString()
        signature = self._key.sign(pre_authentication_encoding(ACTION_PAYLOAD_TYPE, content)).signature
        return SignedAction(action=content, signatures=[Signature(key_id=self._key_id, signature=signature)])


def ensure_signing_key(path: Path) -> bytes:
    """Make the key file if there is none; returns the public key, 32 bytes, for the agents' ``trusted_keys``.

    Raises:
        SigningKeyError: It cannot be made, or the one that is there cannot be used.
    """
    if not path.exists():
        _create(path)
    return load_signer(path).public_key


def load_signer(path: Path) -> Signer:
    """The signer of the key in ``path``: 64 hex digits, readable by its owner alone.

    Raises:
        SigningKeyError: It is missing, open to others, somebody else's, or no key.
    """
    try:
        with path.open(encoding="ascii") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & _OTHERS:
                raise SigningKeyError(
                    f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others read it; allowed is 0600"
                )
            if status.st_uid not in {os.geteuid(), 0}:
                raise SigningKeyError(
                    f"{path}: belongs to uid {status.st_uid}; allowed are this process's own and root"
                )
            seed = bytes.fromhex(file.read(2 * _SEED_BYTES + 2).strip())
        return Signer(SigningKey(seed))
    except OSError as error:
        raise SigningKeyError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError):  # the library's own text could quote the seed
        raise SigningKeyError(f"{path}: not a signing key; allowed is 64 hex digits") from None


def _create(path: Path) -> None:
    # Linked into place when whole: of two first starts one wins, and neither sees half a key.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(bytes(SigningKey.generate()).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(directory)
        os.close(directory)
    except OSError as error:
        raise SigningKeyError(f"{path}: {error.strerror}") from error
