"""Knowing when a replay has read all that was there when it began."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from microedr_chassis.bus.api import ConsumedRecord, Subscription, TopicPartition


@dataclass(slots=True)
class CatchUp:
    """Positions still to be reached, per log."""

    _ends: dict[TopicPartition, int] = field(default_factory=dict)

    async def begin(self, subscription: Subscription, sources: Iterable[TopicPartition], *, since_unix_ms: int) -> None:
        """Seek each of ``sources`` to this time, or to what the group has not committed if that is older.

        Raises:
            BusUnavailableError: The backend is away.
        """
        for source in sources:
            end = await subscription.end_offset(source)
            committed = await subscription.committed(source)
            since = await subscription.offset_at(source, since_unix_ms)
            start = min(end, since, end if committed is None else committed)
            await subscription.seek(source, start)
            if start < end:
                self._ends[source] = end
            else:
                self._ends.pop(source, None)

    def passed(self, record: ConsumedRecord) -> None:
        """``record`` was consumed."""
        end = self._ends.get(record.source)
        if end is not None and record.offset + 1 >= end:
            del self._ends[record.source]

    def drop(self, sources: Iterable[TopicPartition]) -> None:
        """These are another's now."""
        for source in sources:
            self._ends.pop(source, None)

    def is_done(self, partition: int | None = None) -> bool:
        """Whether all logs, or those with this number, were read up to their end."""
        return not any(partition in {None, source.partition} for source in self._ends)
