"""The real uploader process delivers to the real ingest, with nothing left of root."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from microedr_agent.spool.door import SpoolDoor
from microedr_agent.spool.writer import SpoolWriter
from support.certificates import Authority, CertificateRequest
from support.ingest import Ingest, running_ingest
from support.spools import MIB, append
from support.waiting import PATIENCE_S, eventually

UID, GID = 61481, 61480


def write_config(directory: Path, port: int, authority: Authority) -> Path:
    own = authority.issue(CertificateRequest())
    for name, content in (("ca", authority.cert_pem), ("key", own.key_pem), ("cert", own.cert_pem)):
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    path = directory / "agent.yaml"
    path.write_text(
        f"tenant_id: acme\nhost_id: host-a\n"
        f"ingest:\n  url: https://localhost:{port}\n"
        f"  mTLS: {{cert_file: {directory}/cert, key_file: {directory}/key, ca_file: {directory}/ca}}\n"
        f"spool: {{dir: {directory}/spool}}\nrun_dir: {directory}/run\nstate_dir: {directory}/state\n"
    )
    path.chmod(0o600)
    return path


@asynccontextmanager
async def uploader(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "microedr_agent", "uploader", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def sensor(directory: Path) -> AsyncIterator[tuple[SpoolWriter, SpoolDoor]]:
    (directory / "run").mkdir(exist_ok=True)
    writer = SpoolWriter.open(directory / "spool", 16 * MIB)
    os.chown(directory / "spool", -1, GID)
    door = SpoolDoor(directory / "run" / "sensor.sock", writer, uploader_uid=UID, gid=GID, collector="ebpf")

    async def serve() -> None:
        while True:
            for path in (directory / "spool").glob("*.seg"):
                os.chown(path, -1, GID)  # a sensor that gave up root makes them so
            door.poll()
            await asyncio.sleep(0.02)

    serving = asyncio.create_task(serve())
    try:
        yield writer, door
    finally:
        serving.cancel()
        door.close()
        writer.close()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def assert_published(ingest: Ingest, writer: SpoolWriter, events: int) -> None:
    """All of them stand on the bus, and nothing else."""
    expected = {(writer.epoch_id.encode(), seq) for seq in range(1, events + 1)}
    found: set[tuple[bytes, int]] = set()
    async with asyncio.timeout(PATIENCE_S):
        while not found >= expected:
            found = {
                (record.headers["epoch_id"], seq)
                for record in await ingest.published_events()
                for seq in range(int(record.headers["first_seq"]), int(record.headers["last_seq"]) + 1)
            }
            await asyncio.sleep(0.05)
    assert found == expected


@pytest.mark.root
async def test_it_delivers_without_root_and_stops_when_asked(tmp_path: Path) -> None:
    async with running_ingest(tmp_path) as ingest, sensor(tmp_path) as (writer, door):
        config = write_config(tmp_path, int(ingest.target.rpartition(":")[2]), ingest.authority)
        async with uploader(config) as process:
            for _ in range(20):
                append(writer, count=5)
                door.offer(writer.commit())
            await eventually(lambda: writer.statistics().acked_total == 100)

            status = status_of(process.pid)
            assert status["Uid"].split() == [str(UID)] * 4
            assert status["Gid"].split() == [str(GID)] * 4
            assert status["Groups"] == ""
            assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
            assert status["NoNewPrivs"] == "1"
            assert status["Seccomp"] == "2"
            await assert_published(ingest, writer, 100)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                assert await process.wait() == 0


@pytest.mark.root
async def test_a_killed_uploader_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async with running_ingest(tmp_path) as ingest, sensor(tmp_path) as (writer, door):
        config = write_config(tmp_path, int(ingest.target.rpartition(":")[2]), ingest.authority)
        for round_number in range(1, 4):
            async with uploader(config) as process:
                for _ in range(10):
                    append(writer, count=2)
                    door.offer(writer.commit())
                await eventually(lambda: door.connected)
                process.kill()
                await process.wait()
            assert writer.next_seq == round_number * 20 + 1
        async with uploader(config):
            await eventually(lambda: writer.statistics().acked_total == 60)

        await assert_published(ingest, writer, 60)
        assert writer.take_losses() == ()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        pytest.param("key", None, "No such file", id="no key"),
        pytest.param("key", b"no key", "is not PEM", id="no PEM"),
        pytest.param("cert", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cert_file", id="bad"),
        pytest.param("ca", b"-----BEGIN NOTHING-----\n", "ca_file", id="no authority"),
        pytest.param("key", Authority().issue(CertificateRequest()).key_pem, "does not belong", id="another's key"),
    ],
)
async def test_unusable_certificates_end_it_with_one_line(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    config = write_config(tmp_path, 1, Authority())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    async with uploader(config) as process:
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert process.returncode == 2
    assert complaint in told.decode()
    assert str(tmp_path / name) in told.decode()
    assert told.count(b"\n") == 1


async def test_a_key_that_everybody_may_read_is_not_used(tmp_path: Path) -> None:
    config = write_config(tmp_path, 1, Authority())
    (tmp_path / "key").chmod(0o644)
    async with uploader(config) as process:
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE_S)

    assert process.returncode == 2
    assert "open to every user" in told.decode()
