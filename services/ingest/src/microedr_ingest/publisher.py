"""Puts the checked frames of one host on the bus: the record is the frame's content, byte for byte."""

import asyncio
import time

from microedr import headers
from microedr.frame import FrameHeader
from microedr.limits import SCHEMA_VERSION
from microedr_chassis.bus.api import Bus, Record
from microedr_chassis.bus.topics import EVENTS
from microedr_chassis.errors import BusFullError
from microedr_chassis.identity import Peer
from microedr_chassis.tracing import new_trace_id
from microedr_ingest.frames import CheckedFrame
from microedr_ingest.window import UnderWay

_RETRY_S = 0.02


class FramePublisher:
    """Publishes under the names of the certificate, whatever the events say."""

    def __init__(self, bus: Bus, peer: Peer, *, full_timeout_s: float) -> None:
        self._bus = bus
        self._full_timeout_s = full_timeout_s
        self._key = peer.host_id.encode()
        self._headers = {
            headers.TENANT: peer.tenant_id.encode(),
            headers.HOST: self._key,
            headers.SCHEMA_VERSION: b"%d" % SCHEMA_VERSION,
        }

    async def submit(self, frame: CheckedFrame, oldest: UnderWay | None) -> "asyncio.Future[object]":
        """Put ``frame`` under way; while the bus's queue is full, wait for ``oldest``, or a moment.

        Raises:
            BusFullError: It stayed full.
            BusUnavailableError: The bus is away.
            BusRecordError: It will never take this.
        """
        record = Record(EVENTS, self._key, frame.raw, self._record_headers(frame.header))
        try:
            return self._bus.submit(record)  # type: ignore[return-value] # what it yields is never looked at
        except BusFullError:
            deadline_s = time.monotonic() + self._full_timeout_s
        while True:
            if oldest is not None and oldest.future is not None and not oldest.is_settled:
                await asyncio.wait((oldest.future,), timeout=_RETRY_S)
            else:
                await asyncio.sleep(_RETRY_S)
            try:
                return self._bus.submit(record)  # type: ignore[return-value] # as above
            except BusFullError:
                if time.monotonic() > deadline_s:
                    raise

    def _record_headers(self, header: FrameHeader) -> dict[str, bytes]:
        return {
            **self._headers,
            headers.EPOCH: header.epoch_id.encode(),
            headers.LANE: b"%d" % header.lane,
            headers.FIRST_SEQ: b"%d" % header.first_seq,
            headers.LAST_SEQ: b"%d" % header.last_seq,
            headers.COUNT: b"%d" % header.count,
            headers.TRACE: new_trace_id().encode(),
            headers.RECEIVED_UNIX_NS: b"%d" % time.time_ns(),
        }
