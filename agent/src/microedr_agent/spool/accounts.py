"""What became of every event: acknowledged, given up, or still to be sent. Pure; the writer keeps it on disk.

For each epoch and lane there is one position: all up to it is accounted for. Events given up beyond
it are ``Loss`` ranges. A loss stays on record until a LossRecord that reports it is durable and the
position has passed it, so that no stop, at whatever moment, loses the fact or tells it twice.
"""

import enum
import struct
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from microedr_agent.errors import SpoolFormatError
from microedr_agent.spool.segment import checksum

FILE_NAME = "accounts"
MAX_LOSSES = 4096
"""On record at once. Beyond it the oldest reported ones go first: they would only be told again."""
_MAGIC = b"MEAC"
_VERSION = 1
_HEADER = struct.Struct("<4sIHHQII")
_POSITION = struct.Struct("<16sBQ")
_LOSS = struct.Struct("<16sBQQBB")
_UNCHECKED_BYTES = 8


class LaneKey(NamedTuple):
    """One dense sequence: a lane of an epoch."""

    epoch: uuid.UUID
    lane: int


class LossReason(enum.IntEnum):
    """The contract's numbers (``microedr.v1.LossReason``), without loading protobuf for them."""

    EVICTED = 2
    SPOOL_CORRUPT = 3
    REFUSED = 4
    DISK_ERROR = 6


@dataclass(frozen=True, slots=True)
class Loss:
    """Events that will never be sent, from ``first_seq`` to ``last_seq``, both included."""

    key: LaneKey
    first_seq: int
    last_seq: int
    reason: LossReason
    detail: str = ""
    """For a person; not kept over a restart."""
    reported: bool = False
    """A LossRecord that tells of it is durable."""

    @property
    def count(self) -> int:
        """How many events."""
        return self.last_seq - self.first_seq + 1


