"""The alerts service: its database, its writer and its API, started and stopped in order."""

import asyncio

import structlog

from microedr_alerts.api.app import create_app
from microedr_alerts.api.context import ApiContext
from microedr_alerts.api.server import ApiServer
from microedr_alerts.embedded import EmbeddedPostgres
from microedr_alerts.errors import PostgresUnavailableError
from microedr_alerts.migrate import migrate
from microedr_alerts.outbox import Bell
from microedr_alerts.postgres import Database
from microedr_alerts.settings import AlertsSettings
from microedr_alerts.target import Target, dsn_target
from microedr_alerts.token import ensure_token
from microedr_alerts.writer import GROUP, TOPICS, AlertsWriter
from microedr_chassis.backoff import Backoff
from microedr_chassis.bus.api import Bus
from microedr_chassis.dead_letters import DeadLetterLimits, DeadLetters
from microedr_chassis.lifecycle import Health, Progress
from microedr_chassis.metrics import Metrics
from microedr_chassis.runner import Runner

_log = structlog.get_logger()


class AlertsService:
    """A ``Service`` over a bus that is started already."""

    name = "alerts"

    def __init__(self, settings: AlertsSettings, *, bus: Bus, metrics: Metrics) -> None:
        self._settings = settings
        self._bus = bus
        self._metrics = metrics
        self._embedded: EmbeddedPostgres | None = None
        self._database: Database | None = None
        self._bell: Bell | None = None
        self._context: ApiContext | None = None
        self._api: ApiServer | None = None
        self._runner: Runner | None = None
        self._progress = Progress()
        self._stopping = asyncio.Event()

    @property
    def api_url(self) -> str:
        """Where the API answers, between ``start`` and ``stop``; empty when this process has none."""
        return self._api.url if self._api is not None else ""

    async def start(self) -> None:
        """Have the database ready and the API's address bound.

        A server named by a DSN may be away: it is tried again until it answers.

        Raises:
            ChassisError: Settings are wrong, or the embedded server does not start.
        """
        self._stopping.clear()
        try:
            target = await self._reach_postgres()
            await self._migrated(target)
            self._database = Database(target)
            await self._database.open()
            self._bell = Bell(target)
            if self._settings.parts != "api":
                self._runner = self._make_runner(self._database)
            if self._settings.parts != "writer":
                self._api = self._make_api(self._database, self._bell)
                self._api.bind()
                _log.info("api_bound", url=self._api.url)
        except BaseException:
            await self.stop()
            raise

    async def serve(self) -> None:
        """Store and answer until ``stop``."""
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._embedded is not None:
                    tasks.create_task(self._embedded.supervise(), name="postgres")
                if self._runner is not None:
                    tasks.create_task(self._runner.run(), name="writer")
                if self._api is not None and self._bell is not None:
                    tasks.create_task(self._api.serve(), name="api")
                    tasks.create_task(self._listen(self._bell), name="outbox")
        except ExceptionGroup as group:
            # One that cannot go on ends the service; who runs it wants that error, not a group of one.
            raise group.exceptions[0] from None

    async def stop(self) -> None:
        """API first, then the writer, then the database. Idempotent."""
        self._stopping.set()
        if self._context is not None:
            self._context.close_streams()
        if self._api is not None:
            await self._api.stop()
        if self._runner is not None:
            await self._runner.stop()
        if self._database is not None:
            await self._database.close()
        if self._embedded is not None:
            await self._embedded.stop()

    def health(self) -> Health:
        """Of the writer's loop and of the connection that wakes the streams."""
        if self._database is None:
            return Health(ok=False, detail="not started")
        if self._api is not None and self._bell is not None and not self._bell.connected:
            return Health(ok=False, detail="PostgreSQL is away")
        return self._progress.health() if self._runner is not None else Health(ok=True)

    async def _reach_postgres(self) -> Target:
        dsn = self._settings.postgres
        if dsn is not None:
            return dsn_target(dsn.get_secret_value())
        if self._settings.postgres_dir is None:
            raise RuntimeError("the settings' validator lets this not happen")
        self._embedded = EmbeddedPostgres(self._settings.postgres_dir)
        await self._embedded.start()
        return self._embedded.target

    async def _migrated(self, target: Target) -> None:
        backoff = Backoff(first_s=0.5, most_s=10.0)
        while True:
            try:
                await migrate(target)
            except PostgresUnavailableError as error:
                pause_s = backoff.next_s()
                _log.warning("postgres_unavailable", error=str(error), retry_s=round(pause_s, 1))
                await asyncio.sleep(pause_s)
            else:
                return

    async def _listen(self, bell: Bell) -> None:
        listening = asyncio.create_task(bell.listen(), name="listen")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            listening.cancel()
            await asyncio.gather(listening, stopping, return_exceptions=True)

    def _make_runner(self, database: Database) -> Runner:
        dead_letters = DeadLetters(self._bus, group=GROUP, metrics=self._metrics, limits=DeadLetterLimits())
        return Runner(
            self._bus,
            TOPICS,
            group=GROUP,
            member=self._settings.member,
            consumer=AlertsWriter(database, dead_letters=dead_letters, metrics=self._metrics),
            progress=self._progress,
            metrics=self._metrics,
        )

    def _make_api(self, database: Database, bell: Bell) -> ApiServer:
        settings = self._settings
        if settings.api_token_file is None:
            raise RuntimeError("the settings' validator lets this not happen")
        self._context = ApiContext(
            database=database,
            bell=bell,
            publisher=self._bus,
            health=self.health,
            token=ensure_token(settings.api_token_file),
            tenant_id=settings.tenant,
            max_streams=settings.max_streams,
        )
        return ApiServer(
            create_app(self._context),
            settings.api_listen,
            cert_file=settings.api_cert_file,
            key_file=settings.api_key_file,
        )
