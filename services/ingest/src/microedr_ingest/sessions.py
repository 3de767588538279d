"""What ingest tells the others about connected hosts: the records of topic hosts."""

import time
from collections.abc import Sequence

from microedr import headers
from microedr.v1.event_pb2 import AgentHeartbeat
from microedr.v1.transport_pb2 import Hello, HostSession, SessionState
from microedr_chassis.bus.api import Record
from microedr_chassis.bus.topics import HOSTS
from microedr_chassis.identity import Peer
from microedr_chassis.tracing import new_trace_id
from microedr_ingest.outlet import Outlet

_MAX_TEXT_CHARS = 256
_MAX_ITEMS = 64


class Session:
    """One connected agent, from its Hello to the end of its stream.

    Tenant and host come from the certificate; what the agent says of itself is cut to size.
    """

    def __init__(self, peer: Peer, hello: Hello, *, ingest_id: str, outlet: Outlet) -> None:
        self._outlet = outlet
        self._record = HostSession(
            tenant_id=peer.tenant_id,
            host_id=peer.host_id,
            hostname=_cut(hello.hostname),
            os=_cut(hello.os),
            os_version=_cut(hello.os_version),
            kernel_version=_cut(hello.kernel_version),
            agent_version=_cut(hello.agent_version),
            collector=_cut(hello.collector),
            boot_id=_cut(hello.boot_id),
            session_nonce=hello.session_nonce,
            ingest_id=ingest_id,
        )

    def connected(self) -> None:
        """The stream is up."""
        self._publish(SessionState.SESSION_STATE_CONNECTED)

    def beat(self, heartbeat: AgentHeartbeat) -> None:
        """The agent told its state."""
        self._record.spool_pending_events = heartbeat.spool_pending_events
        self._record.ring_dropped_total = heartbeat.ring_dropped_total
        if heartbeat.collector:
            self._record.collector = _cut(heartbeat.collector)
        self._record.attach_failures[:] = _cut_all(heartbeat.attach_failures)
        self._record.blind_spots[:] = _cut_all(heartbeat.blind_spots)
        self._publish(SessionState.SESSION_STATE_CONNECTED)

    def disconnected(self) -> None:
        """The stream has ended and no newer one took its place."""
        self._publish(SessionState.SESSION_STATE_DISCONNECTED)

    def _publish(self, state: SessionState.ValueType) -> None:
        record = self._record
        record.state = state
        record.at_unix_ns = time.time_ns()
        self._outlet.offer(
            Record(
                HOSTS,
                record.host_id.encode(),
                record.SerializeToString(),
                {
                    headers.TENANT: record.tenant_id.encode(),
                    headers.HOST: record.host_id.encode(),
                    headers.TRACE: new_trace_id().encode(),
                },
            )
        )


def _cut(text: str) -> str:
    return text[:_MAX_TEXT_CHARS]


def _cut_all(texts: Sequence[str]) -> list[str]:
    return [_cut(text) for text in texts[:_MAX_ITEMS]]
