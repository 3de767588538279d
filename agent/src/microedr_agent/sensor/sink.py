"""Where the sensor's frames go: what it asks of the spool and of the door to the uploader."""

from collections.abc import Sequence
from typing import Protocol

from microedr_agent.sensor.own_events import LossReport


class SinkStatistics(Protocol):
    """The sink's side of the ledger, of this epoch."""

    @property
    def acked_total(self) -> int:
        """Events that the backend has."""

    @property
    def evicted_total(self) -> int:
        """Given up because the spool was full."""

    @property
    def refused_total(self) -> int:
        """Given up because the backend will never take them."""

    @property
    def lost_total(self) -> int:
        """Given up because the disk failed."""

    @property
    def spool_bytes(self) -> int:
        """On disk."""


class EventSink(Protocol):
    """Takes sealed-to-be frames in order. Never raises for a disk or a peer: what is lost is counted and told."""

    @property
    def next_seq(self) -> int:
        """Sequence of the next event to be appended."""

    def append(self, raw: bytes, count: int) -> None:
        """Take a length-prefixed batch whose events are numbered from ``next_seq`` on; grows it by ``count``."""

    def commit(self) -> None:
        """Make what was appended durable, tell the uploader and take its acknowledgements.

        To be called also when nothing was appended: what the disk refused is tried again here. Blocks for the disk.
        """

    def take_losses(self) -> Sequence[LossReport]:
        """What it gave up and nobody was told of yet."""

    def losses_reported(self, through_seq: int) -> None:
        """Those taken so far are told in events up to ``through_seq``."""

    def statistics(self) -> SinkStatistics:
        """Of this moment."""

    def close(self) -> None:
        """Commit and give everything back."""
