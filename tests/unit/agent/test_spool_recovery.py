"""Damage costs the damaged frames and nothing else, wherever it is; a killed writer's promises are kept."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr.frame import FIRST_CHAIN, seal
from microedr_agent.errors import SpoolFormatError
from microedr_agent.spool.accounts import (
    FILE_NAME,
    Accounts,
    LaneKey,
    Loss,
    LossReason,
    decode_accounts,
    encode_accounts,
)
from microedr_agent.spool.disk import Disk
from microedr_agent.spool.holdings import Holdings
from microedr_agent.spool.recovery import recover, scan_file
from microedr_agent.spool.segment import (
    HEADER_BYTES,
    Damage,
    ScannedFrame,
    Seal,
    SegmentName,
    parse_name,
    scan_frames,
)
from microedr_agent.spool.writer import SpoolWriter
from support.spools import MIB, append, batch, fill, lost, read_all, sequences

COUNTS = (1, 3, 2, 4, 1)
"""Events of each frame in the small segment that is damaged."""


def small_segment(directory: Path, *, sealed: bool) -> tuple[SegmentName, Path, list[ScannedFrame]]:
    writer = SpoolWriter.open(directory, MIB)
    for count in COUNTS:
        append(writer, count)
        writer.commit()
    if sealed:
        writer.close()
    else:
        os.close(writer._lock_fd)  # as a killed process leaves it
    (path,) = directory.glob("*.seg")
    name = parse_name(path.name)
    assert name is not None
    return name, path, [found for found in scan_file(path, name) if isinstance(found, ScannedFrame)]


def recovered(directory: Path) -> tuple[set[int], set[int]]:
    """Sequences of the one old epoch: what can be read, and what is told as lost."""
    state = recover(directory)
    active = LaneKey(uuid.uuid4(), 0)
    extents = Holdings(directory, state, active, disk=Disk()).extents()
    readable = [seq for _, seq in sequences(read_all(directory, extents))]
    told = [seq for loss in state.accounts.losses for seq in range(loss.first_seq, loss.last_seq + 1)]
    assert len(readable) == len(set(readable))
    assert len(told) == len(set(told))
    return set(readable), set(told)


def test_a_torn_tail_at_any_byte_costs_only_the_torn_frame(tmp_path: Path) -> None:
    _name, path, frames = small_segment(tmp_path, sealed=False)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        expected = {
            seq
            for frame in frames
            if frame.end_bytes <= size
            for seq in range(frame.header.first_seq, frame.header.last_seq + 1)
        }
        readable, told = recovered(tmp_path)

        assert (size, readable, told) == (size, expected, set())


@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_byte_anywhere_costs_at_most_its_frame_and_is_told(tmp_path: Path, *, sealed: bool) -> None:
    _name, path, frames = small_segment(tmp_path, sealed=sealed)
    whole = path.read_bytes()
    everything = set(range(1, sum(COUNTS) + 1))
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= random.randrange(1, 256)  # noqa: S311 - any other value
        path.write_bytes(damaged)
        hit = {
            seq
            for frame in frames
            if frame.offset_bytes <= offset < frame.end_bytes
            for seq in range(frame.header.first_seq, frame.header.last_seq + 1)
        }
        readable, told = recovered(tmp_path)

        assert (offset, readable) == (offset, everything - hit)
        # Without a seal, damage to the last frame cannot be told from a write that was under way.
        is_last = not sealed and offset >= frames[-1].offset_bytes
        assert (offset, told) == (offset, set() if is_last else hit)


def test_a_loss_is_told_once_however_often_the_sensor_starts(tmp_path: Path) -> None:
    _name, path, frames = small_segment(tmp_path, sealed=True)
    content = bytearray(path.read_bytes())
    content[frames[1].offset_bytes + 60] ^= 1
    path.write_bytes(content)

    first = SpoolWriter.open(tmp_path, MIB)
    assert [(loss.first_seq, loss.last_seq) for loss in first.take_losses()] == [(2, 4)]
    append(first)
    first.losses_reported(1)
    first.commit()
    first.close()

    with closing(SpoolWriter.open(tmp_path, MIB)) as second:
        assert second.take_losses() == ()
        assert {seq for epoch, seq in sequences(read_all(tmp_path, second.extents())) if epoch != first.epoch_id} == {
            1,
            *range(5, 12),
        }


def test_a_missing_segment_is_told(tmp_path: Path) -> None:
    writer = SpoolWriter.open(tmp_path, MIB)
    fill(writer, frames=30, padding=8000)
    writer.close()
    paths = sorted(tmp_path.glob("*.seg"))
    name = parse_name(paths[1].name)
    assert name is not None
    missing = {
        seq
        for found in scan_file(paths[1], name)
        if isinstance(found, ScannedFrame)
        for seq in range(found.header.first_seq, found.header.last_seq + 1)
    }
    paths[1].unlink()

    readable, told = recovered(tmp_path)

    assert told == missing
    assert readable == set(range(1, 31)) - missing


def test_damaged_accounts_send_everything_again_and_invent_no_loss(tmp_path: Path) -> None:
    writer = SpoolWriter.open(tmp_path, MIB)
    fill(writer, frames=30, padding=8000)
    writer.acknowledge(writer.epoch, 0, 20)
    writer.close()
    (tmp_path / FILE_NAME).write_bytes(b"nonsense")

    readable, told = recovered(tmp_path)

    assert told == set()
    assert readable >= set(range(21, 31))


def test_bytes_of_an_event_that_look_like_a_frame_never_become_one(tmp_path: Path) -> None:
    name, path, frames = small_segment(tmp_path, sealed=True)
    whole = path.read_bytes()
    forged = seal(
        batch(2, 3), lane=0, epoch=uuid.uuid4(), first_seq=2, count=3, sealed_unix_ns=1, previous_chain=FIRST_CHAIN
    )
    at = frames[1].offset_bytes
    path.write_bytes(whole[:at] + b"xx" + forged.sealed + whole[frames[1].end_bytes :])

    found = list(scan_file(path, name))

    assert [item.header.first_seq for item in found if isinstance(item, ScannedFrame)] == [1, 5, 7, 11]


@given(data=st.binary(max_size=400))
def test_any_bytes_can_be_scanned_and_every_byte_is_told_of(data: bytes) -> None:
    name = SegmentName(1, 0, uuid.UUID(int=1))
    at = HEADER_BYTES
    for found in scan_frames(bytes(HEADER_BYTES) + data, name):
        assert isinstance(found, Damage)
        assert found.offset_bytes == at
        at = found.end_bytes
    assert at == HEADER_BYTES + len(data)


keys = st.builds(LaneKey, st.uuids(), st.integers(0, 255))


@st.composite
def any_accounts(draw: st.DrawFn) -> Accounts:
    made = Accounts(draw(st.integers(1, 2**63)))
    for key in draw(st.lists(keys, max_size=3, unique=True)):
        made.positions[key] = draw(st.integers(0, 2**40))
        for _ in range(draw(st.integers(0, 3))):
            first = draw(st.integers(1, 2**40))
            last = first + draw(st.integers(0, 1000))
            made.losses.append(Loss(key, first, last, draw(st.sampled_from(LossReason)), "", draw(st.booleans())))
    return made


@given(accounts=any_accounts())
def test_accounts_come_out_as_they_went_in(accounts: Accounts) -> None:
    assert decode_accounts(encode_accounts(accounts)) == accounts


@given(accounts=any_accounts(), data=st.data())
def test_accounts_with_a_flipped_byte_are_refused(accounts: Accounts, data: st.DataObject) -> None:
    raw = bytearray(encode_accounts(accounts))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(SpoolFormatError):
        decode_accounts(bytes(raw))


CHILD = """
import sys
from pathlib import Path
from support.spools import MIB, append
from microedr_agent.spool.writer import SpoolWriter

