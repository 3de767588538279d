"""What the running kernel tells of a process is what the process really is."""

import contextlib
import fcntl
import os
import pty
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from microedr.limits import MAX_ARGV_BYTES
from support.eyes import Eyes
from support.paths import is_path

pytestmark = pytest.mark.root
TRUE = "/bin/true"


@pytest.fixture(scope="module")
def eyes() -> Iterator[Eyes]:
    made = Eyes()
    with contextlib.closing(made):
        yield made


def run(*arguments: str, **options: object) -> int:
    """Run to the end; returns the pid."""
    with subprocess.Popen(arguments, **options) as process:  # type: ignore[call-overload]
        process.wait()
    return int(process.pid)


def test_every_program_attaches_here(eyes: Eyes) -> None:
    assert eyes.failures == ()
    assert {probe.name: len(probe.links) for probe in eyes.probes} == {"proc": 3, "net": 3}


def test_tracefs_is_not_left_mounted_on_the_host(eyes: Eyes) -> None:
    assert eyes.probes
    assert "tracefs /sys/kernel/tracing" not in Path("/proc/self/mounts").read_text()


def test_an_exec_is_told_whole(eyes: Eyes, tmp_path: Path) -> None:
    pid = run(TRUE, "a b", "", "é", cwd=tmp_path, env={"SECRET": "hunter2-value", "EMPTY": ""})
    event = eyes.of(pid, "proc_exec")
    status = Path(TRUE).stat()
    told = event.proc_exec

    assert list(told.argv) == [TRUE, "a b", "", "é"]
    assert event.process.cmdline == f"{TRUE} a b  é"
    assert is_path(event.process.exe, os.path.realpath(TRUE))
    assert told.filename == TRUE
    assert is_path(event.process.cwd, str(tmp_path))
    assert list(told.env_keys) == ["SECRET", "EMPTY"]
    assert (told.exe_inode, told.exe_dev, told.exe_nlink) == (status.st_ino, status.st_dev, status.st_nlink)
    assert told.exe_mode == status.st_mode
    assert (event.process.ppid, event.process.uid, event.process.user) == (os.getpid(), 0, "root")
    assert event.process.login_uid == int(Path("/proc/self/loginuid").read_text())
    assert told.tty == ""
    assert list(event.truncated_fields) == []


def test_namespaces_and_capabilities_are_those_of_the_process(eyes: Eyes) -> None:
    told = eyes.of(run(TRUE), "proc_exec").proc_exec
    own = {name: Path(f"/proc/self/ns/{name}").stat().st_ino for name in ("pid", "mnt", "net")}
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))

    assert (told.namespaces.pid, told.namespaces.mnt, told.namespaces.net) == (own["pid"], own["mnt"], own["net"])
    assert told.effective_capabilities == int(effective.split()[1], 16)


def test_values_of_the_environment_never_leave_the_kernel(eyes: Eyes) -> None:
    secret = "s3cr3t-that-nobody-may-see"
    pid = run(TRUE, env={"KEY": secret, "ALSO": f"a={secret}", secret: "name"})
    told = eyes.of(pid, "proc_exec").proc_exec

    assert list(told.env_keys) == ["KEY", "ALSO", secret]
    assert sum(sample.count(secret.encode()) for sample in eyes.samples) == 1


def test_an_environment_too_long_says_so(eyes: Eyes) -> None:
    event = eyes.of(run(TRUE, env={f"NAME_{number}": "x" * 50 for number in range(100)}), "proc_exec")

    assert list(event.truncated_fields) == ["proc_exec.env_keys"]
    assert event.proc_exec.env_keys[0] == "NAME_0"
    assert all(name.startswith("NAME_") for name in event.proc_exec.env_keys)


def test_arguments_are_cut_at_their_limit_and_say_so(eyes: Eyes) -> None:
    event = eyes.of(run(TRUE, "a" * 3000, "b" * 3000), "proc_exec")

    assert sum(len(argument) + 1 for argument in event.proc_exec.argv) == MAX_ARGV_BYTES + 1
    assert list(event.truncated_fields) == ["process.cmdline", "proc_exec.argv"]


def test_a_script_is_run_by_its_interpreter(eyes: Eyes, tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o700)
    event = eyes.of(run(str(script)), "proc_exec")

    assert event.proc_exec.filename == str(script)
    assert is_path(event.process.exe, os.path.realpath("/bin/sh"))
    assert list(event.proc_exec.argv) == ["/bin/sh", str(script)]


def test_a_program_in_memory_has_no_link(eyes: Eyes) -> None:
    fd = os.memfd_create("evil", 0)
    os.write(fd, Path(TRUE).read_bytes())
    event = eyes.of(run("harmless", executable=f"/proc/self/fd/{fd}", pass_fds=(fd,)), "proc_exec")
    os.close(fd)

    assert (event.process.exe, event.proc_exec.exe_nlink) == ("/memfd:evil", 0)


def test_a_deleted_program_has_no_link(eyes: Eyes, tmp_path: Path) -> None:
    program = tmp_path / "gone"
    shutil.copy(TRUE, program)
    fd = os.open(program, os.O_RDONLY)
    program.unlink()
    event = eyes.of(run("x", executable=f"/proc/self/fd/{fd}", pass_fds=(fd,)), "proc_exec")
    os.close(fd)

    assert is_path(event.process.exe, str(program))
    assert event.proc_exec.exe_nlink == 0


