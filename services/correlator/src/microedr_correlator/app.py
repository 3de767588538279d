"""The correlator as a service: one runner over events, matches, orders and their results."""

from microedr_chassis.bus.api import Bus
from microedr_chassis.lifecycle import Health, Progress
from microedr_chassis.metrics import Metrics
from microedr_chassis.runner import Runner
from microedr_correlator.clock import Clock, SystemClock
from microedr_correlator.consumer import TOPICS, CorrelatorConsumer
from microedr_correlator.settings import CorrelatorSettings

GROUP = "microedr-correlator"


class CorrelatorService:
    """Implements ``lifecycle.Service``. The bus must be started and its topics made."""

    name = "correlator"

    def __init__(self, settings: CorrelatorSettings, *, bus: Bus, metrics: Metrics, clock: Clock | None = None) -> None:
        self._progress = Progress()
        self._runner = Runner(
            bus,
            TOPICS,
            group=GROUP,
            member=settings.member,
            consumer=CorrelatorConsumer(settings, bus, metrics, clock or SystemClock()),
            progress=self._progress,
            metrics=metrics,
            co_partitioned=True,
        )

    async def start(self) -> None:
        """Nothing to acquire: partitions come to ``serve``."""

    async def serve(self) -> None:
        """Consume until ``stop``."""
        await self._runner.run()

    async def stop(self) -> None:
        """Commit what is done with and leave the group. Idempotent."""
        await self._runner.stop()

    def health(self) -> Health:
        """Of the consuming loop."""
        return self._progress.health()
