"""Where logs begin and end, asked through an admin client of its own.

A consumer's own connection answers such questions only after the fetch that waits on it for
records, up to half a second later.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported, not marked so

from microedr_chassis.bus.api import TopicPartition
from microedr_chassis.bus.kafka.client import KafkaOptions
from microedr_chassis.errors import BusUnavailableError

_STALE = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)


class Offsets:
    """One per bus. Every question raises BusUnavailableError when no broker answers it in time."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._admin = self._connect()

    def _connect(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._options.servers, "log_level": 2})

    async def firsts(self, sources: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Offset of the oldest record of each."""
        return await self._ask(sources, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # as above

    async def ends(self, sources: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offset the next record of each will have."""
        return await self._ask(sources, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # as above

    async def at(self, sources: Sequence[TopicPartition], timestamp_unix_ms: int) -> Mapping[TopicPartition, int]:
        """The first record at or after this time, else the end."""
        found = await self._ask(sources, OffsetSpec.for_timestamp(max(0, timestamp_unix_ms)))
        missing = [source for source, offset in found.items() if offset < 0]
        return {**found, **await self.ends(missing)}

    async def clamp(self, source: TopicPartition, offset: int) -> int:
        """To what the log holds."""
        first, end = (await self.firsts([source]))[source], (await self.ends([source]))[source]
        return min(max(offset, first), end)

    async def _ask(self, sources: Sequence[TopicPartition], spec: OffsetSpec) -> Mapping[TopicPartition, int]:
        if not sources:
            return {}
        try:
            try:
                return await self._ask_once(sources, spec)
            except KafkaException as error:
                if error.args[0].code() not in _STALE:
                    raise
                # An admin client never forgets which broker led a partition, and in which epoch.
                self._admin = self._connect()
                return await self._ask_once(sources, spec)
        except KafkaException as error:
            raise BusUnavailableError(f"kafka at {self._options.servers}: {error.args[0].str()}") from error

    async def _ask_once(self, sources: Sequence[TopicPartition], spec: OffsetSpec) -> Mapping[TopicPartition, int]:
        asked = self._admin.list_offsets(
            {KafkaPartition(*source): spec for source in sources}, request_timeout=self._options.connect_timeout_s
        )
        answers = await asyncio.gather(*map(asyncio.wrap_future, asked.values()), return_exceptions=True)
        found = {}
        for partition, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found[TopicPartition(partition.topic, partition.partition)] = int(answer.offset)
        return found


@dataclass(frozen=True, slots=True)
class Link:
    """What a subscription needs of its bus."""

    options: KafkaOptions
    offsets: Offsets
    is_away: Callable[[], bool]
