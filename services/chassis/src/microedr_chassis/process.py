"""A service's own process: settings, logs, metrics page, bus, signals and exit status.

Exit status: 0 after SIGTERM or SIGINT, 1 when a service could not go on, 2 when the settings are wrong.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import NoReturn, TypeVar

import structlog
import uvloop

from microedr_chassis.backoff import Backoff
from microedr_chassis.bus import topics
from microedr_chassis.bus.api import Bus
from microedr_chassis.bus.connect import connect_bus
from microedr_chassis.collector import relax_collector
from microedr_chassis.endpoint import Endpoint
from microedr_chassis.errors import (
    BusDamagedError,
    BusTopicError,
    BusUnavailableError,
    ChassisError,
    IdentityError,
    SettingsError,
)
from microedr_chassis.group import ServiceGroup
from microedr_chassis.lifecycle import Health, Service
from microedr_chassis.logging import configure_logging
from microedr_chassis.metrics import MetricRegistry, Metrics
from microedr_chassis.settings import ServiceSettings, load_settings

_log = structlog.get_logger()

_LEAVE_TIMEOUT_S = 1.0
"""For a task to return once what it waits for was stopped."""

EXIT_FAILED = 1
EXIT_SETTINGS = 2

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
Build = Callable[[SettingsT, Bus, Metrics], Service | Sequence[Service]]
"""Makes the service, or several that are started in order, from settings, the bus and its metrics."""


def run_process(name: str, settings_class: type[SettingsT], build: Build[SettingsT]) -> NoReturn:
    """Run the service ``name`` until a signal, then exit.

    The bus may be away at the start: it is tried again until it answers, and /readyz says so meanwhile.
    """
    try:
        settings = load_settings(settings_class)
        configure_logging(name, settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(name, settings, build))
    except (SettingsError, BusTopicError, BusDamagedError, IdentityError) as error:
        print(f"microedr-{name}: {error}", file=sys.stderr)  # noqa: T201 - for the person who typed it
        sys.exit(EXIT_SETTINGS)
    except ChassisError as error:
        _log.error("process_failed", error=str(error))
        sys.exit(EXIT_FAILED)
    sys.exit(0)


async def run_until_signal(service: Service) -> None:
    """Start ``service``, serve until SIGTERM or SIGINT, stop it; whatever ends it, it is stopped.

    Raises:
        ChassisError: It could not start, or could not go on.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await serve_until(service, stopping)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def serve_until(service: Service, stopping: asyncio.Event) -> None:
    """As ``run_until_signal``, with an event in the signal's place. A start under way is cancelled by it."""
    if not await _unless(stopping, service.start()):
        return
    serving = asyncio.create_task(service.serve(), name=f"serve-{service.name}")
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    try:
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await service.stop()
        _, stuck = await asyncio.wait((serving,), timeout=_LEAVE_TIMEOUT_S)
        serving.cancel()
    if not stuck:
        await serving


async def start_bus(bus: Bus, partitions: int) -> None:
    """Connect and create topics, again and again until the backend answers. Cancelling is safe."""
    backoff = Backoff(first_s=0.5, most_s=10.0)
    while True:
        try:
            await bus.start()
            await bus.ensure_topics(topics.catalogue(partitions))
        except BusUnavailableError as error:
            pause_s = backoff.next_s()
            _log.warning("bus_unavailable", error=str(error), retry_s=round(pause_s, 1))
            await asyncio.sleep(pause_s)
        else:
            return


class BusService:
    """The bus as the first service of a process: up before, closed after those that use it."""

    name = "bus"

    def __init__(self, bus: Bus, partitions: int) -> None:
        self._bus = bus
        self._partitions = partitions
        self._stopping = asyncio.Event()
        self._ready = False

    async def start(self) -> None:
        """Return once it answers and has its topics."""
        try:
            await start_bus(self._bus, self._partitions)
        except BaseException:
            await self._bus.close()
            raise
        self._ready = True

    async def serve(self) -> None:
        """Wait."""
        await self._stopping.wait()

    async def stop(self) -> None:
        """Publish what was submitted and disconnect."""
        self._stopping.set()
        await self._bus.close()

    def health(self) -> Health:
        """Whether it answered at the start; later outages are its users' to tell."""
        return Health(ok=self._ready, detail="" if self._ready else "the bus does not answer yet")


async def _run(name: str, settings: SettingsT, build: Build[SettingsT]) -> None:
    registry = MetricRegistry()
    bus = connect_bus(settings.bus)
    built = build(settings, bus, registry.for_service(name))
    services = built if isinstance(built, Sequence) else (built,)
    group = ServiceGroup((BusService(bus, settings.bus_partitions), *services), name=name)
    endpoint = Endpoint(settings.metrics_listen, registry, group.health)
    relax_collector()
    _log.info("process_started", metrics_listen=endpoint.start())
    try:
        await run_until_signal(group)
    finally:
        endpoint.stop()
    _log.info("process_stopped")


async def _unless(stopping: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Await ``work`` unless ``stopping`` comes first: then it is cancelled and the answer is False."""
    working = asyncio.create_task(work, name="start")
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        interrupted = working.cancel()
        await asyncio.wait((working,), timeout=_LEAVE_TIMEOUT_S)
    if interrupted:
        return False
    await working
    return True
