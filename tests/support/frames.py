"""Sealed frames for tests: good ones by default."""

import time
import uuid
from collections.abc import Callable

from microedr.batch import encode_batch
from microedr.frame import FIRST_CHAIN, seal
from microedr.limits import SCHEMA_VERSION
from microedr.v1.event_pb2 import AgentEvent, EventBatch

EPOCH = uuid.UUID("0190a0a0-0000-4000-8000-000000000001")


def event(seqno: int, host_id: str = "") -> AgentEvent:
    """A good event: the end of a process."""
    made = AgentEvent(seqno=seqno, host_id=host_id, timestamp_unix_ns=time.time_ns(), timestamp_boot_ns=seqno)
    made.proc_exit.exit_code = 0
    return made


def batch(first_seq: int = 1, count: int = 3) -> EventBatch:
    """Events in dense sequence."""
    return EventBatch(events=[event(seqno) for seqno in range(first_seq, first_seq + count)])


def frame(  # noqa: PLR0913 - what a test may want to be wrong
    first_seq: int = 1,
    count: int = 3,
    *,
    change: Callable[[EventBatch], object] = lambda _batch: None,
    epoch: uuid.UUID = EPOCH,
    lane: int = 0,
    schema_version: int = SCHEMA_VERSION,
    says_count: int | None = None,
) -> bytes:
    """A sealed frame of ``count`` events; ``change`` may break its content before it is sealed."""
    content = batch(first_seq, count)
    change(content)
    return seal(
        encode_batch(content),
        lane=lane,
        epoch=epoch,
        first_seq=first_seq,
        count=count if says_count is None else says_count,
        sealed_unix_ns=time.time_ns(),
        previous_chain=FIRST_CHAIN,
        schema_version=schema_version,
    ).sealed