def test_a_deep_directory_is_told_whole_and_one_too_deep_says_so(eyes: Eyes, tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["d" * 100] * 12)
    too_deep = tmp_path / "/".join(["e"] * 100)
    deep.mkdir(parents=True)
    too_deep.mkdir(parents=True)
    whole = eyes.of(run(TRUE, cwd=deep), "proc_exec")
    cut = eyes.of(run(TRUE, cwd=too_deep), "proc_exec")

    assert is_path(whole.process.cwd, str(deep))
    assert list(cut.truncated_fields) == ["process.cwd"]
    assert cut.process.cwd.startswith("e/e/")


def test_the_controlling_terminal_has_a_name(eyes: Eyes) -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave).removeprefix("/dev/").replace("/", "")
    pid = run(
        TRUE,
        start_new_session=True,
        stdin=slave,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(master)
    os.close(slave)

    assert eyes.of(pid, "proc_exec").proc_exec.tty == name


def test_sockets_as_standard_streams_are_seen(eyes: Eyes) -> None:
    import socket  # noqa: PLC0415 - this test alone

    left, right = socket.socketpair()
    with left, right:
        pid = run(TRUE, stdin=right, stdout=right, stderr=subprocess.DEVNULL)

    assert eyes.of(pid, "proc_exec").proc_exec.socket_stdio == 0b011


def test_fork_names_the_child_that_execs_and_exits_later(eyes: Eyes) -> None:
    pid = run(TRUE)
    executed = eyes.of(pid, "proc_exec")
    exited = eyes.of(pid, "proc_exit")
    forked = eyes.wait_for(lambda event: event.HasField("proc_fork") and event.proc_fork.child_pid == pid)

    assert forked.process.pid == os.getpid()
    assert forked.proc_fork.child_process_uid == executed.process_uid == exited.process_uid
    assert executed.process.parent_process_uid == forked.process_uid
    assert executed.process.parent_exe == os.path.realpath(sys.executable)
    assert exited.process.exe == executed.process.exe


def test_a_child_that_never_execs_is_the_program_of_its_parent(eyes: Eyes) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(41)
    os.waitpid(pid, 0)
    event = eyes.of(pid, "proc_exit")

    assert event.process.exe == os.path.realpath(sys.executable)
    assert event.proc_exit.exit_code == 41


def test_an_exit_tells_code_bytes_and_life(eyes: Eyes) -> None:
    event = eyes.of(run("/bin/sh", "-c", "head -c 300000 /dev/zero >/dev/null; exit 7"), "proc_exit")
    head = eyes.wait_for(lambda event: event.HasField("proc_exit") and event.process.comm == "head")

    assert (event.proc_exit.exit_code, event.proc_exit.signal) == (7, 0)
    assert 300_000 <= head.proc_exit.written_bytes < 301_000
    assert head.proc_exit.read_bytes >= 300_000
    assert 0 < event.proc_exit.duration_ns < 10_000_000_000


def test_a_killed_process_tells_the_signal(eyes: Eyes) -> None:
    event = eyes.of(run("/bin/sh", "-c", "kill -9 $$"), "proc_exit")

    assert (event.proc_exit.exit_code, event.proc_exit.signal) == (0, 9)


LEADER_LEAVES_FIRST = """
import ctypes, os, threading, time
def last():
    time.sleep(0.2)
    os._exit(9)
threading.Thread(target=last).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_ends_once_with_its_last_thread(eyes: Eyes) -> None:
    pid = run(sys.executable, "-c", LEADER_LEAVES_FIRST)
    event = eyes.of(pid, "proc_exit")
    exits = [event for event in eyes.look() if event.HasField("proc_exit") and event.process.pid == pid]

    assert len(exits) == 1
    assert event.proc_exit.exit_code == 9
    assert event.proc_exit.duration_ns > 200_000_000


def test_threads_are_no_processes(eyes: Eyes) -> None:
    pid = run(sys.executable, "-c", "import threading as t; [x.start() for x in [t.Thread() for _ in range(5)]]")
    eyes.of(pid, "proc_exit")

    assert not [event for event in eyes.look() if event.HasField("proc_fork") and event.process.pid == pid]


def test_another_user_is_told(eyes: Eyes) -> None:
    event = eyes.of(run(TRUE, user=12345, group=12346, extra_groups=[]), "proc_exec")

    assert (event.process.uid, event.process.gid, event.process.euid) == (12345, 12346, 12345)
    assert (event.process.user, event.proc_exec.effective_capabilities) == ("", 0)


def test_a_process_in_its_own_pid_namespace_runs_in_a_container(eyes: Eyes) -> None:
    run("unshare", "--pid", "--fork", TRUE, "inside")
    inside = eyes.wait_for(lambda event: "inside" in event.proc_exec.argv and event.process.exe.endswith("true"))
    exited = eyes.of(inside.process.pid, "proc_exit")

    assert inside.HasField("container")
    assert exited.HasField("container")
    assert not eyes.of(run(TRUE), "proc_exec").HasField("container")


def test_nothing_is_missing_from_the_account(eyes: Eyes) -> None:
    eyes.look()
    eyes.close()
    eyes.look()

    assert sum(probe.ledger.seen_total() for probe in eyes.probes) == len(eyes.samples)
    assert sum(probe.ledger.dropped_total() for probe in eyes.probes) == 0
