"""Logs: JSON lines on stderr, one event each; what libraries log through ``logging`` included.

Events are static past-tense snake_case, data are fields. ``service`` names the process, or within a
process of several services the one whose task logs.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def configure_logging(service: str, level: str, *, stream: TextIO | None = None) -> None:
    """Set up structlog and ``logging`` for this process; the last call counts.

    Args:
        service: Field ``service`` of lines that no service's task writes.
        level: ``debug``, ``info``, ``warning`` or ``error``. Libraries are heard from ``warning`` up.
        stream: stderr unless a test listens.
    """
    out = sys.stderr if stream is None else stream

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_service,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    render: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
