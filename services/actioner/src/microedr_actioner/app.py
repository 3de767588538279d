"""The actioner: one consumer for decisions, one reader of the whole fleet's actions for the brake."""

import asyncio
import time
from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError

from microedr.v1.action_pb2 import ActionState, ActionUpdate
from microedr_actioner.brake import Brake, BrakeLimits, Taken
from microedr_actioner.catch_up import CatchUp
from microedr_actioner.decide import TOPICS, Decider
from microedr_actioner.policy import Verdict, is_automatic
from microedr_actioner.settings import ActionerSettings
from microedr_actioner.signer import ensure_signing_key, load_signer
from microedr_chassis import catalogue
from microedr_chassis.backoff import Backoff
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus, ConsumedRecord, Subscription
from microedr_chassis.errors import BusUnavailableError
from microedr_chassis.lifecycle import Health, Progress
from microedr_chassis.metrics import Metrics
from microedr_chassis.runner import Runner

_log = structlog.get_logger()

GROUP = "actioner"
BRAKE_HISTORY_S = 7 * 24 * 3600
"""A rule stays disarmed over restarts for as long as topic actions remembers why."""

_FETCH_TIMEOUT_S = 0.5
_NS_PER_S = 1_000_000_000


class ActionerService:
    """Decides and signs. A ``Service``; may run as several members of one group."""

    name = "actioner"

    def __init__(
        self,
        settings: ActionerSettings,
        *,
        bus: Bus,
        metrics: Metrics,
        clock_unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Load the signing key, making it at the first start.

        Raises:
            SigningKeyError: It cannot be used.
        """
        ensure_signing_key(settings.signing_key_file)
        signer = load_signer(settings.signing_key_file)
        self.public_key = signer.public_key
        self._settings = settings
        self._bus = bus
        self._metrics = metrics
        self._clock_unix_ns = clock_unix_ns
        self._brake = Brake(
            BrakeLimits(
                window_s=settings.brake_window_s,
                max_hosts=settings.brake_max_hosts,
                max_executables=settings.brake_max_executables,
                max_actions=settings.brake_max_actions,
            )
        )
        self._brake_ready = False
        self._progress = Progress()
        self._stopping = asyncio.Event()
        decider = Decider(
            settings,
            bus=bus,
            signer=signer,
            brake=self._brake,
            brake_ready=lambda: self._brake_ready,
            metrics=metrics,
            clock_unix_ns=clock_unix_ns,
        )
        self._runner = Runner(
            bus,
            TOPICS,
            group=GROUP,
            member=settings.member,
            consumer=decider,
            progress=self._progress,
            metrics=metrics,
            co_partitioned=True,
            fetch_timeout_s=_FETCH_TIMEOUT_S,
        )

    async def start(self) -> None:
        """Nothing to acquire: the bus is there, the rest is read in ``serve``."""
        _log.info("actioner_started", auto=self._settings.auto, auto_rules=list(self._settings.auto_rules))

    async def serve(self) -> None:
        """Decide until ``stop``."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_fleet(), name="actioner-brake")
            group.create_task(self._decide(), name="actioner-decide")

    async def stop(self) -> None:
        """Finish the record under way; what was decided is published or decided again. Idempotent."""
        self._stopping.set()
        await self._runner.stop()

    def health(self) -> Health:
        """Of the decisions' loop."""
        return self._progress.health()

    async def _decide(self) -> None:
        try:
            await self._runner.run()
        finally:
            self._stopping.set()

    async def _watch_fleet(self) -> None:
        """Keep the brake up to date with what every actioner decides."""
        backoff = Backoff(first_s=0.2, most_s=5.0)
        while not self._stopping.is_set():
            try:
                await self._read_actions(backoff)
            except BusUnavailableError as error:
                pause_s = backoff.next_s()
                _log.warning("brake_waits", error=str(error), retry_s=round(pause_s, 2))
                await self._rest(pause_s)

    async def _read_actions(self, backoff: Backoff) -> None:
        since_unix_ms = self._clock_unix_ns() // 1_000_000 - BRAKE_HISTORY_S * 1000
        subscription = await self._bus.tail([topics.ACTIONS], since_unix_ms=since_unix_ms)
        try:
            catch_up = CatchUp()
            await catch_up.begin(subscription, subscription.assignment(), since_unix_ms=since_unix_ms)
            while not self._stopping.is_set():
                await self._read_some(subscription, catch_up)
                backoff.reset()
        finally:
            await subscription.close()

    async def _read_some(self, subscription: Subscription, catch_up: CatchUp) -> None:
        if catch_up.is_done():
            self._brake_ready = True
        for record in await subscription.fetch(max_records=256, timeout_s=_FETCH_TIMEOUT_S):
            self._learn(record)
            catch_up.passed(record)

    def _learn(self, record: ConsumedRecord) -> None:
        try:
            update = ActionUpdate.FromString(record.value)
        except DecodeError:
            return  # the decider buries it
        if not update.rule_id or not is_automatic(update):
            return
        if update.state == ActionState.ACTION_STATE_APPROVED:
            host = (update.tenant_id, update.host_id)
            self._brake.record(update.rule_id, Taken(update.action_id, host, update.process.exe, update.at_unix_ns))
        elif (
            update.state == ActionState.ACTION_STATE_REFUSED
            and update.reason == Verdict.BRAKE
            and update.at_unix_ns >= self._settings.rearmed_at_unix_s * _NS_PER_S
        ):
            self._brake.disarm(update.rule_id)
            self._metrics.gauge(catalogue.RULES_DISARMED).set(len(self._brake.disarmed))

    async def _rest(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return
