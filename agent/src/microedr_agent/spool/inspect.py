"""What an operator asks of a spool: list, verify, dump. Reads only, also while the agent runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from microedr.frame import FIRST_CHAIN, FrameError, continues, open_frame
from microedr_agent.errors import SpoolError, SpoolFormatError
from microedr_agent.spool.accounts import FILE_NAME, Accounts, LaneKey, decode_accounts
from microedr_agent.spool.recovery import check_header, list_segments, scan_file
from microedr_agent.spool.segment import Damage, ScannedFrame, Seal, SegmentName

_SOUND, _DAMAGED = 0, 1


def list_spool(directory: Path, out: TextIO) -> int:
    """One line a segment, then what is still to be sent."""
    accounts = _accounts(directory)
    pending = 0
    for name, path in _segments(directory):
        frames = [found for found in scan_file(path, name) if isinstance(found, ScannedFrame)]
        key = LaneKey(name.epoch, name.lane)
        still = sum(accounts.open_count(key, frame.header.first_seq, frame.header.last_seq) for frame in frames)
        pending += still
        span = f"{frames[0].header.first_seq}-{frames[-1].header.last_seq}" if frames else "-"
        size = path.stat().st_size
        out.write(f"{path.name}  {size:>9} bytes  {len(frames):>5} frames  events {span}  to send {still}\n")
    for loss in accounts.losses:
        told = "told" if loss.reported else "not told yet"
        what = f"{loss.key.epoch}/{loss.key.lane} {loss.first_seq}-{loss.last_seq}"
        out.write(f"lost {what}: {loss.reason.name.lower()}, {told}\n")
    out.write(f"{pending} events to send\n")
    return _SOUND


def verify_spool(directory: Path, out: TextIO) -> int:
    """Every checksum and every link of the chains; 1 when something is damaged."""
    status = _SOUND
    chains: dict[LaneKey, bytes] = {}
    for name, path in _segments(directory):
        key = LaneKey(name.epoch, name.lane)
        for problem in _problems(path, name, key, chains):
            status = _DAMAGED
            out.write(f"{path.name}: {problem}\n")
    out.write("the spool is damaged\n" if status else "the spool is sound\n")
    return status


def dump_spool(directory: Path, out: TextIO) -> int:
    """Every event that can be read, as JSON; what can not is left out and counted in ``verify``."""
    from google.protobuf.json_format import MessageToJson  # noqa: PLC0415 - heavy, and for this command only

    from microedr.batch import BatchError, decode_batch  # noqa: PLC0415 - as above

    for name, path in _segments(directory):
        for sealed in _sealed(path, name):
            try:
                events = decode_batch(open_frame(sealed)[1]).events
            except (FrameError, BatchError) as error:
                out.write(f'{{"unreadable": "{path.name}: {error}"}}\n')
                continue
            for event in events:
                text = MessageToJson(event, preserving_proto_field_name=True, indent=None)
                out.write(f"{text}\n")
    return _SOUND


def _segments(directory: Path) -> list[tuple[SegmentName, Path]]:
    try:
        return list_segments(directory)
    except OSError as error:
        raise SpoolError(f"spool.dir: {directory}: {error.strerror}") from error


def _accounts(directory: Path) -> Accounts:
    try:
        return decode_accounts((directory / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return Accounts()
    except OSError as error:
        raise SpoolError(f"{directory / FILE_NAME}: {error.strerror}") from error


def _problems(path: Path, name: SegmentName, key: LaneKey, chains: dict[LaneKey, bytes]) -> Iterator[str]:
    try:
        check_header(path, name)
    except SpoolFormatError as error:
        yield str(error)
    frames = 0
    for found in scan_file(path, name):
        match found:
            case Damage():
                what = "torn tail" if found.at_end else "damaged"
                yield f"{what}: bytes {found.offset_bytes} to {found.end_bytes}"
                chains.pop(key, None)
            case Seal():
                if found.frames != frames:
                    yield f"sealed with {found.frames} frames, {frames} are there"
            case ScannedFrame():
                frames += 1
                sealed = _read(path, found)
                first = FIRST_CHAIN if found.header.first_seq == 1 else None
                expected = chains.get(key, first)
                if expected is not None and not continues(sealed, expected):
                    yield f"the frame at byte {found.offset_bytes} does not follow the one before it"
                chains[key] = found.chain


def _sealed(path: Path, name: SegmentName) -> Iterator[bytes]:
    for found in scan_file(path, name):
        if isinstance(found, ScannedFrame):
            yield _read(path, found)


def _read(path: Path, frame: ScannedFrame) -> bytes:
    with path.open("rb") as opened:
        opened.seek(frame.offset_bytes)
        return opened.read(frame.header.sealed_bytes)
