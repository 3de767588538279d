"""The memory of processes stays bounded, keeps who is still needed and never mixes two up."""

from pathlib import Path
from typing import Any

from microedr import ids
from microedr_agent.sensor.clock import WallClock
from microedr_agent.sensor.decode import ExecSample, ForkSample, decode
from microedr_agent.sensor.processes import REMEMBERED_CMDLINE_BYTES, ProcessTable
from microedr_agent.sensor.users import Users
from support.samples import PARENT_START_NS, START_NS, exec_sample, exit_sample, fork_sample, net_sample

KEY = ids.process_key("host-1", "boot-1")


def executed(table: ProcessTable, cmdline: bytes = b"sh -c id", **changes: Any) -> None:
    sample = decode(exec_sample(**changes))
    assert isinstance(sample, ExecSample)
    table.exec(sample, cmdline)


def forked(table: ProcessTable, **changes: Any) -> None:
    sample = decode(fork_sample(**changes))
    assert isinstance(sample, ForkSample)
    table.fork(sample)


def test_a_reused_pid_is_another_process() -> None:
    table = ProcessTable(KEY)
    executed(table)
    later = table.of(decode(net_sample(start_boot_ns=START_NS + 50_000_000)).header)

    assert later.exe == b""
    assert later.process_uid != ids.process_uid(KEY, 4242, START_NS)


def test_the_longest_unseen_process_is_forgotten_first() -> None:
    table = ProcessTable(KEY, max_processes=3)
    for pid in (1, 2, 3):
        table.add(pid, START_NS)
    table.find(1, START_NS)
    table.add(4, START_NS)

    assert len(table) == 3
    assert table.find(1, START_NS) is not None
    assert table.find(2, START_NS) is None


def test_a_connection_that_closes_after_the_exit_still_knows_its_process() -> None:
    table = ProcessTable(KEY)
    executed(table)
    table.exit(decode(exit_sample()).header)

    assert table.of(decode(net_sample()).header).exe == b"/usr/bin/dash"


def test_ended_processes_are_forgotten_in_the_end() -> None:
    table = ProcessTable(KEY, max_exited=2)
    for pid in range(10, 15):
        executed(table, pid=pid)
        table.exit(decode(exit_sample(pid=pid)).header)

    assert table.find(12, START_NS) is None
    assert table.find(14, START_NS) is not None


def test_a_process_that_was_never_seen_has_what_the_kernel_sends() -> None:
    table = ProcessTable(KEY)
    process = table.of(decode(exit_sample()).header)

    assert (process.pid, process.parent.pid, process.uid, process.comm) == (4242, 4000, 1000, b"sh")
    assert process.parent.process_uid == ids.process_uid(KEY, 4000, PARENT_START_NS)


def test_a_process_without_a_parent_names_none() -> None:
    table = ProcessTable(KEY)

    assert table.of(decode(exit_sample(ppid=0)).header).parent.process_uid == b""


def test_the_parent_stays_the_one_that_forked_when_it_ends_first() -> None:
    table = ProcessTable(KEY)
    executed(table)
    forked(table)
    orphan = table.of(decode(net_sample(pid=4300, start_boot_ns=5_000_000_000_123 - 1000, ppid=1)).header)

    assert orphan.parent.pid == 4242
    assert orphan.parent.exe == b"/usr/bin/dash"


def test_a_sibling_has_its_creators_parent() -> None:
    table = ProcessTable(KEY)
    executed(table)
    forked(table, child_ppid=4000)
    sibling = table.find(4300, 5_000_000_000_123 - 1000)

    assert sibling is not None
    assert sibling.parent.pid == 4000
    assert sibling.parent.process_uid == ids.process_uid(KEY, 4000, PARENT_START_NS)


def test_a_remembered_command_line_is_bounded() -> None:
    table = ProcessTable(KEY)
    executed(table, b"x" * 4096)
    process = table.find(4242, START_NS)

    assert process is not None
    assert len(process.cmdline) == REMEMBERED_CMDLINE_BYTES


def test_names_of_users_follow_the_file(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(b"root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbroken\nj\xf6rg:x:5:5::/:/bin/sh\n")
    users = Users(passwd)
    before = (users.name(0), users.name(5), users.name(6))
    passwd.rename(tmp_path / "old")
    gone = users.refresh()
    passwd.write_text("new:x:6:6::/:/bin/sh\n")

    assert before == (b"root", b"j\\xf6rg", b"")
    assert gone is False
    assert users.refresh() is True
    assert users.name(6) == b"new"


def test_a_clock_that_jumps_is_noticed() -> None:
    clock = WallClock()
    steady = clock.measure()
    clock.offset_ns -= 3_600_000_000_000

    assert steady is False
    assert clock.measure() is True
