"""What a spool holds when the sensor starts: whole frames, and what is missing between them.

Nothing is repaired in place. A segment that the last run left is only ever read and, once all of it
is accounted for, removed; a torn tail or a damaged middle is simply not part of what is promised.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from microedr_agent.errors import SpoolFormatError
from microedr_agent.spool.accounts import FILE_NAME, Accounts, LaneKey, LossReason, decode_accounts
from microedr_agent.spool.segment import (
    HEADER_BYTES,
    Damage,
    ScannedFrame,
    Seal,
    SegmentName,
    parse_name,
    read_segment_header,
    scan_frames,
)


@dataclass(slots=True)
class Run:
    """Whole frames one after the other, their sequences without a gap."""

    begin_bytes: int
    end_bytes: int
    first_seq: int
    last_seq: int


@dataclass(slots=True)
class Segment:
    """One file and the frames in it that are durable."""

    name: SegmentName
    path: Path
    size_bytes: int
    runs: list[Run] = field(default_factory=list)
    sealed: bool = False
    sealed_seq: int = 0
    """The last sequence, as the seal says; 0 without one."""

    @property
    def key(self) -> LaneKey:
        """The sequence its frames belong to."""
        return LaneKey(self.name.epoch, self.name.lane)

    @property
    def last_seq(self) -> int:
        """Of its last durable frame; 0 when it has none."""
        return self.runs[-1].last_seq if self.runs else 0


@dataclass(slots=True)
class Recovered:
    """The state a writer starts from."""

    accounts: Accounts
    segments: list[Segment]
    """In the order they were written."""
    problems: list[str]
    """Damage, for the log."""


def recover(directory: Path) -> Recovered:
    """Read accounts and segments of ``directory``; what is missing is entered into the accounts as lost.

    Raises:
        OSError: The directory cannot be read. A single file that cannot be counts as damaged.
    """
    problems: list[str] = []
    accounts = _read_accounts(directory / FILE_NAME, problems)
    known = accounts is not None
    accounts = accounts or Accounts()
    segments = [_read_segment(name, path, problems) for name, path in list_segments(directory)]
    accounts.next_number = max([accounts.next_number, *(segment.name.number + 1 for segment in segments)])
    for key in dict.fromkeys(segment.key for segment in segments):
        of_key = [segment for segment in segments if segment.key == key]
        if not known:
            # What came before was acknowledged or given up; which of the two cannot be told any more.
            accounts.positions[key] = min((run.first_seq for segment in of_key for run in segment.runs), default=1) - 1
        _enter_gaps(accounts, key, of_key)
    return Recovered(accounts, segments, problems)


def list_segments(directory: Path) -> list[tuple[SegmentName, Path]]:
    """The segments of a spool in the order they were written; other files are left alone."""
    found = ((parse_name(path.name), path) for path in directory.iterdir())
    return sorted(((name, path) for name, path in found if name is not None), key=lambda pair: pair[0].number)


def scan_file(path: Path, name: SegmentName) -> Iterator[ScannedFrame | Damage | Seal]:
    """All of a segment file behind its header, mapped rather than read: memory stays small.

    Raises:
        SpoolFormatError: The header is damaged, or says another name than the file has. The frames can be had
            all the same from ``scan_frames``; their own headers are what counts.
        OSError: The file cannot be read.
    """
    with path.open("rb") as opened:
        if opened.seek(0, 2) == 0:
            raise SpoolFormatError("is empty")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            # Offsets and lengths only leave this block: slices of a map are copies.
            yield from scan_frames(mapped, name)


def check_header(path: Path, name: SegmentName) -> None:
    """Raise ``SpoolFormatError`` unless the file begins as one of this name must."""
    with path.open("rb") as opened:
        header = read_segment_header(opened.read(HEADER_BYTES))
    if (header.number, header.lane, header.epoch) != (name.number, name.lane, name.epoch):
        raise SpoolFormatError("the header says another segment than the file's name")


def _read_accounts(path: Path, problems: list[str]) -> Accounts | None:
    try:
        return decode_accounts(path.read_bytes())
    except FileNotFoundError:
        return None
    except (SpoolFormatError, OSError) as error:
        # Everything in the spool is sent once more; consumers know what they have.
        problems.append(f"{path.name}: {error}")
        return None


def _read_segment(name: SegmentName, path: Path, problems: list[str]) -> Segment:
    segment = Segment(name, path, 0)
    try:
        segment.size_bytes = path.stat().st_size
        if segment.size_bytes == 0:
            return segment
        try:
            check_header(path, name)
        except SpoolFormatError as error:
            problems.append(f"{path.name}: {error}")
        for found in scan_file(path, name):
            _enter(segment, found, problems)
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}")
    return segment


def _enter(segment: Segment, found: ScannedFrame | Damage | Seal, problems: list[str]) -> None:
    match found:
        case Seal():
            segment.sealed = True
            segment.sealed_seq = found.last_seq
        case Damage():
            if not found.at_end:
                problems.append(f"{segment.path.name}: bytes {found.offset_bytes} to {found.end_bytes} are damaged")
        case ScannedFrame():
            last = segment.runs[-1] if segment.runs else None
            header = found.header
            if last and last.end_bytes == found.offset_bytes and last.last_seq + 1 == header.first_seq:
                last.end_bytes, last.last_seq = found.end_bytes, header.last_seq
            else:
                segment.runs.append(Run(found.offset_bytes, found.end_bytes, header.first_seq, header.last_seq))


def _enter_gaps(accounts: Accounts, key: LaneKey, segments: list[Segment]) -> None:
    """Sequences are dense, so whatever no segment of this epoch and lane holds is lost.

    The end of an epoch is known when its last segment is sealed. Without a seal, damage at the very end
    cannot be told from the write that was under way, which was never promised.
    """
    reached = accounts.position(key)
    for segment in segments:
        for run in segment.runs:
            if run.first_seq > reached + 1:
                accounts.give_up(key, reached + 1, run.first_seq - 1, LossReason.SPOOL_CORRUPT, segment.path.name)
            reached = max(reached, run.last_seq)
        if segment.sealed_seq > reached:
            accounts.give_up(key, reached + 1, segment.sealed_seq, LossReason.SPOOL_CORRUPT, segment.path.name)
            reached = segment.sealed_seq
