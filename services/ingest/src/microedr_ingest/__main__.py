"""``microedr-ingest``: the service in a process of its own."""

from microedr_chassis.process import run_process
from microedr_ingest.app import IngestService
from microedr_ingest.settings import IngestSettings


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    run_process(
        "ingest", IngestSettings, lambda settings, bus, metrics: IngestService(settings, bus=bus, metrics=metrics)
    )


if __name__ == "__main__":
    main()
