"""``microedr-alerts``: the alerts service as a process of its own."""

from typing import NoReturn

from microedr_alerts.app import AlertsService
from microedr_alerts.settings import AlertsSettings
from microedr_chassis.process import run_process


def main() -> NoReturn:
    """Run until SIGTERM or SIGINT."""
    run_process(
        "alerts", AlertsSettings, lambda settings, bus, metrics: AlertsService(settings, bus=bus, metrics=metrics)
    )


if __name__ == "__main__":
    main()
