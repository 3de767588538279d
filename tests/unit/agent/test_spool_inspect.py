"""An operator can look into a spool without changing it, also while it is written."""

import io
import json
from contextlib import closing
from pathlib import Path

import pytest

from microedr_agent.errors import SpoolError
from microedr_agent.spool.inspect import dump_spool, list_spool, verify_spool
from microedr_agent.spool.writer import SpoolWriter
from support.spools import MIB, fill


def test_a_spool_in_use_is_listed_verified_and_dumped(tmp_path: Path) -> None:
    out = io.StringIO()
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        fill(writer, frames=40, count=2, padding=4000)
        writer.acknowledge(writer.epoch, 0, 3)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        assert list_spool(tmp_path, out) == 0
        assert verify_spool(tmp_path, out) == 0
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        assert "80 events to send" in out.getvalue(), "the acknowledgement is not on disk yet"
        assert "the spool is sound" in out.getvalue()
        events = io.StringIO()
        assert dump_spool(tmp_path, events) == 0
        assert [json.loads(line)["seqno"] for line in events.getvalue().splitlines()] == list(map(str, range(1, 81)))


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        fill(writer, frames=3)
    (path,) = tmp_path.glob("*.seg")
    content = bytearray(path.read_bytes())
    content[content.index(b"MEF1") + 60] ^= 1
    path.write_bytes(content)
    out = io.StringIO()

    assert verify_spool(tmp_path, out) == 1
    assert f"{path.name}: damaged: bytes 84 to" in out.getvalue()
    assert "sealed with 3 frames, 2 are there" in out.getvalue()


def test_a_removed_frame_breaks_the_chain(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        fill(writer, frames=3)
    (path,) = tmp_path.glob("*.seg")
    content = path.read_bytes()
    second = content.index(b"MEF1", content.index(b"MEF1") + 1)
    third = content.index(b"MEF1", second + 1)
    path.write_bytes(content[:second] + content[third:])
    out = io.StringIO()

    assert verify_spool(tmp_path, out) == 1
    assert "does not follow the one before it" in out.getvalue()


def test_no_spool_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="No such file"):
        list_spool(tmp_path / "none", io.StringIO())
