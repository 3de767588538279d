"""Trace ids: drawn where a frame enters, carried in record headers up to the alert and the action."""

import os

_TRACE_BYTES = 16  # as W3C trace context, so that spans can join later


def new_trace_id() -> str:
    """A fresh id, 32 hex digits."""
    return os.urandom(_TRACE_BYTES).hex()
