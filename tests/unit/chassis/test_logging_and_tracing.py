"""Logs are JSON lines that name their service; trace ids do not repeat."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from microedr_chassis.logging import configure_logging
from microedr_chassis.tracing import new_trace_id


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream, handlers, level = io.StringIO(), logging.getLogger().handlers[:], logging.getLogger().level
    before = structlog.get_config()
    yield stream
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def test_an_event_is_one_line_of_json_with_its_fields_service_and_time(lines: io.StringIO) -> None:
    configure_logging("ingest", "info", stream=lines)
    structlog.get_logger().info("agent_connected", host_id="a\nb")
    entry = json.loads(lines.getvalue())

    assert (entry["event"], entry["host_id"]) == ("agent_connected", "a\nb")
    assert (entry["service"], entry["level"]) == ("ingest", "info")
    assert entry["at"].endswith("Z")
    assert lines.getvalue().count("\n") == 1


def test_a_service_within_the_process_names_itself(lines: io.StringIO) -> None:
    configure_logging("up", "info", stream=lines)
    with structlog.contextvars.bound_contextvars(service="detector"):
        structlog.get_logger().info("rules_loaded")

    assert json.loads(lines.getvalue())["service"] == "detector"


def test_libraries_are_heard_from_warnings_up(lines: io.StringIO) -> None:
    configure_logging("ingest", "debug", stream=lines)
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble with %s", "this")
    entry = json.loads(lines.getvalue())

    assert (entry["event"], entry["logger"], entry["level"]) == ("trouble with this", "some.library", "warning")


def test_what_is_below_the_level_is_not_written(lines: io.StringIO) -> None:
    configure_logging("ingest", "warning", stream=lines)
    structlog.get_logger().info("noise")

    assert lines.getvalue() == ""


def test_trace_ids_are_32_hex_digits_and_do_not_repeat() -> None:
    drawn = {new_trace_id() for _ in range(10_000)}

    assert len(drawn) == 10_000
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in drawn)
