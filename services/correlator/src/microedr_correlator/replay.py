"""Where to begin after a restart, so that windows and alerts are as they were when the last owner stopped.

Everything that can share a bucket or a window with what comes next must be read again: from the start of
the oldest bucket that can still be open at the committed position, and a window before that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from microedr_chassis.bus.api import Subscription, TopicPartition
from microedr_correlator.eventtime import BUCKET_NS, WINDOW_NS, oldest_open_bucket

_NS_PER_MS = 1_000_000
_FIRST_STEP_NS = 60 * 1_000_000_000
_MAX_STEPS = 16
"""Doublings of a minute: 45 days, longer than any topic is kept."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where one topic is read from, and up to where that only rebuilds state."""

    source: TopicPartition
    offset: int
    committed: int
    """0: nothing was ever committed, all of it is news."""


async def find_starts(
    subscription: Subscription, sources: Sequence[TopicPartition], now_unix_ns: int
) -> dict[TopicPartition, Start]:
    """The start of each of ``sources``, which are the topics of one partition number.

    Raises:
        BusUnavailableError: The bus is away.
    """
    committed = {source: await subscription.committed(source) for source in sources}
    if all(offset is None for offset in committed.values()):
        return {source: Start(source, 0, 0) for source in sources}
    # A topic without a commit is read from its first record on, and what that needs of the others as well.
    times = [
        await _time_of(
            subscription, source, await subscription.offset_at(source, 0) if offset is None else offset, now_unix_ns
        )
        for source, offset in committed.items()
    ]
    since_unix_ns = replay_since(min(times))
    starts = {}
    for source, offset in committed.items():
        if offset is None:
            starts[source] = Start(source, 0, 0)
        else:
            first = await subscription.offset_at(source, max(since_unix_ns, 0) // _NS_PER_MS)
            starts[source] = Start(source, min(first, offset), offset)
    return starts


def replay_since(position_unix_ns: int) -> int:
    """From when on records count, when what comes next was published at ``position_unix_ns`` or later."""
    return oldest_open_bucket(position_unix_ns) * BUCKET_NS - WINDOW_NS


async def _time_of(subscription: Subscription, source: TopicPartition, offset: int, now_unix_ns: int) -> int:
    """A moment before which the record at ``offset`` was not published, at most twice as long ago as it was."""
    step_ns = _FIRST_STEP_NS
    for _ in range(_MAX_STEPS):
        moment_ns = max(now_unix_ns - step_ns, 0)
        if await subscription.offset_at(source, moment_ns // _NS_PER_MS) <= offset:
            return moment_ns
        step_ns *= 2
    return 0
