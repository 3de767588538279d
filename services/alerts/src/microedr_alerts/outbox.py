"""The outbox read: what happened since an id, and waking those who wait for more.

Readers keep only the last id they have seen, so a slow one costs no memory and a broken connection no news.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import asyncpg
import structlog
from pydantic import BaseModel

from microedr_alerts import store
from microedr_alerts.postgres import Connection
from microedr_alerts.statements import OUTBOX_CHANNEL
from microedr_alerts.target import Target
from microedr_alerts.transient import TRANSIENT
from microedr_chassis.backoff import Backoff

_log = structlog.get_logger()

CONNECT_TIMEOUT_S = 5.0
MAX_PAGE = 200


@dataclass(frozen=True, slots=True)
class News:
    """One thing that happened, and the alert or action as it is now."""

    outbox_id: int
    kind: str
    subject: BaseModel


async def newest_id(connection: Connection) -> int:
    """Of what has happened so far; 0: nothing has."""
    return int(await connection.fetchval("SELECT coalesce(max(outbox_id), 0) FROM outbox"))


async def is_pruned(connection: Connection, outbox_id: int) -> bool:
    """Whether something after ``outbox_id`` may be gone already."""
    if outbox_id == 0:
        return False
    return not await connection.fetchval("SELECT EXISTS (SELECT FROM outbox WHERE outbox_id = $1)", outbox_id)


async def read_news(connection: Connection, after_id: int) -> tuple[int, list[News]]:
    """The next page after ``after_id``, and the id to go on from; an empty page: there is no more now."""
    rows = await connection.fetch(
        "SELECT outbox_id, kind, subject_id FROM outbox WHERE outbox_id > $1 ORDER BY outbox_id LIMIT $2",
        after_id,
        MAX_PAGE,
    )
    if not rows:
        return after_id, []
    alerts = await store.alerts_by_id(connection, _subjects(rows, "alert."))
    actions = await store.actions_by_id(connection, _subjects(rows, "action."))
    news = []
    for row in rows:
        subjects = alerts if row["kind"].startswith("alert.") else actions
        subject = subjects.get(row["subject_id"])
        if subject is not None:
            news.append(News(row["outbox_id"], row["kind"], subject))
    return rows[-1]["outbox_id"], news


class Bell:
    """Rings for those who wait for news of their tenant, wherever in the fleet it was written."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._waiting: set[tuple[str, asyncio.Event]] = set()
        self.connected = False

    @contextlib.contextmanager
    def waiting(self, tenant_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news. Clear it before looking."""
        event = asyncio.Event()
        entry = (tenant_id, event)
        self._waiting.add(entry)
        try:
            yield event
        finally:
            self._waiting.discard(entry)

    def ring(self, tenant_id: str = "") -> None:
        """Wake those of one tenant; with "" all."""
        for waiting_tenant, event in self._waiting:
            if tenant_id in ("", waiting_tenant):
                event.set()

    async def listen(self) -> None:
        """Listen to the database until cancelled; connects again whenever the connection is lost."""
        backoff = Backoff(first_s=0.2, most_s=5.0)
        while True:
            try:
                async with self._connection() as lost:
                    backoff.reset()
                    self.ring()  # what happened while nobody listened
                    await lost.wait()
            except (*TRANSIENT, asyncpg.PostgresError) as error:
                _log.warning("outbox_listener_waits", error=str(error) or type(error).__name__)
            await asyncio.sleep(backoff.next_s())

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncio.Event]:
        connection = await asyncpg.connect(timeout=CONNECT_TIMEOUT_S, **self._target.app)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(OUTBOX_CHANNEL, lambda _c, _pid, _channel, tenant: self.ring(str(tenant)))
            self.connected = True
            yield lost
        finally:
            self.connected = False
            connection.terminate()


def _subjects(rows: Sequence[asyncpg.Record], prefix: str) -> list[str]:
    return sorted({row["subject_id"] for row in rows if row["kind"].startswith(prefix)})
