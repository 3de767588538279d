"""Fixtures that tests of several rooms ask for by name, and what every test runs with."""

import hypothesis
import structlog

pytest_plugins = ("support.kafka",)


def log_to_pytest() -> None:
    """Warnings and worse go to ``logging``, which pytest shows with a test that failed; the rest goes nowhere."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


log_to_pytest()

# No deadline for an example: figures live in benchmarks, and a busy machine is no fault of the code.
hypothesis.settings.register_profile("microedr", deadline=None)
hypothesis.settings.load_profile("microedr")
