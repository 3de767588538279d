"""The streams that are up: one per host, the newest wins."""

import asyncio
from collections.abc import Iterator

from grpc import StatusCode

from microedr_ingest.errors import StreamEndedError
from microedr_ingest.orders import HostKey
from microedr_ingest.stream import AgentStream


class StreamRegistry:
    """Knows the one stream of each connected host."""

    def __init__(self) -> None:
        self._streams: dict[HostKey, AgentStream] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[AgentStream]:
        return iter(tuple(self._streams.values()))

    def add(self, stream: AgentStream) -> None:
        """``stream`` is its host's from now on. An older one is ended: its connection may be half dead."""
        key = (stream.peer.tenant_id, stream.peer.host_id)
        older = self._streams.get(key)
        self._streams[key] = stream
        self._empty.clear()
        if older is not None:
            older.close(StreamEndedError("a newer stream of this host took its place", status=StatusCode.ABORTED))

    def remove(self, stream: AgentStream) -> bool:
        """``stream`` has ended. False: a newer one had taken its place."""
        key = (stream.peer.tenant_id, stream.peer.host_id)
        if self._streams.get(key) is not stream:
            return False
        del self._streams[key]
        if not self._streams:
            self._empty.set()
        return True

    async def emptied(self) -> None:
        """Wait until no stream is up."""
        await self._empty.wait()

    def of(self, host: HostKey) -> AgentStream | None:
        """The stream of ``host``, when it is connected here."""
        return self._streams.get(host)
