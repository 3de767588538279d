"""The steps of ``local.GroupStore`` on a bus file: changes go through the writer, the rest through the reader."""

from collections.abc import Callable, Mapping, Sequence

from microedr_chassis.bus.api import TopicPartition
from microedr_chassis.bus.local import Bounds, LocalSubscription, Membership, Plan, Read
from microedr_chassis.bus.sqlite import groups
from microedr_chassis.bus.sqlite.log import LogFile
from microedr_chassis.bus.sqlite.reader import Reader
from microedr_chassis.bus.sqlite.session import Session
from microedr_chassis.bus.sqlite.writer import Writer


class FileStore:
    """Implements ``local.GroupStore``.

    Args:
        writer: Runs what changes something.
        reader: Runs what does not.
        session: Whom the members belong to.
        forget: The bus's own part of ``GroupStore``.
        changed: Called with a group whose members have something to do now.
    """

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        session: Session,
        *,
        forget: Callable[[LocalSubscription], None],
        changed: Callable[[str], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._session = session
        self._forget = forget
        self._changed = changed

    def forget(self, subscription: LocalSubscription) -> None:
        """See ``local.GroupStore``."""
        self._forget(subscription)

    async def join(self, membership: Membership) -> None:
        """See ``local.GroupStore``; also frees what members killed since left behind."""

        def step(file: LogFile) -> None:
            groups.reap(file, self._session.is_alive)
            groups.join(file, membership, self._session.name)

        await self._writer.call(step)
        self._changed(membership.group)

    async def leave(self, membership: Membership) -> None:
        """See ``local.GroupStore``."""
        await self._writer.call(lambda file: groups.leave(file, membership))
        self._changed(membership.group)

    async def reap(self) -> set[str]:
        """Remove the members of dead sessions; the groups that changed."""
        changed = await self._writer.call(lambda file: groups.reap(file, self._session.is_alive))
        self._session.bury()
        return changed

    async def plan(self, membership: Membership) -> Plan:
        """See ``local.GroupStore``."""
        return await self._reader.call(lambda file: groups.plan(file, membership))

    async def settle(self, membership: Membership, give_up: frozenset[TopicPartition]) -> Plan:
        """See ``local.GroupStore``."""
        settled = await self._writer.call(lambda file: groups.settle(file, membership, give_up))
        if give_up:
            self._changed(membership.group)
        return settled

    async def commit(self, membership: Membership, next_offsets: Mapping[TopicPartition, int]) -> None:
        """See ``local.GroupStore``."""
        await self._writer.call(lambda file: groups.commit(file, membership, next_offsets))

    async def bounds(self, group: str, sources: Sequence[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """See ``local.GroupStore``."""
        return await self._reader.call(lambda file: groups.bounds(file, group, sources))

    async def offset_at(self, source: TopicPartition, timestamp_unix_ms: int) -> int:
        """See ``local.GroupStore``."""
        return await self._reader.call(lambda file: file.offset_at(file.log_of(source), timestamp_unix_ms))

    async def read(self, group: str, version: int, positions: Mapping[TopicPartition, int], max_records: int) -> Read:
        """See ``local.GroupStore``."""

        def step(file: LogFile) -> Read:
            current = groups.version(file, group) if group else version
            if current != version:
                return Read(current, ())
            return Read(current, file.read(positions, max_records))

        return await self._reader.call(step)

    async def starts(self, topics: Sequence[str], since_unix_ms: int) -> Mapping[TopicPartition, int]:
        """Where a tail of these topics begins."""

        def step(file: LogFile) -> dict[TopicPartition, int]:
            logs = [log for topic in topics for log in file.logs_of(topic)]
            return {file.source_of(log): file.offset_at(log, since_unix_ms) for log in logs}

        return await self._reader.call(step)
