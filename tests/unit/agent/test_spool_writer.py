"""What was promised is there after a restart, each event is accounted for, and no disk stops the sensor."""

import errno
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microedr.frame import FIRST_CHAIN, continues
from microedr.v1 import event_pb2
from microedr_agent.errors import SpoolLockedError
from microedr_agent.ipc_messages import SpoolRefusal
from microedr_agent.spool.accounts import LossReason
from microedr_agent.spool.reader import OutgoingFrame
from microedr_agent.spool.segment import parse_name
from microedr_agent.spool.writer import MAX_WAITING_BYTES, SpoolStatistics, SpoolWriter
from support.spools import MIB, Clock, FailingDisk, append, fill, read_all, sequences


def segments(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if parse_name(path.name))


def assert_balanced(statistics: SpoolStatistics) -> None:
    assert statistics.emitted_total == (
        statistics.acked_total
        + statistics.epoch_pending_events
        + statistics.evicted_total
        + statistics.refused_total
        + statistics.lost_total
    )


def refusal(writer: SpoolWriter, first: int, last: int, reason: int = LossReason.REFUSED) -> SpoolRefusal:
    return SpoolRefusal(writer.epoch, 0, first, last, reason, "because")


def test_what_is_promised_can_be_read(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        extents = fill(writer, frames=3, count=5)

        assert sequences(read_all(tmp_path, extents)) == [(writer.epoch_id, seq) for seq in range(1, 16)]


def test_nothing_is_promised_before_the_commit(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        append(writer, count=4)

        assert writer.next_seq == 5
        assert list(writer.extents()) == []
        assert writer.commit()[0].last_seq == 4


def test_the_file_and_its_name_are_synced_before_the_promise(tmp_path: Path) -> None:
    disk = FailingDisk()
    with closing(SpoolWriter.open(tmp_path, MIB, disk=disk)) as writer:
        writer.commit()
        disk.done.clear()
        fill(writer, frames=2)

        assert [operation for operation, _ in disk.done] == [
            "create",
            "write",
            "sync",
            "sync_directory",
            "write",
            "sync",
        ]


def test_frames_are_chained_over_segments_and_each_epoch_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        writer = SpoolWriter.open(tmp_path, MIB)
        fill(writer, frames=40, padding=8000)
        extents = [extent for extent in writer.extents() if extent.epoch == writer.epoch]
        writer.close()
        chain = FIRST_CHAIN
        for frame in read_all(tmp_path, extents):
            assert isinstance(frame, OutgoingFrame)
            assert continues(frame.sealed, chain)
            chain = frame.sealed[-32:]


def test_a_restart_keeps_what_was_not_acknowledged_and_begins_a_new_epoch(tmp_path: Path) -> None:
    first = SpoolWriter.open(tmp_path, MIB)
    fill(first, frames=3, count=2)
    first.acknowledge(first.epoch, 0, 2)
    first.close()

    with closing(SpoolWriter.open(tmp_path, MIB)) as second:
        fill(second, frames=1)

        assert second.epoch != first.epoch
        assert sequences(read_all(tmp_path, second.extents())) == [
            *((first.epoch_id, seq) for seq in range(3, 7)),
            (second.epoch_id, 1),
        ]
        assert second.take_losses() == ()


def test_all_acknowledged_leaves_an_empty_spool(tmp_path: Path) -> None:
    writer = SpoolWriter.open(tmp_path, MIB)
    fill(writer, frames=3)
    writer.acknowledge(writer.epoch, 0, 3)
    writer.close()

    assert segments(tmp_path) == []
    assert_balanced(writer.statistics())


def test_the_accounts_are_durable_before_a_segment_is_removed(tmp_path: Path) -> None:
    disk = FailingDisk()
    with closing(SpoolWriter.open(tmp_path, MIB, disk=disk)) as writer:
        fill(writer, frames=30, padding=8000)
        disk.done.clear()
        writer.acknowledge(writer.epoch, 0, 25)
        writer.commit()

        assert [operation for operation, _ in disk.done][:6] == [
            "replace_content",
            "write",
            "sync",
            "close",
            "rename",
            "sync_directory",
        ]
        assert {operation for operation, _ in disk.done[6:]} == {"unlink"}


@pytest.mark.parametrize("operation", ["replace_content", "write", "sync", "rename", "sync_directory"])
def test_no_segment_is_removed_while_the_accounts_cannot_be_written(tmp_path: Path, operation: str) -> None:
    disk = FailingDisk()
    with closing(SpoolWriter.open(tmp_path, MIB, disk=disk)) as writer:
        fill(writer, frames=30, padding=8000)
        before = segments(tmp_path)
        with disk.broken(operation):
            writer.acknowledge(writer.epoch, 0, 30)
            writer.commit()

            assert segments(tmp_path) == before
    assert segments(tmp_path) == []


def test_acknowledging_what_was_never_promised_is_refused(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        fill(writer, frames=2)
        append(writer)

        assert not writer.acknowledge(writer.epoch, 0, 3)
        assert not writer.acknowledge(uuid.uuid4(), 0, 1)
        assert not writer.acknowledge(writer.epoch, 1, 1)
        assert writer.statistics().refused_acks_total == 3
        assert writer.statistics().epoch_pending_events == 3


def test_a_refused_frame_is_a_loss_and_no_longer_pending(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        fill(writer, frames=3, count=2)

        assert writer.refuse(refusal(writer, 3, 4))
        assert not writer.refuse(refusal(writer, 5, 7))
        assert not writer.refuse(refusal(writer, 1, 2, reason=99))
        (loss,) = writer.take_losses()
        assert (loss.first_seq, loss.last_seq, loss.reason, loss.detail) == (3, 4, LossReason.REFUSED, "because")
        assert [seq for _, seq in sequences(read_all(tmp_path, writer.extents()))] == [1, 2, 5, 6]
        writer.acknowledge(writer.epoch, 0, 6)
        assert writer.statistics().acked_total == 4
        assert_balanced(writer.statistics())


def test_a_full_spool_gives_up_its_oldest_segments_and_says_which_events(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)) as writer:
        fill(writer, frames=200, padding=8000)
        statistics = writer.statistics()

        assert statistics.spool_bytes <= MIB
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= MIB
        assert statistics.evicted_total == sum(loss.count for loss in writer.take_losses()) > 0
        assert_balanced(statistics)
        left = [seq for _, seq in sequences(read_all(tmp_path, writer.extents()))]
        assert left == list(range(statistics.evicted_total + 1, 201))


def test_losses_are_told_again_after_a_restart_until_their_records_are_durable(tmp_path: Path) -> None:
    first = SpoolWriter.open(tmp_path, MIB)
    fill(first, frames=200, padding=8000)
    told = first.take_losses()
    assert first.take_losses() == ()
    first.close()

    second = SpoolWriter.open(tmp_path, MIB)
    again = second.take_losses()
    assert sum(loss.count for loss in again) == sum(loss.count for loss in told)
    append(second, count=len(again))
    second.losses_reported(len(again))
    second.commit()
    second.close()

    with closing(SpoolWriter.open(tmp_path, MIB)) as third:
        assert third.take_losses() == ()


@pytest.mark.parametrize("operation", ["create", "write", "sync", "sync_directory"])
def test_after_an_io_error_the_same_events_go_to_a_new_segment(tmp_path: Path, operation: str) -> None:
    disk, clock = FailingDisk(), Clock()
    with closing(SpoolWriter.open(tmp_path, MIB, disk=disk, clock=clock)) as writer:
        if operation in {"write", "sync"}:
            fill(writer, frames=2)
        with disk.broken(operation):
            append(writer, count=3)
            assert writer.commit() == ()
            used = [subject for done, subject in disk.done if done == "sync"]
            assert writer.commit() == (), "it pauses"
            assert [subject for done, subject in disk.done if done == "sync"] == used, "no sync is tried again"
        clock.advance(1)
        append(writer)
        promised = writer.commit()

        assert promised
        expected = [(writer.epoch_id, seq) for seq in range(1, writer.next_seq)]
        assert sequences(read_all(tmp_path, writer.extents())) == expected
        assert writer.statistics().io_errors_total >= 1
        assert writer.take_losses() == ()


def test_while_the_disk_fails_memory_is_bounded_and_the_loss_is_told(tmp_path: Path) -> None:
    disk, clock = FailingDisk(), Clock()
    with closing(SpoolWriter.open(tmp_path, 64 * MIB, disk=disk, clock=clock)) as writer:
        with disk.broken("create"):
            for _ in range(20):
                append(writer, padding=500_000)
                writer.commit()
                clock.advance(60)
        clock.advance(60)
        writer.commit()

        statistics = writer.statistics()
        assert statistics.lost_total == sum(loss.count for loss in writer.take_losses()) > 0
        assert statistics.spool_bytes <= MAX_WAITING_BYTES + 100_000
        assert_balanced(statistics)
        left = [seq for _, seq in sequences(read_all(tmp_path, writer.extents()))]
        assert left == list(range(statistics.lost_total + 1, 21))


def test_a_full_disk_costs_the_oldest_segment_and_the_sensor_goes_on(tmp_path: Path) -> None:
    disk, clock = FailingDisk(), Clock()
    with closing(SpoolWriter.open(tmp_path, MIB, disk=disk, clock=clock)) as writer:
        fill(writer, frames=50, padding=8000)
        before = segments(tmp_path)
        with disk.broken("write", error=errno.ENOSPC):
            append(writer, padding=8000)
            assert writer.commit() == ()
        assert segments(tmp_path) == before[1:]
        clock.advance(1)

        assert writer.commit()
        assert_balanced(writer.statistics())
        assert {loss.reason for loss in writer.take_losses()} == {LossReason.EVICTED}


def test_two_sensors_cannot_write_one_spool(tmp_path: Path) -> None:
    with closing(SpoolWriter.open(tmp_path, MIB)), pytest.raises(SpoolLockedError):
        SpoolWriter.open(tmp_path, MIB)


def test_loss_reasons_are_the_contracts() -> None:
    for reason in LossReason:
        assert int(event_pb2.LossReason.Value(f"LOSS_REASON_{reason.name}")) == int(reason)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_ledger_balances_whatever_happens(  # noqa: C901 - one step of each kind
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    disk, clock = FailingDisk(), Clock()
    writer = SpoolWriter.open(directory, MIB, disk=disk, clock=clock)
    epochs = {writer.epoch_id: 0}
    gone: dict[str, set[int]] = {writer.epoch_id: set()}
    for step in data.draw(
        st.lists(st.sampled_from(["append", "ack", "refuse", "break", "mend", "restart"]), max_size=25)
    ):
        seq = data.draw(st.integers(1, max(1, writer.next_seq)))
        match step:
            case "append":
                append(writer, count=data.draw(st.integers(1, 3)), padding=data.draw(st.sampled_from([0, 100_000])))
                writer.commit()
            case "ack":
                if writer.acknowledge(writer.epoch, 0, seq):
                    gone[writer.epoch_id].update(range(1, seq + 1))
            case "refuse":
                writer.refuse(refusal(writer, seq, seq))
            case "break":
                disk.failing = {data.draw(st.sampled_from(["create", "write", "sync"])): errno.EIO}
            case "mend":
                disk.failing = {}
                clock.advance(60)
            case "restart":
                disk.failing = {}
                clock.advance(60)
                writer.close()
                epochs[writer.epoch_id] = writer.next_seq - 1
                writer = SpoolWriter.open(directory, MIB, disk=disk, clock=clock)
                epochs[writer.epoch_id] = 0
                gone[writer.epoch_id] = set()
        assert_balanced(writer.statistics())
    disk.failing = {}
    clock.advance(60)
    writer.commit()
    epochs[writer.epoch_id] = writer.next_seq - 1
    for loss in writer._holdings.accounts.losses:
        gone.setdefault(str(loss.key.epoch), set()).update(range(loss.first_seq, loss.last_seq + 1))
    seen = sequences(read_all(directory, writer.extents()))
    writer.close()

    assert len(seen) == len(set(seen))
    for epoch, last in epochs.items():
        found = {seq for name, seq in seen if name == epoch}
        assert found | gone[epoch] >= set(range(1, last + 1))
