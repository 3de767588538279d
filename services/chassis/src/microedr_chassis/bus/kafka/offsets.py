"""Where logs begin and end, asked through an admin client of its own.

A consumer's own connection answers such questions only after the fetch that waits on it for
records, up to half a second later.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # exported, not marked so

from microedr_chassis.bus.api import TopicPartition
from microedr_chassis.bus.kafka.client import KafkaOptions
from microedr_chassis.errors import BusUnavailableError


class Offsets:
    """One per bus. Every question raises BusUnavailableError when no broker answers it in time."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._admin = AdminClient({"bootstrap.servers": options.servers, "log_level": 2})

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
            asked = self._admin.list_offsets(
                {KafkaPartition(*source): spec for source in sources}, request_timeout=self._options.connect_timeout_s
            )
            answers = {
                TopicPartition(partition.topic, partition.partition): await asyncio.wrap_future(answer)
                for partition, answer in asked.items()
            }
        except KafkaException as error:
            raise BusUnavailableError(f"kafka at {self._options.servers}: {error.args[0].str()}") from error
        return {source: int(answer.offset) for source, answer in answers.items()}


@dataclass(frozen=True, slots=True)
class Link:
    """What a subscription needs of its bus."""

    options: KafkaOptions
    offsets: Offsets
    is_away: Callable[[], bool]
