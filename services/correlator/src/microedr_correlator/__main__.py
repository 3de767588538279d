"""The command ``microedr-correlator``: the service in its own process."""

from typing import NoReturn

from microedr_chassis.bus.api import Bus
from microedr_chassis.metrics import Metrics
from microedr_chassis.process import run_process
from microedr_correlator.app import CorrelatorService
from microedr_correlator.settings import CorrelatorSettings


def main() -> NoReturn:
    """Run until SIGTERM or SIGINT."""
    run_process("correlator", CorrelatorSettings, _build)


def _build(settings: CorrelatorSettings, bus: Bus, metrics: Metrics) -> CorrelatorService:
    return CorrelatorService(settings, bus=bus, metrics=metrics)


if __name__ == "__main__":
    main()
