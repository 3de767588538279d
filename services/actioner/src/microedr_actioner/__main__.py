"""``microedr-actioner``: the service as a process of its own."""

from typing import NoReturn

from microedr_actioner.app import ActionerService
from microedr_actioner.settings import ActionerSettings
from microedr_chassis.bus.api import Bus
from microedr_chassis.metrics import Metrics
from microedr_chassis.process import run_process


def main() -> NoReturn:
    """Run until SIGTERM or SIGINT."""
    run_process("actioner", ActionerSettings, _build)


def _build(settings: ActionerSettings, bus: Bus, metrics: Metrics) -> ActionerService:
    return ActionerService(settings, bus=bus, metrics=metrics)


if __name__ == "__main__":
    main()
