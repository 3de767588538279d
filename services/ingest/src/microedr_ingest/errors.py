"""Every error ingest raises on purpose, and who is expected to catch it.

* IngestError
  + StreamEndedError     servicer: end the stream with the status
    - PeerRefusedError   servicer: count it too
  + FrameRefusedError    stream: answer Refusal, count it; the stream stays up
"""

from grpc import StatusCode

from microedr.frame import FrameHeader
from microedr.v1.transport_pb2 import RefusalReason


class IngestError(Exception):
    """Base of all of them."""


class StreamEndedError(IngestError):
    """This stream ends with ``status``, though the agent did not ask for it."""

    def __init__(self, detail: str, *, status: StatusCode) -> None:
        super().__init__(detail)
        self.status = status


class PeerRefusedError(StreamEndedError):
    """It ends because of who or how the peer is. ``reason`` is a word of the metric's closed set."""

    def __init__(self, reason: str, detail: str, *, status: StatusCode) -> None:
        super().__init__(detail, status=status)
        self.reason = reason


class FrameRefusedError(IngestError):
    """Nothing of this frame is published. ``header`` is None when it could not be read."""

    def __init__(self, reason: RefusalReason.ValueType, detail: str, *, header: FrameHeader | None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.header = header
