"""The writer: alerts, hosts and steps of actions from the bus into the database, a batch in one transaction."""

import time
from collections.abc import Callable, Sequence

import structlog

from microedr.v1.action_pb2 import ActionUpdate
from microedr.v1.detection_pb2 import Alert
from microedr.v1.transport_pb2 import HostSession
from microedr_alerts import statements
from microedr_alerts.errors import PostgresRejectedError, PostgresUnavailableError
from microedr_alerts.postgres import Database, use_tenant
from microedr_alerts.projection import Change, action_change, alert_change, host_change, parse, tenant_of
from microedr_chassis import catalogue
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import ConsumedRecord, Subscription, TopicPartition
from microedr_chassis.dead_letters import DeadLetters
from microedr_chassis.errors import DeadLetterError, RetryLaterError
from microedr_chassis.metrics import Metrics

_log = structlog.get_logger()

TOPICS = (topics.ALERTS, topics.ACTIONS, topics.ACTION_RESULTS, topics.HOSTS)
GROUP = "microedr-alerts"

OUTBOX_KEPT_NS = 24 * 3600 * 1_000_000_000
"""How far back a stream may resume; what is older is told by the lists."""

_PRUNE_INTERVAL_S = 600.0


class AlertsWriter:
    """A ``Consumer``. What it took is kept until a flush stored it; storing again changes nothing."""

    def __init__(
        self,
        database: Database,
        *,
        dead_letters: DeadLetters,
        metrics: Metrics,
        clock_unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._database = database
        self._dead_letters = dead_letters
        self._stored = metrics.counter(catalogue.ALERTS_STORED)
        self._clock_unix_ns = clock_unix_ns
        self._pending: list[tuple[ConsumedRecord, Change]] = []
        self._prune_due_s = 0.0

    async def assigned(self, subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Nothing to prepare."""

    async def revoked(self, _subscription: Subscription, partitions: Sequence[TopicPartition]) -> None:
        """Their next owner gets what was not stored."""
        gone = frozenset(partitions)
        self._pending = [(record, change) for record, change in self._pending if record.source not in gone]

    async def consume(self, record: ConsumedRecord) -> None:
        """Turn the record into a row; ``flush`` stores it."""
        self._pending.append((record, self._change(record)))

    async def flush(self) -> None:
        """Store all that was consumed, in one transaction."""
        if not self._pending:
            return
        try:
            await self._store([change for _, change in self._pending])
        except PostgresRejectedError:
            await self._store_singly()
        except PostgresUnavailableError as error:
            raise RetryLaterError(str(error)) from error
        self._pending.clear()

    def _change(self, record: ConsumedRecord) -> Change:
        tenant_id = tenant_of(record.headers)
        match record.topic:
            case topics.ALERTS:
                return alert_change(tenant_id, parse(Alert, record.value), self._clock_unix_ns())
            case topics.HOSTS:
                return host_change(tenant_id, parse(HostSession, record.value))
            case topics.ACTIONS | topics.ACTION_RESULTS:
                return action_change(tenant_id, parse(ActionUpdate, record.value))
        raise DeadLetterError("unexpected", f"topic {record.topic} is not ours")

    async def _store(self, changes: Sequence[Change]) -> None:
        tenants = sorted({change.tenant_id for change in changes})
        async with self._database.transaction() as connection:
            await connection.execute(statements.LOCK_OUTBOX)
            for tenant_id in tenants:
                await use_tenant(connection, tenant_id)
                for kind, statement in statements.STORE.items():
                    rows = [c.row for c in _newest(changes) if c.kind == kind and c.tenant_id == tenant_id]
                    if rows:
                        await connection.executemany(statement, rows)
                if time.monotonic() >= self._prune_due_s:
                    await connection.execute(statements.PRUNE_OUTBOX, self._clock_unix_ns() - OUTBOX_KEPT_NS)
                await connection.execute(statements.NOTIFY, tenant_id)
        if time.monotonic() >= self._prune_due_s:
            self._prune_due_s = time.monotonic() + _PRUNE_INTERVAL_S
        self._stored.inc(sum(change.kind == "alert" for change in changes))

    async def _store_singly(self) -> None:
        """One record of the batch is poison: find it, and let the others through."""
        while self._pending:
            record, change = self._pending[0]
            try:
                await self._store([change])
            except PostgresRejectedError as error:
                await self._dead_letters.bury(record, "rejected_by_store", str(error))
            except PostgresUnavailableError as error:
                raise RetryLaterError(str(error)) from error
            self._pending.pop(0)


def _newest(changes: Sequence[Change]) -> Sequence[Change]:
    """Leave out revisions of an alert that another in the batch replaces."""
    highest: dict[tuple[str, str], int] = {}
    for change in changes:
        if change.kind == "alert":
            key = (change.tenant_id, change.order[0])
            highest[key] = max(highest.get(key, -1), change.order[1])
    return [c for c in changes if c.kind != "alert" or c.order[1] == highest[c.tenant_id, c.order[0]]]
