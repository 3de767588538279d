"""The command ``microedr-detector``: the service in its own process."""

from typing import NoReturn

from microedr_chassis.bus.api import Bus
from microedr_chassis.metrics import Metrics
from microedr_chassis.process import run_process
from microedr_detector.app import DetectorService
from microedr_detector.settings import DetectorSettings


def main() -> NoReturn:
    """Run until SIGTERM or SIGINT."""
    run_process("detector", DetectorSettings, _build)


def _build(settings: DetectorSettings, bus: Bus, metrics: Metrics) -> DetectorService:
    return DetectorService(settings, bus=bus, metrics=metrics)


if __name__ == "__main__":
    main()
