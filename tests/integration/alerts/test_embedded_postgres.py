"""The embedded server's promise: it starts anywhere, keeps its data through anything, and leaves nothing behind."""

# ruff: noqa: ASYNC240 - a test may block on files

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import asyncpg
import pytest

from microedr_alerts import cluster, programs
from microedr_alerts.embedded import EmbeddedPostgres
from microedr_alerts.errors import EmbeddedPostgresError
from microedr_alerts.postmaster import find_server, gone


async def mark(server: EmbeddedPostgres, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(**server.target.owner)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def test_data_stay_over_a_restart(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.start()
    await mark(server, "CREATE TABLE t AS SELECT 42 AS n")
    first = server.pid
    await server.stop()
    await server.stop()
    await server.start()

    assert server.pid not in (0, first)
    assert [row["n"] for row in await mark(server, "SELECT n FROM t")] == [42]
    await server.stop()
    assert server.pid == 0
    assert find_server(tmp_path / "pg" / "data") == 0


async def test_a_long_path_below_a_closed_directory_is_no_obstacle(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / ("long" * 40) / "pg")
    await server.start()
    await server.stop()

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700, "no permission of a parent is touched"
    assert stat.S_IMODE((closed / ("long" * 40) / "pg").stat().st_mode) == 0o700


async def test_the_server_does_not_run_as_root_and_listens_on_no_port(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.start()
    try:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        (settings,) = await mark(server, "SELECT current_setting('listen_addresses') AS l, version() AS v")
        assert settings["l"] == ""
        assert settings["v"].startswith("PostgreSQL 18")
        modes = {stat.S_IMODE((tmp_path / "pg" / name).stat().st_mode) for name in ("log", "lock")}
        assert modes == {0o600}
    finally:
        await server.stop()


async def test_a_second_microedr_is_told_that_the_directory_is_taken(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.start()
    try:
        with pytest.raises(EmbeddedPostgresError, match="in use by another microedr"):
            await EmbeddedPostgres(tmp_path / "pg").start()
        assert await mark(server, "SELECT 1")
    finally:
        await server.stop()


async def test_a_killed_server_comes_back_by_itself(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.start()
    supervising = asyncio.create_task(server.supervise())
    await mark(server, "CREATE TABLE t AS SELECT 42 AS n")
    first = server.pid
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while True:
            try:
                rows = await mark(server, "SELECT n FROM t")
                break
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.05)

    assert [row["n"] for row in rows] == [42]
    assert server.pid != first
    await server.stop()
    await asyncio.wait_for(supervising, 5)


_ORPHANING = textwrap.dedent("""
    import asyncio, os, shutil, sys
    from pathlib import Path
    import microedr_alerts.cluster
    from microedr_alerts.embedded import EmbeddedPostgres

    async def main():
        if sys.argv[2] == "orphan":
            shutil.which = lambda name: None
        server = EmbeddedPostgres(Path(sys.argv[1]))
        await server.start()
        print(server.pid, flush=True)
        os.kill(os.getpid(), 9)

    asyncio.run(main())
""")


@pytest.mark.parametrize("setpriv", ["orphan", "pdeathsig"])
async def test_a_server_whose_microedr_was_killed_is_no_obstacle(tmp_path: Path, setpriv: str) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _ORPHANING, str(tmp_path / "pg"), setpriv],
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    orphan = int(done.stdout)
    if setpriv == "orphan":
        assert find_server(tmp_path / "pg" / "data") == orphan
    else:
        async with asyncio.timeout(5):
            await gone(orphan)
    await server.start()

    assert server.pid not in (0, orphan)
    assert not Path(f"/proc/{orphan}").exists() or "State:\tZ" in Path(f"/proc/{orphan}/status").read_text()
    await server.stop()


async def test_a_pid_file_that_names_a_stranger_is_no_obstacle(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.start()
    pid_file = tmp_path / "pg" / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines(keepends=True)
    await server.stop()
    account = programs.system_account()
    stranger = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        ["sleep", "60"], user=account.uid if account else None, group=account.gid if account else None
    )
    try:
        pid_file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        if account:
            os.chown(pid_file, account.uid, account.gid)
        await server.start()
        assert stranger.poll() is None, "it is left alone"
        await server.stop()
    finally:
        stranger.kill()
        stranger.wait()


async def test_an_initdb_cut_short_is_done_again(tmp_path: Path) -> None:
    draft = tmp_path / "pg" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.start()
    await server.stop()

    assert not draft.exists()


async def test_data_of_another_version_are_refused_with_both_named(tmp_path: Path) -> None:
    (tmp_path / "pg" / "data").mkdir(parents=True)
    (tmp_path / "pg" / "data" / "PG_VERSION").write_text("15\n")

    with pytest.raises(EmbeddedPostgresError, match="written by PostgreSQL 15; this microedr carries 18"):
        await EmbeddedPostgres(tmp_path / "pg").start()


async def test_a_server_that_does_not_start_says_why_and_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    with monkeypatch.context() as patch:
        patch.setitem(cluster._SETTINGS, "max_connections", "none")
        with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "max_connections"'):
            await server.start()
    await server.start()
    await server.stop()


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedPostgresError, match="Not a directory"):
        await EmbeddedPostgres(tmp_path / "file" / "pg").start()


@pytest.mark.root
async def test_programs_that_the_system_user_cannot_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    assert os.geteuid() == 0, "only root has a system user: run the tests as root"
    # pytest's own directories are closed to others; the cache is not.
    cache = Path(tempfile.mkdtemp(prefix="microedr-cache-"))
    cache.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(cache))
    monkeypatch.setattr(programs, "PROGRAM_CACHE", cache)
    monkeypatch.setattr(programs, "_is_open", lambda _: False)
    for name in ("one", "two"):
        server = EmbeddedPostgres(tmp_path / name)
        await server.start()
        executable = Path(f"/proc/{server.pid}/exe").readlink()
        await server.stop()
        assert executable.is_relative_to(cache)

    assert [path.name[:19] for path in cache.iterdir()] == [programs.DISTRIBUTION[:19]], "one copy"
