"""The bytes that a signature covers: DSSE pre-authentication encoding, protocol version 1.0.2.

Signing and verifying are PyNaCl's, in the actioner and in the responder.
"""

ACTION_PAYLOAD_TYPE = "application/vnd.microedr.action.v1+protobuf"
"""Tells a signed Action from anything else the same key may ever sign."""


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """``"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload``, lengths in ASCII decimal bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(public_key: bytes) -> str:
    """A hint which key signed: 16 hex digits of the key's SHA-256. Never proof of anything."""
    import hashlib  # noqa: PLC0415 - maps libcrypto, 3.5 MB, which a verifier that knows its keys does not need

    return hashlib.sha256(public_key).hexdigest()[:16]
