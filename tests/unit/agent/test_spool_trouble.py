"""A disk that takes nothing is told once, and once when it takes something again; nothing is lost between."""

import errno
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from microedr_agent.log import Log
from microedr_agent.sensor.spool_sink import SpoolSink
from microedr_agent.spool.door import SpoolDoor
from microedr_agent.spool.writer import SpoolWriter
from support.spools import MIB, Clock, FailingDisk, append


def _told(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return [line for line in lines if line["event"].startswith("spool_")]


def test_a_full_disk_is_told_once_and_so_is_its_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk, clock = FailingDisk(), Clock()
    writer = SpoolWriter.open(tmp_path / "spool", MIB, disk=disk, clock=clock)
    door = SpoolDoor(tmp_path / "sensor.sock", writer, uploader_uid=os.geteuid(), collector="ebpf")
    with closing(SpoolSink(writer, door, Log("sensor", "warning"))) as sink:
        with disk.broken("write", error=errno.ENOSPC):
            for _ in range(3):
                append(writer)
                sink.commit()
                clock.advance(60)
        (full,) = _told(capfd)
        sink.commit()
        (again,) = _told(capfd)
        sink.commit()

        assert (full["level"], full["event"], full["reason"]) == (
            "error",
            "spool_unwritable",
            os.strerror(errno.ENOSPC),
        )
        assert (again["event"], again["unsynced_events"]) == ("spool_writable_again", 0)
        assert _told(capfd) == []
    assert writer.statistics().lost_total == 0
