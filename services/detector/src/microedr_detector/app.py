"""The detector as a service: rules and one runner over events."""

import asyncio
import time
from collections.abc import Callable

import structlog

from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus
from microedr_chassis.errors import SettingsError
from microedr_chassis.lifecycle import Health, Progress
from microedr_chassis.metrics import Metrics
from microedr_chassis.runner import Runner
from microedr_detector.consumer import DetectorConsumer
from microedr_detector.settings import DetectorSettings
from microedr_rules.model import Gravity
from microedr_rules.ruleset import RuleSet

GROUP = "microedr-detector"

_log = structlog.get_logger()


class DetectorService:
    """Implements ``lifecycle.Service``. The bus must be started and its topics made."""

    name = "detector"

    def __init__(
        self,
        settings: DetectorSettings,
        *,
        bus: Bus,
        metrics: Metrics,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._metrics = metrics
        self._unix_ns = unix_ns
        self._progress = Progress()
        self._runner: Runner | None = None

    async def start(self) -> None:
        """Load the rules. Wrong ones are told in the log and left out.

        Raises:
            SettingsError: No rule is left.
        """
        rules = await asyncio.to_thread(self._load)
        self._runner = Runner(
            self._bus,
            (topics.EVENTS,),
            group=GROUP,
            member=self._settings.member,
            consumer=DetectorConsumer(rules, bus=self._bus, metrics=self._metrics, unix_ns=self._unix_ns),
            progress=self._progress,
            metrics=self._metrics,
        )

    async def serve(self) -> None:
        """Consume until ``stop``."""
        if self._runner is None:
            raise RuntimeError("serve comes after start")
        await self._runner.run()

    async def stop(self) -> None:
        """Commit what is done with and leave the group. Idempotent."""
        if self._runner is not None:
            await self._runner.stop()

    def health(self) -> Health:
        """Of the consuming loop."""
        return self._progress.health()

    def _load(self) -> RuleSet:
        rules = RuleSet.load(
            self._settings.rules, builtin=self._settings.builtin, max_errors=self._settings.max_rule_errors
        )
        for problem in rules.problems:
            log = _log.error if problem.gravity is Gravity.ERROR else _log.warning
            log("rule_refused" if problem.gravity is Gravity.ERROR else "rule_not_full", problem=str(problem))
        if not rules.evaluated:
            raise SettingsError(
                "MICROEDR_DETECTOR_RULES: no rule in it can be evaluated, and the built-in ones are off"
            )
        _log.info("rules_loaded", rules=len(rules.evaluated), ruleset_hash=rules.hash)
        return rules