writer = SpoolWriter.open(Path(sys.argv[1]), MIB)
for loss in writer.take_losses():
    print("lost", loss.key.epoch, loss.first_seq, loss.last_seq, flush=True)
step = 0
while True:
    step += 1
    append(writer, count=1 + step % 3, padding=2000)
    for extent in writer.commit():
        print("promised", extent.epoch, extent.first_seq, extent.last_seq, flush=True)
    if step % 7 == 0:
        through = writer.next_seq // 2
        if writer.acknowledge(writer.epoch, 0, through):
            print("acked", writer.epoch, through, through, flush=True)
"""


def run_and_kill(directory: Path, seed: int) -> list[list[str]]:
    """A real writer, killed at a random moment; what it said until then."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, cwd="tests")
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.25))  # noqa: S311 - any moment
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.stdout.close()
    child.wait()
    return [line.split() for line in (first + rest).decode().splitlines() if len(line.split()) == 4]


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_keeps_every_promise(tmp_path: Path, seed: int) -> None:
    promised: set[tuple[str, int]] = set()
    excused: set[tuple[str, int]] = set()
    for round_number in range(3):
        for what, epoch, first, last in run_and_kill(tmp_path, seed * 10 + round_number):
            begin = 1 if what == "acked" else int(first)
            covered = {(epoch, seq) for seq in range(begin, int(last) + 1)}
            if what == "promised":
                promised |= covered
            else:
                excused |= covered
    with closing(SpoolWriter.open(tmp_path, 64 * MIB)) as writer:
        found = read_all(tmp_path, writer.extents())
        for loss in writer.take_losses():
            assert loss.reason is not LossReason.SPOOL_CORRUPT
            excused |= {(str(loss.key.epoch), seq) for seq in range(loss.first_seq, loss.last_seq + 1)}

    assert promised
    assert lost(found) == []
    assert promised - excused - set(sequences(found)) == set()


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.root
def test_on_a_disk_that_is_really_full_the_sensor_goes_on_and_the_ledger_balances(tmp_path: Path) -> None:
    clock_s = 0.0
    with small_disk(tmp_path / "disk", "600k") as disk:
        writer = SpoolWriter.open(disk, 16 * MIB, clock=lambda: clock_s)
        for _ in range(300):
            append(writer, padding=8000)
            writer.commit()
            clock_s += 31
        statistics = writer.statistics()
        left = {seq for _, seq in sequences(read_all(disk, writer.extents()))}
        told = {seq for loss in writer.take_losses() for seq in range(loss.first_seq, loss.last_seq + 1)}
        writer.close()

        assert statistics.io_errors_total > 0
        assert statistics.evicted_total > 0
        assert statistics.emitted_total == 300 == statistics.epoch_pending_events + statistics.evicted_total
        assert left | told | set(range(300 - statistics.unsynced_events + 1, 301)) == set(range(1, 301))
        assert left & told == set()


def test_the_seal_says_what_came_before_it(tmp_path: Path) -> None:
    name, path, frames = small_segment(tmp_path, sealed=True)

    *_, seal = scan_file(path, name)

    assert seal == Seal(len(frames), sum(COUNTS), frames[-1].chain)
