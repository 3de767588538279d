"""Several services as one: started in order, stopped in reverse, ended together."""

import asyncio
from collections.abc import Sequence

import structlog

from microedr_chassis.errors import ChassisError
from microedr_chassis.lifecycle import Health, Service

_log = structlog.get_logger()

STOP_TIMEOUT_S = 8.0
"""For all services together; the process promises to be gone within ten seconds."""


class ServiceGroup:
    """Runs services in one event loop. A ``Service`` itself.

    When one service's ``serve`` raises, the others are stopped in order and the error goes on.
    """

    def __init__(
        self, services: Sequence[Service], *, name: str = "group", stop_timeout_s: float = STOP_TIMEOUT_S
    ) -> None:
        self.name = name
        self._services = tuple(services)
        self._started: list[Service] = []
        self._stop_timeout_s = stop_timeout_s

    async def start(self) -> None:
        """Start each, in the order given; when one cannot, those before it are stopped."""
        for service in self._services:
            try:
                with structlog.contextvars.bound_contextvars(service=service.name):
                    await service.start()
                    _log.info("service_started")
            except BaseException:
                await self.stop()
                raise
            self._started.append(service)

    async def serve(self) -> None:
        """Serve all until ``stop``, or until one of them cannot go on."""
        try:
            async with asyncio.TaskGroup() as serving:
                for service in self._started:
                    serving.create_task(self._serve(service), name=f"serve-{service.name}")
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first to fail; all were logged

    async def stop(self) -> None:
        """Stop those that were started, last first, all within ``stop_timeout_s``. Idempotent."""
        deadline_s = asyncio.get_running_loop().time() + self._stop_timeout_s
        while self._started:
            service = self._started.pop()
            with structlog.contextvars.bound_contextvars(service=service.name):
                try:
                    async with asyncio.timeout_at(deadline_s):
                        await service.stop()
                    _log.info("service_stopped")
                except TimeoutError:
                    _log.error("service_stop_timed_out", timeout_s=self._stop_timeout_s)
                except Exception:  # noqa: BLE001 - the others must be stopped too
                    _log.exception("service_stop_failed")

    def health(self) -> Health:
        """Ok when all are; names those that are not."""
        states = [(service.name, service.health()) for service in self._services]
        return Health(
            ok=all(state.ok for _, state in states),
            detail="; ".join(f"{name}: {state.detail}" for name, state in states if not state.ok),
            alive=all(state.alive for _, state in states),
        )

    async def _serve(self, service: Service) -> None:
        structlog.contextvars.bind_contextvars(service=service.name)
        try:
            await service.serve()
        except ChassisError as error:
            _log.error("service_failed", error=str(error))
            await self.stop()
            raise
        except Exception:
            _log.exception("service_failed")
            await self.stop()
            raise
