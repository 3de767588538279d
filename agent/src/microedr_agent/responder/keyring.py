"""The public keys whose holders may give orders to this host."""

from collections.abc import Iterable

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open
from nacl.exceptions import BadSignatureError

from microedr_agent.errors import KeyringError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
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
        self._keys: set[bytes] = set()
        for number, raw in enumerate(public_keys, start=1):
            if len(raw) != KEY_BYTES:
                raise KeyringError(f"key {number} has {len(raw)} bytes, an Ed25519 key has {KEY_BYTES}")
            if not crypto_core_ed25519_is_valid_point(raw):
                raise KeyringError(f"key {number} is not a valid Ed25519 key (small order or not on the curve)")
            self._keys.add(raw)
        if len(self._keys) > MAX_KEYS:
            raise KeyringError(f"{len(self._keys)} keys, allowed are {MAX_KEYS}")

    def __len__(self) -> int:
        return len(self._keys)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether a pinned key made ``signature`` over ``message``.

        All keys are tried: the key id beside a signature is only a hint, and saves nothing worth a lookup.
        """
        return any(_verifies(key, signature, message) for key in self._keys)


def _verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        # As nacl.signing does it, without the modules around it: the responder is small.
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True
