"""Trace ids: drawn where a frame enters, carried in record headers up to the alert and the action."""

import random

_TRACE_BITS = 128  # as W3C trace context, so that spans can join later


def new_trace_id() -> str:
    """A fresh id, 32 hex digits. Drawn for every frame; it is no secret, so the kernel is not asked."""
    return f"{random.getrandbits(_TRACE_BITS):032x}"
