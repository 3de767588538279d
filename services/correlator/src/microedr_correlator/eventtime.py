"""Event time: what a host's clock says, held close to the backend's, and the buckets cut from it."""

NS_PER_S = 1_000_000_000
WINDOW_NS = 15 * 60 * NS_PER_S
"""How far back a host is remembered."""

BUCKET_NS = WINDOW_NS
"""Alerts are told apart and limited per aligned span of this length: a replay that begins at a span's
start sees every match of it, and so raises the same alerts."""

MAX_SKEW_NS = 5 * 60 * NS_PER_S
"""Event time counts at most this far from the time of receipt: a wrong clock can neither freeze nor flush a
window, and a spool that comes late still lands in a bucket that a replay covers."""


def clamp_ns(event_unix_ns: int, received_unix_ns: int) -> int:
    """``event_unix_ns``, moved to within ``MAX_SKEW_NS`` of the time of receipt."""
    return min(max(event_unix_ns, received_unix_ns - MAX_SKEW_NS), received_unix_ns + MAX_SKEW_NS)


def bucket_of(clamped_unix_ns: int) -> int:
    """Number of the aligned bucket that holds this moment."""
    return clamped_unix_ns // BUCKET_NS


def oldest_open_bucket(received_unix_ns: int) -> int:
    """The oldest bucket that anything received from now on can fall into."""
    return bucket_of(received_unix_ns - MAX_SKEW_NS)
