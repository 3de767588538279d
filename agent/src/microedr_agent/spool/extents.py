"""Promises that continue one another are one promise: both ends keep few, however many commits there are."""

from collections import deque
from dataclasses import replace

from microedr_agent.ipc_messages import Extent


def joined(earlier: Extent, later: Extent) -> Extent | None:
    """Both as one; None when ``later`` does not follow ``earlier`` without a gap in the same segment."""
    same_segment = (earlier.epoch, earlier.lane, earlier.segment) == (later.epoch, later.lane, later.segment)
    if same_segment and earlier.end_bytes == later.begin_bytes and earlier.last_seq + 1 == later.first_seq:
        return replace(earlier, end_bytes=later.end_bytes, last_seq=later.last_seq)
    return None


def add_extent(waiting: deque[Extent], extent: Extent) -> None:
    """Append ``extent``, to the last one when it continues that."""
    both = joined(waiting[-1], extent) if waiting else None
    if both is None:
        waiting.append(extent)
    else:
        waiting[-1] = both
