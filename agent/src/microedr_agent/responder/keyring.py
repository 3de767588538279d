"""The public keys whose holders may give orders to this host."""

from collections.abc import Iterable

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from microedr_agent.errors import KeyringError

KEY_BYTES = 32
MAX_KEYS = 8
"""Two are enough for a rotation with overlap; every key more is one more that can leak."""


class Keyring:
    """Pinned Ed25519 keys, loaded once. Key bytes never come from the wire."""

    def __init__(self, public_keys: Iterable[bytes]) -> None:
        """Load ``public_keys``, 32 bytes each.

        An empty keyring is allowed and verifies nothing.

        Raises:
            KeyringError: A key is not a point of the main subgroup in canonical form, or there are too many.
                Under a small-order key anyone can make a signature that fits every message.
        """
        self._keys: dict[bytes, VerifyKey] = {}
        for number, raw in enumerate(public_keys, start=1):
            if len(raw) != KEY_BYTES:
                raise KeyringError(f"key {number} has {len(raw)} bytes, an Ed25519 key has {KEY_BYTES}")
            if not crypto_core_ed25519_is_valid_point(raw):
                raise KeyringError(f"key {number} is not a valid Ed25519 key (small order or not on the curve)")
            self._keys[raw] = VerifyKey(raw)
        if len(self._keys) > MAX_KEYS:
            raise KeyringError(f"{len(self._keys)} keys, allowed are {MAX_KEYS}")

    def __len__(self) -> int:
        return len(self._keys)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether a pinned key made ``signature`` over ``message``.

        All keys are tried: the key id beside a signature is only a hint, and saves nothing worth a lookup.
        """
        return any(_verifies(key, signature, message) for key in self._keys.values())


def _verifies(key: VerifyKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(message, signature)
    except (BadSignatureError, ValueError):  # ValueError: not 64 bytes
        return False
    return True