@dataclass(slots=True)
class Accounts:
    """The account of one spool."""

    next_number: int = 1
    """Of the next segment; never used twice."""
    positions: dict[LaneKey, int] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    _may_grow: bool = False

    def position(self, key: LaneKey) -> int:
        """All up to this sequence is accounted for."""
        return self.positions.get(key, 0)

    def acknowledge(self, key: LaneKey, through_seq: int) -> int:
        """Account for everything up to ``through_seq``; returns how many events that newly acknowledges."""
        open_before = sum(last - first + 1 for first, last in self.open_ranges(key, 1, through_seq))
        if through_seq > self.position(key):
            self.positions[key] = through_seq
        self._settle(key)
        return open_before

    def give_up(
        self, key: LaneKey, first_seq: int, last_seq: int, reason: LossReason, detail: str = ""
    ) -> tuple[Loss, ...]:
        """Account for what is still open between these sequences as lost; returns what was."""
        found = tuple(
            Loss(key, first, last, reason, detail) for first, last in self.open_ranges(key, first_seq, last_seq)
        )
        for loss in found:
            self._add(loss)
        self._settle(key)
        return found

    def open_ranges(self, key: LaneKey, first_seq: int, last_seq: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that are neither acknowledged nor given up."""
        at = max(first_seq, self.position(key) + 1)
        for loss in sorted((loss for loss in self.losses if loss.key == key), key=lambda loss: loss.first_seq):
            if loss.last_seq < at:
                continue
            if loss.first_seq > last_seq:
                break
            if loss.first_seq > at:
                yield at, loss.first_seq - 1
            at = loss.last_seq + 1
        if at <= last_seq:
            yield at, last_seq

    def open_count(self, key: LaneKey, first_seq: int, last_seq: int) -> int:
        """How many events of a range are still to be sent."""
        return sum(last - first + 1 for first, last in self.open_ranges(key, first_seq, last_seq))

    def take_unreported(self) -> tuple[Loss, ...]:
        """Losses of which no durable LossRecord tells. They grow no more; later ones are told apart."""
        self._may_grow = False
        return tuple(loss for loss in self.losses if not loss.reported)

    def mark_reported(self, told: Collection[Loss]) -> None:
        """LossRecords of these, as taken, are durable."""
        known = set(told)
        self.losses = [replace(loss, reported=True) if loss in known else loss for loss in self.losses]
        for key in {loss.key for loss in known}:
            self._settle(key)

    def forget_all_but(self, alive: Collection[LaneKey]) -> None:
        """Drop positions and reported losses of epochs that have no segment any more."""
        telling = {loss.key for loss in self.losses if not loss.reported}
        self.positions = {key: seq for key, seq in self.positions.items() if key in alive or key in telling}
        self.losses = [loss for loss in self.losses if not loss.reported or loss.key in alive]

    def _add(self, loss: Loss) -> None:
        last = self.losses[-1] if self.losses else None
        if (
            last is not None
            and self._may_grow
            and (last.key, last.reason, last.detail, last.reported) == (loss.key, loss.reason, loss.detail, False)
            and last.last_seq + 1 == loss.first_seq
        ):
            self.losses[-1] = replace(last, last_seq=loss.last_seq)
            return
        self.losses.append(loss)
        self._may_grow = True
        if len(self.losses) > MAX_LOSSES:
            reported = next((index for index, old in enumerate(self.losses) if old.reported), 0)
            del self.losses[reported]

    def _settle(self, key: LaneKey) -> None:
        """Move the position over losses that follow it, and drop those that it passed and that are told."""
        position = self.position(key)
        for loss in sorted((loss for loss in self.losses if loss.key == key), key=lambda loss: loss.first_seq):
            if loss.first_seq <= position + 1:
                position = max(position, loss.last_seq)
        if position:
            self.positions[key] = position
        self.losses = [loss for loss in self.losses if loss.key != key or not loss.reported or loss.last_seq > position]


def encode_accounts(accounts: Accounts) -> bytes:
    """The accounts file."""
    body = b"".join(
        (
            *(_POSITION.pack(key.epoch.bytes, key.lane, seq) for key, seq in accounts.positions.items()),
            *map(_encode_loss, accounts.losses),
        )
    )
    head = _HEADER.pack(_MAGIC, 0, _VERSION, 0, accounts.next_number, len(accounts.positions), len(accounts.losses))
    checked = head[_UNCHECKED_BYTES:] + body
    return _MAGIC + checksum(checked) + checked


def decode_accounts(data: bytes) -> Accounts:
    """What ``encode_accounts`` made.

    Raises:
        SpoolFormatError: It is damaged or of another version.
    """
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise SpoolFormatError("does not begin as an accounts file")
    if checksum(data[_UNCHECKED_BYTES:]) != data[4:_UNCHECKED_BYTES]:
        raise SpoolFormatError("the CRC32C of the accounts differs")
    _, _, version, _, next_number, positions, losses = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise SpoolFormatError(f"accounts version {version}, known is {_VERSION}")
    if len(data) != _HEADER.size + positions * _POSITION.size + losses * _LOSS.size:
        raise SpoolFormatError("the accounts are not as long as they say")
    body = data[_HEADER.size :]
    at = positions * _POSITION.size
    made = Accounts(next_number)
    for epoch, lane, seq in _POSITION.iter_unpack(body[:at]):
        made.positions[LaneKey(uuid.UUID(bytes=epoch), lane)] = seq
    made.losses.extend(_decode_losses(body[at:]))
    return made


def _encode_loss(loss: Loss) -> bytes:
    return _LOSS.pack(loss.key.epoch.bytes, loss.key.lane, loss.first_seq, loss.last_seq, loss.reason, loss.reported)


def _decode_losses(data: bytes) -> Iterable[Loss]:
    for epoch, lane, first, last, reason, reported in _LOSS.iter_unpack(data):
        try:
            yield Loss(LaneKey(uuid.UUID(bytes=epoch), lane), first, last, LossReason(reason), reported=bool(reported))
        except ValueError as error:
            raise SpoolFormatError(f"loss reason {reason} is not known") from error
