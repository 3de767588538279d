"""The window keeps what it promises, forgets the rest, and stays within its caps whatever happens."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microedr.batch import decode_batch
from microedr_correlator.destinations import DestinationTable, Remote
from microedr_correlator.eventtime import MAX_SKEW_NS, WINDOW_NS
from microedr_correlator.kinship import destinations_of, lineage, node_of
from microedr_correlator.marks import MAX_ORIGINS, LaneMarks
from microedr_correlator.processes import MAX_EXEC_BYTES, Origin, ProcessEntry, ProcessTable
from microedr_correlator.window import HostWindow
from support.host_story import START_UNIX_NS, HostStory, S

MINUTE_S = 60
ORIGIN = Origin("epoch", 0)


def fold(window: HostWindow, story: HostStory, *, received_unix_ns: int | None = None) -> None:
    record = story.frame()
    events = decode_batch(record.value).events
    window.fold(
        events,
        Origin(story.epoch_id, story.lane),
        int(record.headers["first_seq"]),
        story.now_unix_ns if received_unix_ns is None else received_unix_ns,
    )


def test_a_process_that_runs_is_kept_however_old_and_so_are_its_ancestors() -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1, "/usr/sbin/sshd")
    story.exec(20, 10, "/bin/bash")
    story.exit(10)
    fold(window, story)

    story.wait(24 * 60 * MINUTE_S)
    story.exec(30, 20, "/bin/sh")
    fold(window, story)

    assert [entry.pid for entry in lineage(window, story.uid(30))] == [30, 20, 10]


def test_a_process_that_ended_is_kept_for_a_window_and_its_ancestors_go_with_it() -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1)
    story.exec(20, 10)
    story.exit(10)
    fold(window, story)
    story.wait(MINUTE_S)
    story.exit(20)
    fold(window, story)
    story.wait(15 * MINUTE_S)
    story.exec(30, 1)
    fold(window, story)
    assert len(window.processes) == 3

    story.wait(1)
    story.exec(31, 1)
    fold(window, story)

    assert window.processes.get(story.uid(20)) is None
    assert window.processes.get(story.uid(10)) is None


def test_a_fork_without_exec_runs_the_image_of_its_parent() -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1, "/usr/bin/python3", "python3 worker.py")
    story.fork(10, 11)
    fold(window, story)

    entry = window.processes.get(story.uid(11))

    assert entry is not None
    node, _ = node_of(entry)
    assert (node.exe, node.cmdline, node.ppid) == ("/usr/bin/python3", "python3 worker.py", 10)


def test_a_process_older_than_the_window_is_known_from_what_its_events_tell() -> None:
    story, window = HostStory(), HostWindow()
    event = story.connect(10)
    event.process.exe = "/usr/bin/old"
    fold(window, story)

    node, _ = node_of(lineage(window, story.uid(10))[0])

    assert node.exe == "/usr/bin/old"


def test_after_a_reboot_nothing_of_before_runs_but_an_old_spool_does_not_undo_it() -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1)
    fold(window, story)
    story.wait(MINUTE_S)
    after = HostStory(boot_id="boot-2", epoch_id="epoch-2", now_unix_ns=story.now_unix_ns)
    after.exec(10, 1)
    fold(window, after)
    left = HostStory(epoch_id="epoch-0")
    left.exec(11, 1)
    fold(window, left, received_unix_ns=after.now_unix_ns)

    before, now = (window.processes.get(s.uid(10)) for s in (story, after))

    assert before is not None
    assert before.exit_unix_ns
    assert now is not None
    assert not now.exit_unix_ns


def test_whoever_gets_a_used_pid_shows_that_the_one_before_ended() -> None:
    table = ProcessTable()
    first, second = ProcessEntry(b"a", 7, 1, b"", 0), ProcessEntry(b"b", 7, 1, b"", 0)

    table.add(first, 10)
    table.add(second, 20)

    assert first.exit_unix_ns == 20
    assert not second.exit_unix_ns


@pytest.mark.parametrize("hours", [-10_000, 10_000])
def test_a_wrong_clock_neither_freezes_nor_flushes_the_window(hours: int) -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1)
    story.connect(10)
    fold(window, story)
    wrong = story.exec(11, 1)
    wrong.timestamp_unix_ns = START_UNIX_NS + hours * 3600 * S
    fold(window, story)

    assert abs(window.now_unix_ns - START_UNIX_NS) <= MAX_SKEW_NS
    assert len(destinations_of(window, lineage(window, story.uid(10)))) == 1


def test_an_enormous_command_line_is_kept_without_its_arguments() -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1, "/bin/big", "x" * MAX_EXEC_BYTES)
    fold(window, story)

    entry = window.processes.get(story.uid(10))

    assert entry is not None
    assert entry.exec_event == b""
    assert node_of(entry)[0].exe == "/bin/big"


def test_destinations_are_of_the_process_its_descendants_and_its_ancestors_newest_first() -> None:
    story, window = HostStory(), HostWindow()
    for pid, ppid in ((10, 1), (20, 10), (30, 20), (40, 1)):
        story.exec(pid, ppid)
    for pid, octet in ((10, 1), (20, 2), (20, 3), (30, 4), (40, 5)):
        story.connect(pid, last_octet=octet)
    fold(window, story)

    found = destinations_of(window, lineage(window, story.uid(20)))

    assert [d.ip.rpartition(".")[2] for d in found] == ["3", "2", "4", "1"]


def test_destinations_expire_with_the_window() -> None:
    story, window = HostStory(), HostWindow()
    story.exec(10, 1)
    story.connect(10, last_octet=1)
    fold(window, story)
    story.wait(16 * MINUTE_S)
    story.connect(10, last_octet=2)
    fold(window, story)

    found = destinations_of(window, lineage(window, story.uid(10)))

    assert [d.ip for d in found] == ["203.0.113.2"]


def test_a_process_that_scans_pushes_out_its_own_contacts_only() -> None:
    table = DestinationTable(max_per_host=100, max_per_process=10)
    table.add(b"quiet", Remote(b"\0\0\0\1", 443, "tcp"), 1, 1, opened=True)

    for port in range(1000):
        table.add(b"scanner", Remote(b"\0\0\0\2", port, "tcp"), 2, 2, opened=True)

    assert len(table.of(b"quiet", 0)) == 1
    assert [remote.port for remote, _ in table.of(b"scanner", 0)] == list(range(990, 1000))
    assert table.evicted_total == 990


@given(
    contacts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(0, 5)), max_size=200),
    max_per_host=st.integers(1, 20),
)
def test_destinations_stay_within_both_caps_and_count_what_they_give_up(
    contacts: list[tuple[int, int, int]], max_per_host: int
) -> None:
    table = DestinationTable(max_per_host=max_per_host, max_per_process=7)
    now = 0
    for process, port, passed in contacts:
        now += passed
        table.add(b"%d" % process, Remote(b"\0\0\0\1", port, "tcp"), now, now, opened=True)
        table.expire(now - 10)

        held = [len(table.of(b"%d" % p, 0)) for p in range(10)]
        assert len(table) == sum(held) <= max_per_host
        assert max(held) <= 7
    table.expire(now + 1)
    assert len(table) == 0


@dataclass
class Model:
    """The promise in its plainest form: every process ever, and which of them must be held."""

    parents: dict[int, int]
    ended: dict[int, int]

    def held(self, now: int, window: int) -> set[int]:
        """Running, ended within the window, or an ancestor of one of these."""
        held = {pid for pid in self.parents if self.ended.get(pid, now) >= now - window}
        for pid in list(held):
            while (pid := self.parents[pid]) in self.parents:
                held.add(pid)
        return held


@settings(max_examples=300)
@given(steps=st.lists(st.tuples(st.sampled_from(["fork", "exit", "wait"]), st.integers(0, 50)), max_size=80))
def test_the_table_holds_exactly_what_is_promised(steps: list[tuple[str, int]]) -> None:
    table, model, now = ProcessTable(), Model({1: 0}, {}), 0
    table.add(ProcessEntry(b"1", 1, 0, b"0", 0), 0)
    for what, choice in steps:
        running = [pid for pid in model.parents if pid not in model.ended]
        if what == "wait":
            now += choice
        elif what == "fork" and running:
            parent, child = running[choice % len(running)], len(model.parents) + 1
            model.parents[child] = parent
            table.add(ProcessEntry(b"%d" % child, child, parent, b"%d" % parent, now), now)
        elif what == "exit" and running:
            pid = running[choice % len(running)]
            model.ended[pid] = now
            entry = table.get(b"%d" % pid)
            assert entry is not None
            table.end(entry, now)
        table.expire(now - 100)

        assert {entry.pid for entry in table.entries()} == model.held(now, 100)


@settings(max_examples=200)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["fork", "exit", "wait"]), st.integers(0, 50)), max_size=120),
    cap=st.integers(1, 12),
)
def test_the_table_stays_within_its_cap_and_forgets_the_dead_before_the_living(
    steps: list[tuple[str, int]], cap: int
) -> None:
    table, now, pids = ProcessTable(cap), 0, 0
    for what, choice in steps:
        entries = table.entries()
        running = [entry for entry in entries if not entry.exit_unix_ns]
        now += 1
        if what == "wait":
            now += choice
        elif what == "fork":
            pids += 1
            parent = entries[choice % len(entries)].uid if entries else b""
            table.add(ProcessEntry(b"%d" % pids, pids, 0, parent, now), now)
            left = {entry.uid for entry in table.entries()}
            if len(entries) > len(running):
                assert {entry.uid for entry in running} <= left
        elif running:
            table.end(running[choice % len(running)], now)
        table.expire(now - 100)

        assert len(table) <= cap
        assert all(entry.children >= 0 for entry in table.entries())


def test_what_was_seen_is_known_per_epoch_and_lane() -> None:
    marks = LaneMarks()

    assert marks.admit(ORIGIN, 5, 9) == (0, 0)
    assert marks.admit(ORIGIN, 8, 12) == (2, 0)
    assert marks.admit(ORIGIN, 16, 16) == (0, 3)
    assert marks.admit(ORIGIN, 1, 3) == (3, 0)
    assert marks.has_seen(ORIGIN, 16)
    assert not marks.has_seen(ORIGIN, 17)
    assert not marks.has_seen(Origin("epoch", 1), 1)
    assert not marks.has_seen(Origin("other", 0), 1)


def test_epochs_are_remembered_up_to_a_cap() -> None:
    marks = LaneMarks()

    for number in range(MAX_ORIGINS + 1):
        marks.admit(Origin(str(number), 0), 1, 1)

    assert Origin("0", 0) not in marks
    assert Origin("1", 0) in marks


def test_the_window_is_a_quarter_of_an_hour() -> None:
    assert WINDOW_NS == 15 * MINUTE_S * S
